"""Aspires to the versions found in local directories, looking again at an interval."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from inserve.clock import Clock, SystemClock
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.source import AspiredVersionsCallback, ServableData
from inserve.sources.poll_thread import PollThread
from inserve.sources.problem_log import ProblemLog
from inserve.sources.servable_to_monitor import MonitorStatus, ServableToMonitor, by_name
from inserve.sources.version_readiness import VersionReadiness, Wait, choose_ready_versions
from inserve.sources.version_selection import VersionChild, version_children

__all__ = ["FileSystemSource"]

_logger = logging.getLogger("inserve.sources")
_LONGEST_DEFAULT_QUIET_PERIOD_S = 1.0
_SHORTEST_SECOND_LOOK_S = 0.01


@dataclass
class _Monitored:
    """What the poll thread knows of one model. *due* is monotonic; None: polled only when asked."""

    config: ServableToMonitor
    readiness: VersionReadiness
    due: float | None
    problems: ProblemLog = field(default_factory=ProblemLog)
    aspired_names: frozenset[str] = frozenset()


class FileSystemSource:
    """Polls base paths and sends, per model, the list of versions its policy asks for.

    All work is done on one thread, ``inserve-file-system-source``: polls never overlap, the callback is only
    called there, and a model's lists arrive in order. *poll_interval_s* above 0 polls that often (a poll
    longer than that is followed by the next at once); 0 polls each model once, when it is added or changed;
    below 0 or None polls only on ``refresh``. A model's own interval takes precedence.

    With *check_complete* a version is aspired to once it is complete (``completeness``) and its files
    have not changed for *quiet_period_s* seconds (default: the poll interval, at most 1 s). Until then it is
    not counted among the versions, so an older one stays; ``status`` tells what it waits for, and a warning
    does if it is more than the quiet period. That does not apply to a model that is polled once, nor on
    ``refresh``: whoever asks has finished writing. A version that is already aspired to is not examined
    again.

    Rules: TensorFlow Serving, ``sources/storage_path/file_system_storage_path_source.cc``, except: each model
    is polled for itself. There, one missing base path holds back the version changes of every model. Here as
    there, a model whose base path is missing keeps its loaded versions until the path is back, and one whose
    base path is empty loses them.
    """

    def __init__(
        self,
        models: Iterable[ServableToMonitor] = (),
        *,
        poll_interval_s: float | None = 1.0,
        check_complete: bool = True,
        quiet_period_s: float | None = None,
        clock: Clock | None = None,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        if quiet_period_s is not None and quiet_period_s < 0:
            raise ValueError(f"quiet_period_s must be at least 0, got {quiet_period_s}")
        self._poll_interval_s = poll_interval_s
        self._check_complete = check_complete
        self._quiet_period_s = quiet_period_s
        self._clock = clock if clock is not None else SystemClock()
        self._wall_time = wall_time
        self._callback: AspiredVersionsCallback[str] | None = None
        self._lock = threading.Lock()
        self._wanted = by_name(models)
        self._status = {name: MonitorStatus(model.base_path) for name, model in self._wanted.items()}
        self._asked: set[str] | None = set()
        self._monitored: dict[str, _Monitored] = {}
        self._thread = PollThread("inserve-file-system-source", self._poll, self._clock)

    def __repr__(self) -> str:
        with self._lock:
            failing = sum(status.error is not None for status in self._status.values())
            return f"<FileSystemSource [{len(self._wanted)} models, {failing} cannot be read]>"

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[str]) -> None:
        """Send aspired versions to *callback*, on the poll thread. Called once, before ``start``."""
        self._callback = callback

    def start(self) -> None:
        """Start polling; the first poll begins at once. Idempotent.

        Raises:
            RuntimeError: no callback was set.
        """
        if self._callback is None:
            raise RuntimeError("set_aspired_versions_callback has to be called before start")
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop polling; return whether the poll in progress ended within *timeout_s*. Idempotent.

        Nothing is un-aspired: unloading is the manager's.
        """
        return self._thread.stop(timeout_s)

    def update(self, models: Iterable[ServableToMonitor]) -> None:
        """Replace the models. Returns at once; the poll thread acts at once.

        Models left out get an empty list; new and changed ones are polled, unless polling is off for them. A
        version number that is aspired to before and after a change of base path stays as loaded.

        Raises:
            ValueError: a name comes twice.
        """
        wanted = by_name(models)
        with self._lock:
            self._wanted = wanted
            self._status = {
                name: self._status.get(name, MonitorStatus(model.base_path)) for name, model in wanted.items()
            }
        self._thread.wake()

    def refresh(self, timeout_s: float | None = None, names: Collection[str] | None = None) -> None:
        """Poll the models called *names* now, every one if None; return after their lists were sent.

        Lists of models removed before were sent by then, too. A model's failure is in ``status``.

        Raises:
            FailedPreconditionError: the source is not started, or this is called from its callback.
            CancelledError: it was stopped meanwhile.
            DeadlineExceededError: *timeout_s* seconds passed; the poll still takes place.
        """
        with self._lock:
            if names is None or self._asked is None:
                self._asked = None
            else:
                self._asked.update(names)
        self._thread.wait_for(self._thread.ask(), timeout_s)

    def status(self) -> dict[str, MonitorStatus]:
        """Return how the last poll of each model went, by name."""
        with self._lock:
            return dict(self._status)

    def _poll(self, asked: bool) -> float | None:
        """Poll the models that are due and those *asked* for; return when the next one is due."""
        asked_names: set[str] | None = set()
        if asked:
            with self._lock:
                asked_names, self._asked = self._asked, set()
        for name in self._take_update():
            self._un_aspire(name)
        for model in list(self._monitored.values()):
            started = self._clock.now()
            if self._thread.stopping:
                break
            is_asked_for = asked_names is None or model.config.name in asked_names
            if is_asked_for or (model.due is not None and model.due <= started):
                try:
                    self._poll_model(model, is_asked_for, started)
                except Exception as error:
                    _logger.exception("The poll of servable %s failed unexpectedly", model.config.name)
                    self._record(model.config, error=f"poll failed: {type(error).__name__}: {error}")
        return min((model.due for model in self._monitored.values() if model.due is not None), default=None)

    def _un_aspire(self, name: str) -> None:
        try:
            self._send(name, [])
        except Exception:
            _logger.exception("Servable %s could not be un-aspired", name)

    def _take_update(self) -> list[str]:
        """Make the models wanted the models monitored; return the names of those removed."""
        with self._lock:
            wanted = self._wanted
        removed = [name for name in self._monitored if name not in wanted]
        monitored: dict[str, _Monitored] = {}
        for name, config in wanted.items():
            model = self._monitored.get(name)
            if model is None or model.config != config:
                interval_s = self._interval_s(config)
                polled = interval_s is not None and interval_s >= 0
                readiness = VersionReadiness(self._clock, self._wall_time)
                problems = ProblemLog() if model is None else model.problems
                same_path = model is not None and model.config.base_path == config.base_path
                names = model.aspired_names if model is not None and same_path else frozenset()
                due = self._clock.now() if polled else None
                model = _Monitored(config, readiness, due, problems, names)
            monitored[name] = model
        self._monitored = monitored
        return removed

    def _interval_s(self, config: ServableToMonitor) -> float | None:
        return self._poll_interval_s if config.poll_interval_s is None else config.poll_interval_s

    def _poll_model(self, model: _Monitored, asked: bool, started: float) -> None:
        config = model.config
        interval_s = self._interval_s(config)
        repeats = interval_s is not None and interval_s > 0
        model.due = started + interval_s if interval_s is not None and repeats else None
        try:
            children = version_children(_list_directory(config))
        except OSError as error:
            text = _base_path_problem(config, error)
            model.problems.report(
                [f"FileSystemStoragePathSource encountered a filesystem access error: {text}"]
            )
            self._record(config, error=text)
            return
        quiet_period_s = self._quiet_period(interval_s) if repeats and not asked else 0.0
        ready = choose_ready_versions(
            config.name,
            config.base_path,
            children,
            config.version_policy,
            lambda child: self._wait_for(model, child, quiet_period_s),
        )
        model.readiness.forget_except(_child_path(config, child.name) for child in children)
        waiting = {version: wait.reason for version, wait in sorted(ready.waits.items())}
        model.problems.report(
            [
                *ready.selection.warnings,
                *(
                    f"Version {version} of servable {config.name}: {wait.reason}"
                    for version, wait in sorted(ready.waits.items())
                    if wait.seconds is None
                ),
            ]
        )
        selected = ready.selection.children
        model.aspired_names = frozenset(child.name for child in selected)
        second_looks = [wait.seconds for wait in ready.waits.values() if wait.seconds is not None]
        if model.due is not None and second_looks:
            model.due = min(model.due, started + max(_SHORTEST_SECOND_LOOK_S, min(second_looks)))
        self._record(config, aspired=tuple(child.version for child in selected), waiting=waiting)
        self._send(
            config.name,
            [
                ServableData(ServableId(config.name, child.version), _child_path(config, child.name))
                for child in selected
            ],
        )

    def _wait_for(self, model: _Monitored, child: VersionChild, quiet_period_s: float) -> Wait | None:
        if not self._check_complete or child.name in model.aspired_names:
            return None
        return model.readiness.wait_for(_child_path(model.config, child.name), quiet_period_s)

    def _quiet_period(self, interval_s: float | None) -> float:
        if self._quiet_period_s is not None:
            return self._quiet_period_s
        return min(interval_s or 0.0, _LONGEST_DEFAULT_QUIET_PERIOD_S)

    def _send(self, name: str, versions: list[ServableData[str]]) -> None:
        assert self._callback is not None
        self._callback(name, versions)

    def _record(
        self,
        config: ServableToMonitor,
        *,
        error: str | None = None,
        aspired: tuple[int, ...] | None = None,
        waiting: dict[int, str] | None = None,
    ) -> None:
        with self._lock:
            before = self._status.get(config.name)
            if before is None:
                return
            self._status[config.name] = MonitorStatus(
                config.base_path,
                self._wall_time(),
                error,
                before.aspired_versions if aspired is None else aspired,
                before.waiting if waiting is None else waiting,
            )


def _list_directory(config: ServableToMonitor) -> list[str]:
    return os.listdir(config.base_path)


def _child_path(config: ServableToMonitor, name: str) -> str:
    return f"{config.base_path.rstrip('/')}/{name}"


def _base_path_problem(config: ServableToMonitor, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        cause = f"NOT_FOUND: {config.base_path} not found"
    else:
        cause = f"{config.base_path}; {error.strerror or type(error).__name__}"
    return f"Could not find base path {config.base_path} for servable {config.name} with error {cause}"
