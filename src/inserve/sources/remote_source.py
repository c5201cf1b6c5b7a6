"""Aspires to the versions found in remote stores, after copying them to this machine."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inserve.clock import Clock, SystemClock
from inserve.errors import CancelledError, DataLossError, FailedPreconditionError, InserveError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.source import AspiredVersionsCallback, ServableData
from inserve.sources.base_path import redacted
from inserve.sources.completeness import content_problem, listing_problem
from inserve.sources.directory_snapshot import take_snapshot
from inserve.sources.poll_thread import PollRequest, PollThread
from inserve.sources.problem_log import ProblemLog
from inserve.sources.remote_store import RemoteFile, RemoteStore, require_fsspec
from inserve.sources.servable_to_monitor import MonitorStatus, ServableToMonitor, by_name
from inserve.sources.version_cache import VersionCache
from inserve.sources.version_readiness import Wait, choose_ready_versions
from inserve.sources.version_selection import VersionChild, version_children

__all__ = ["RemoteSource", "RemoteSourceOptions", "default_cache_dir"]

_logger = logging.getLogger("inserve.sources")


@dataclass(frozen=True)
class RemoteSourceOptions:
    """How remote stores are polled and kept.

    *cache_dir* is the local folder for copies (None: the user's cache folder). Models without an interval of
    their own are polled every *poll_interval_s* seconds, give or take the share *poll_jitter* of it, so that
    many servers do not ask at once. *spare_versions* is how many versions per model stay in the cache after
    they are no longer aspired to. *storage_options* maps a scheme (``"s3"``) to the options of its fsspec
    file system.
    """

    cache_dir: str | None = None
    poll_interval_s: float = 60.0
    poll_jitter: float = 0.1
    spare_versions: int = 1
    storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.poll_interval_s <= 0:
            raise ValueError(f"poll_interval_s must be above 0, got {self.poll_interval_s}")
        if not 0 <= self.poll_jitter < 1:
            raise ValueError(f"poll_jitter must be at least 0 and below 1, got {self.poll_jitter}")
        if self.spare_versions < 0:
            raise ValueError(f"spare_versions must be at least 0, got {self.spare_versions}")


class RemoteSource:
    """Polls the base paths that are URLs and sends local paths of copies.

    Each model has a thread of its own, ``inserve-remote-source-<model>``, which also copies: a slow store
    holds back nothing else, and a list is sent once its versions are here. A version that is not copied yet,
    or could not be, is not counted among the versions, so the served one stays. After a failed copy no other
    is begun in that poll. ``status`` and ``refresh`` are as those of ``FileSystemSource``.
    """

    def __init__(
        self,
        models: Iterable[ServableToMonitor] = (),
        *,
        options: RemoteSourceOptions | None = None,
        check_complete: bool = True,
        clock: Clock | None = None,
        wall_time: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._shared = _Shared(
            options if options is not None else RemoteSourceOptions(),
            check_complete,
            self._clock,
            wall_time,
            uniform,
            self._send,
            self._forget,
        )
        self._callback: AspiredVersionsCallback[str] | None = None
        self._lock = threading.Lock()
        self._started = False
        self._stopped = False
        self._models: dict[str, _RemoteModel] = {}
        self.update(models)

    def __repr__(self) -> str:
        status = self.status()
        failing = sum(model.error is not None for model in status.values())
        return f"<RemoteSource [{len(status)} models, {failing} cannot be read]>"

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[str]) -> None:
        """Send aspired versions to *callback*, on the models' threads. Called once, before ``start``."""
        self._callback = callback

    def start(self) -> None:
        """Start polling. Idempotent.

        Raises:
            RuntimeError: no callback was set.
        """
        if self._callback is None:
            raise RuntimeError("set_aspired_versions_callback has to be called before start")
        with self._lock:
            self._started = True
            models = [] if self._stopped else list(self._models.values())
        for model in models:
            model.thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop polling and copying; return whether all threads ended within *timeout_s*. Idempotent.

        A copy in progress ends at its next piece and is gone on with at the next start.
        """
        with self._lock:
            self._stopped = True
            models = list(self._models.values())
        for model in models:
            model.thread.stop(0)
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        ended = True
        for model in models:
            left = None if deadline is None else max(0.0, deadline - self._clock.now())
            if model.thread.stop(left):
                model.release()
            else:
                ended = False
        return ended

    def update(self, models: Iterable[ServableToMonitor]) -> None:
        """Replace the models. Returns at once; their threads act at once.

        Raises:
            ValueError: a name comes twice.
            MissingExtraError: there is a model, and fsspec is not installed.
        """
        wanted = by_name(models)
        if wanted:
            require_fsspec()
        with self._lock:
            added = {
                name: _RemoteModel(self._shared, config)
                for name, config in wanted.items()
                if name not in self._models
            }
            self._models.update(added)
            for name, model in self._models.items():
                model.config = wanted.get(name)
            current = list(self._models.values())
            running = self._started and not self._stopped
        for model in current:
            if running:
                model.thread.start()
            model.thread.wake()

    def refresh(self, timeout_s: float | None = None, names: Collection[str] | None = None) -> None:
        """Poll the models called *names* now, every one if None.

        Returns after their versions were copied and their lists sent.

        Raises:
            FailedPreconditionError: the source is not started, or this is called from its callback.
            CancelledError: it was stopped meanwhile.
            DeadlineExceededError: *timeout_s* seconds passed; polls and copies go on.
        """
        with self._lock:
            models = [
                model
                for name, model in self._models.items()
                if model.config is not None and (names is None or name in names)
            ]
        asked = [(model, model.ask()) for model in models]
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        for model, request in asked:
            left = None if deadline is None else max(0.0, deadline - self._clock.now())
            model.wait_for(request, left)

    def status(self) -> dict[str, MonitorStatus]:
        """Return how the last poll of each model went, by name; a copy in progress is in ``waiting``."""
        with self._lock:
            return {name: model.status for name, model in self._models.items() if model.config is not None}

    def _forget(self, model: _RemoteModel) -> bool:
        """Take the removed *model* out, unless it is wanted again; return whether it is out."""
        with self._lock:
            if model.config is not None:
                return False
            self._models = {name: other for name, other in self._models.items() if other is not model}
            return True

    def _send(self, name: str, versions: list[ServableData[str]]) -> None:
        assert self._callback is not None
        self._callback(name, versions)


@dataclass(frozen=True)
class _Shared:
    """What the models have in common. *forget* takes a removed model out, unless it is wanted again."""

    options: RemoteSourceOptions
    check_complete: bool
    clock: Clock
    wall_time: Callable[[], float]
    uniform: Callable[[float, float], float]
    send: Callable[[str, list[ServableData[str]]], None]
    forget: Callable[[_RemoteModel], bool]


class _RemoteModel:
    """One model: its thread, store and cache. *config* is set by the source; None once it is removed."""

    def __init__(self, shared: _Shared, config: ServableToMonitor) -> None:
        self.config: ServableToMonitor | None = config
        self.status = MonitorStatus(redacted(config.base_path))
        self.thread = PollThread(f"inserve-remote-source-{config.name}", self._poll, shared.clock)
        self._name = config.name
        self._shared = shared
        self._polled: ServableToMonitor | None = None
        self._due: float | None = None
        self._store: RemoteStore | None = None
        self._cache: VersionCache | None = None
        self._aspired: dict[str, str] = {}
        self._asked_for: set[str] = set()
        self._copies_allowed = True
        self._problems = ProblemLog()

    def ask(self) -> PollRequest | None:
        """Ask for a poll, as ``PollThread.ask``; None when the model was removed meanwhile."""
        try:
            return self.thread.ask()
        except FailedPreconditionError:
            if self.config is None:
                return None
            raise

    def wait_for(self, request: PollRequest | None, timeout_s: float | None) -> None:
        """Return once that poll is over, as ``PollThread.wait_for``, or the model was removed."""
        try:
            if request is not None:
                self.thread.wait_for(request, timeout_s)
        except CancelledError:
            if self.config is not None:
                raise

    def release(self) -> None:
        """Let go of the cached versions; the thread has ended."""
        for child in self._aspired:
            assert self._cache is not None
            self._cache.release(child)
        self._aspired = {}

    def _poll(self, asked: bool) -> float | None:
        config = self.config
        if config is None:
            self._remove()
            return None
        now = self._shared.clock.now()
        options = self._shared.options
        interval_s = options.poll_interval_s if config.poll_interval_s is None else config.poll_interval_s
        changed = config != self._polled
        if asked or (changed and interval_s >= 0) or (self._due is not None and self._due <= now):
            if self._polled is None or config.base_path != self._polled.base_path:
                self.release()
                self._store = self._cache = None
            share = 1 + self._shared.uniform(-options.poll_jitter, options.poll_jitter)
            self._due = now + interval_s * share if interval_s > 0 else None
            self._poll_store(config)
        elif changed:
            self._due = None
        self._polled = config
        return self._due

    def _remove(self) -> None:
        self._shared.send(self._name, [])
        if self._cache is not None:
            self.release()
            self._cache.evict((), self._shared.options.spare_versions)
        if self._shared.forget(self):
            self.thread.stop()
        else:
            self._polled = None
            self.thread.wake()

    def _cancelled(self) -> bool:
        return self.thread.stopping or self.config is None

    def _poll_store(self, config: ServableToMonitor) -> None:
        try:
            store, cache = self._open(config)
            children = version_children(store.children())
        except InserveError as error:
            self._base_path_failed(config, error)
            return
        base_path = redacted(config.base_path)
        self._copies_allowed = True
        self._asked_for = set()
        paths: dict[str, str] = {}
        try:
            ready = choose_ready_versions(
                config.name,
                base_path,
                children,
                config.version_policy,
                lambda child: self._wait_for(store, cache, child, paths),
            )
        except CancelledError:
            self._release_all_but(cache, self._aspired)
            return
        if self._cancelled():
            return
        selected = ready.selection.children
        waiting = {version: wait.reason for version, wait in sorted(ready.waits.items())}
        self._problems.report(
            [
                *ready.selection.warnings,
                *(f"Version {number} of servable {config.name}: {text}" for number, text in waiting.items()),
            ]
        )
        self._aspired = {child.name: paths[child.name] for child in selected}
        self.status = MonitorStatus(
            base_path, self._shared.wall_time(), None, tuple(child.version for child in selected), waiting
        )
        self._shared.send(
            config.name,
            [ServableData(ServableId(config.name, child.version), paths[child.name]) for child in selected],
        )
        self._release_all_but(cache, self._aspired)
        for name in cache.evict(self._asked_for, self._shared.options.spare_versions):
            _logger.info("Evicted version %s of servable %s from the cache", name, config.name)

    def _open(self, config: ServableToMonitor) -> tuple[RemoteStore, VersionCache]:
        """Return the store and its cache; they stay open until the base path changes."""
        if self._store is None or self._cache is None:
            options = self._shared.options
            scheme = config.base_path.partition("://")[0].lower()
            store = RemoteStore(config.base_path, options.storage_options.get(scheme))
            folder = os.path.join(options.cache_dir or default_cache_dir(), _folder_name(config))
            self._store = store
            self._cache = VersionCache(folder, functools.partial(_copy, store, self._cancelled))
        return self._store, self._cache

    def _base_path_failed(self, config: ServableToMonitor, error: InserveError) -> None:
        base_path = redacted(config.base_path)
        text = (
            f"Could not find base path {base_path} for servable {config.name} "
            f"with error {error.code.name}: {error.message}"
        )
        self._problems.report([f"FileSystemStoragePathSource encountered a filesystem access error: {text}"])
        self.status = MonitorStatus(
            base_path,
            self._shared.wall_time(),
            text,
            self.status.aspired_versions,
            self.status.waiting,
        )

    def _wait_for(
        self, store: RemoteStore, cache: VersionCache, child: VersionChild, paths: dict[str, str]
    ) -> Wait | None:
        """Have *child* here and put its path into *paths*, or say what it waits for."""
        self._asked_for.add(child.name)
        if child.name in self._aspired:
            paths[child.name] = self._aspired[child.name]
            return None
        if not self._copies_allowed:
            return Wait("waiting for the copy of another version, which failed")
        try:
            files = store.files(child.name)
            if self._shared.check_complete and (problem := _listed_problem(files)) is not None:
                return Wait(problem)
            self._note_waiting(child.version, f"waiting for its copy from {store.name}")
            path = cache.fetch(child.name, files, lambda: store.files(child.name))
        except CancelledError:
            raise
        except DataLossError as error:
            return Wait(f"waiting for a whole copy: {error.message}")
        except InserveError as error:
            self._copies_allowed = False
            return Wait(f"waiting for its copy: {error.code.name}: {error.message}")
        problem = self._content_problem(path)
        if problem is not None:
            cache.release(child.name)
            return Wait(problem)
        paths[child.name] = path
        return None

    def _content_problem(self, path: str) -> str | None:
        if not self._shared.check_complete:
            return None
        try:
            return content_problem(path, take_snapshot(path).files)
        except OSError as error:
            return f"waiting until it can be read: {error.strerror or type(error).__name__}"

    def _note_waiting(self, version: int, reason: str) -> None:
        status = self.status
        self.status = MonitorStatus(
            status.base_path,
            status.last_poll_s,
            status.error,
            status.aspired_versions,
            {**status.waiting, version: reason},
        )

    def _release_all_but(self, cache: VersionCache, kept: Mapping[str, str]) -> None:
        for child in cache.held():
            if child not in kept:
                cache.release(child)


def default_cache_dir() -> str:
    """Return the folder for copies of remote models in the user's cache folder."""
    if sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "inserve", "models")


def _folder_name(config: ServableToMonitor) -> str:
    """Return a folder name for a base path: readable, and different for different URLs."""
    last = redacted(config.base_path).rstrip("/").rsplit("/", 1)[-1]
    digest = hashlib.sha256(config.base_path.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', last)[:40]}-{digest[:16]}"


def _copy(store: RemoteStore, cancelled: Callable[[], bool], file: RemoteFile, target: str) -> None:
    store.copy(file, target, cancelled)


def _listed_problem(files: Mapping[str, RemoteFile]) -> str | None:
    """Return what the listing shows to be missing; a file of unknown size counts as not empty."""
    return listing_problem({name: 1 if file.size is None else file.size for name, file in files.items()})
