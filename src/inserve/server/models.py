"""``server.models``: which models a server has, changed and asked about while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from inserve.clock import Clock, SystemClock
from inserve.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    NotFoundError,
)
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.version_labels import VersionLabels
from inserve.saved_model.tuning import Tuning
from inserve.server.availability import (
    Verdict,
    did_not_become_available,
    first_settled,
    judge,
    unsettled_versions,
)
from inserve.server.model_config import ModelConfig, check_transition
from inserve.server.status import ModelStatus, VersionStatus
from inserve.sources.servable_to_monitor import MonitorStatus, ServableToMonitor

__all__ = ["Followers", "Models", "VersionManager", "VersionSource"]

_LOOK_EVERY_S = 0.25
"""How soon a wait notices what no event tells of: a folder that vanished, a model removed."""

_LOOK_EVERY_REMOVAL_S = 0.01
"""No event tells that a list was looked at, or that requests have ceased to find a version."""

_LONGEST_REMOVAL_S = 60.0


class VersionSource(Protocol):
    """What ``Models`` needs of the source of versions."""

    def update(self, models: Iterable[ServableToMonitor]) -> None: ...

    def refresh(self, timeout_s: float | None = None, names: Collection[str] | None = None) -> None: ...

    def status(self) -> dict[str, MonitorStatus]: ...


class VersionManager(Protocol):
    """What ``Models`` needs of the manager."""

    def retry_failed(self, name: str, version: int | None = None) -> Sequence[ServableId]: ...

    def available_versions(self, name: str) -> Sequence[int]: ...

    def is_aspired(self, name: str) -> bool: ...


class Followers(Protocol):
    """Other processes that serve the same models."""

    def follow(self, models: Sequence[ModelConfig]) -> None:
        """Serve exactly *models* from now on; returns at once."""
        ...

    def wait_until_available(self, names: Sequence[str], timeout_s: float | None) -> None:
        """Return once *names* answer there, too, or have failed to."""
        ...

    def refresh(self, names: Sequence[str] | None, timeout_s: float | None) -> None:
        """Look for new versions."""
        ...

    def retry(self, name: str, version: int | None) -> None:
        """Load failed versions anew."""
        ...


class Models:
    """The models of a server; every method may be called from any thread.

    Changes take their turns, one at a time. A turn waits for one thing only: a name that was removed
    a moment ago is taken again once its former life has been noticed to be over. No change disturbs
    the models that stay. All need the server to be running.
    """

    def __init__(
        self,
        source: VersionSource,
        monitor: ServableStateMonitor,
        labels: VersionLabels,
        manager: VersionManager,
        clock: Clock | None = None,
        followers: Followers | None = None,
        on_change: Callable[[], None] | None = None,
        prepare: Callable[[Iterable[ModelConfig]], None] | None = None,
        tuning: Callable[[ServableId], Tuning | None] | None = None,
    ) -> None:
        self._tuning = (lambda _: None) if tuning is None else tuning
        self._followers = followers
        self._on_change = on_change
        self._prepare = prepare
        self._source = source
        self._monitor = monitor
        self._labels = labels
        self._manager = manager
        self._clock = SystemClock() if clock is None else clock
        self._change = threading.Lock()
        self._configs: Mapping[str, ModelConfig] = {}
        self._stale: Mapping[str, Sequence[ServableState]] = {}
        self._refusal: str | None = "the server is not started"

    def __repr__(self) -> str:
        return f"<Models {', '.join(self._configs) or 'none'}>"

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def open(self) -> None:
        """Accept changes; called by the server."""
        self._refusal = None

    def close(self) -> None:
        """Refuse further changes, and end every wait; called by the server."""
        self._refusal = "the server is stopped"

    def list(self) -> list[ModelConfig]:
        """Return the configuration of every model, by name."""
        return [config for _, config in sorted(self._configs.items())]

    # --- changes ----------------------------------------------------------------------------------

    def add(
        self,
        model: str | ModelConfig,
        path: Any = None,
        *,
        wait: bool = True,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Serve one more model: a ``ModelConfig``, or a name, a *path* and the other fields of one.

        With *wait*, return once a version answers requests, at most *timeout* seconds later; a model
        that fails to load or has no version is not kept then. Without, it is kept whatever happens:
        ``status`` tells how it stands, and it comes up by itself once its folder holds a version.

        Raises:
            AlreadyExistsError: There is a model of this name.
            NotFoundError: The folder does not exist or holds no version (with *wait*).
            UnknownError: It failed to load; the text says why (with *wait*).
            DeadlineExceededError: *timeout* has passed; the model stays, and may become available.
            FailedPreconditionError: The server is not running.
        """
        if not isinstance(model, ModelConfig):
            model = ModelConfig(model, path, **options)
        elif path is not None or options:
            raise TypeError("pass a ModelConfig, or a name, a path and its other fields, not both")
        config = model
        with self._change:
            self._check_open()
            if config.name in self._configs:
                raise AlreadyExistsError(f"there is a model {config.name} already")
            self._put_one(config)
        if wait:
            try:
                self.wait_until_available([config.name], timeout)
                self._wait_for_followers([config.name], timeout)
            except DeadlineExceededError:
                raise
            except InserveError:
                self._discard(config)
                raise

    def remove(self, name: str, *, wait: bool = True, timeout: float | None = None) -> None:
        """Stop serving *name* and drop its labels; requests that are running finish.

        With *wait*, return once new requests no longer find it, which takes a moment.

        Raises:
            NotFoundError: There is no such model.
            DeadlineExceededError: After *timeout* seconds it is still found; it goes all the same.
            FailedPreconditionError: The server is not running.
        """
        with self._change:
            self._check_open()
            self._config(name)
            self._drop(name)
        if not wait:
            return
        deadline_s = None if timeout is None else self._clock.now() + timeout
        self._source.refresh(timeout, ())
        if not self._monitor.wait_until(
            lambda: (
                self._refusal is not None
                or name in self._configs
                or not (self._manager.is_aspired(name) or self._manager.available_versions(name))
            ),
            self._left_s(deadline_s),
            _LOOK_EVERY_REMOVAL_S,
        ):
            raise DeadlineExceededError(f"after {timeout} s requests still find model {name}")

    def replace_all(
        self, models: Iterable[ModelConfig], *, wait: bool = False, timeout: float | None = None
    ) -> Sequence[str]:
        """Serve exactly *models* from now on; return the names that are new.

        With *wait*, return once each new one has a version that answers requests; changes of models
        that stay are not waited for. What fails then stays configured and is tried again. A model
        that has no complete version yet is such a failure, and comes up by itself later.

        Raises:
            InvalidArgumentError: A name stands there twice, or a platform would change.
            FailedPreconditionError: A label names a version that is not available, or the server is
                not running. Nothing was changed.
            NotFoundError, UnknownError: New models did not become available; the text says why, for
                each (with *wait*).
            DeadlineExceededError: *timeout* has passed; loading goes on (with *wait*).
        """
        configs = _by_name(models)
        with self._change:
            self._check_open()
            check_transition(self._configs.values(), configs.values())
            new = [name for name in configs if name not in self._configs]
            labels = {name: config.labels for name, config in configs.items()}
            self._put(configs, lambda: self._labels.assign(labels))
        if wait and new:
            self._wait(new, timeout, "model", is_patient=False)
            self._wait_for_followers(new, timeout)
        return new

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Replace the version labels of *name*.

        Raises:
            NotFoundError: There is no such model.
            FailedPreconditionError: A label would move to a version that is not available, or the
                server is not running.
        """
        with self._change:
            self._check_open()
            self._put_one(replace(self._config(name), labels=dict(labels)))

    # --- how they stand ---------------------------------------------------------------------------

    def status(self, name: str) -> ModelStatus:
        """Return what is known of *name*.

        Raises:
            NotFoundError: There is no such model, and never was.
        """
        states = self._monitor.states(name)
        if not states:
            self._config(name)
        seen = self._source.status().get(name)
        return ModelStatus(
            name,
            tuple(
                VersionStatus(s.id.version, s.state, s.error, s.attempts, s.last_failure, self._tuning(s.id))
                for s in states
            ),
            self._labels.of_model(name),
            None if seen is None else seen.error,
            self.waiting(name),
        )

    def waiting(self, name: str) -> Mapping[int, str]:
        """Return the versions of *name* that are seen but not loaded yet, and what each waits for."""
        seen = self._source.status().get(name)
        return {} if seen is None else seen.waiting

    def refresh(self, names: Sequence[str] | None = None, timeout: float | None = None) -> None:
        """Look for new versions of *names* (all models by default) now.

        Returns once they are known, which is before they are loaded. A version is taken to be
        written completely, whenever its files last changed.

        Raises:
            NotFoundError: There is no such model.
            DeadlineExceededError: *timeout* seconds have passed.
            FailedPreconditionError: The server is not running.
        """
        self._check_open()
        for name in names or ():
            self._config(name)
        self._source.refresh(timeout, names)
        if self._followers is not None:
            self._followers.refresh(names, timeout)

    def retry(self, name: str, version: int | None = None) -> None:
        """Load failed versions of *name* anew, or the one *version*; returns at once.

        Raises:
            NotFoundError: There is no such failed version.
        """
        self._manager.retry_failed(name, version)
        if self._followers is not None:
            self._followers.retry(name, version)

    def wait_until_available(self, names: Sequence[str] | None = None, timeout: float | None = None) -> None:
        """Return once each of *names* (all models by default) has a version that answers requests.

        Looks for versions first. A version whose files are not complete is waited for. A model fails
        when all its versions have failed, all attempts included.

        Raises:
            NotFoundError: A folder does not exist or holds no version, or there is no such model.
            UnknownError: A model failed to load; the text says why, for each.
            DeadlineExceededError: *timeout* seconds have passed; the text says how each stands.
            FailedPreconditionError: The server is not running.
        """
        self._check_open()
        wanted = [*self._configs] if names is None else [*names]
        for name in wanted:
            self._config(name)
        self._wait(wanted, timeout, "servable", is_patient=True)

    def wait_until_settled(self, timeout: float | None = None) -> None:
        """Return when TensorFlow Serving would open its ports.

        That is once every model has an available version, however long its folder is missing or
        empty, and all versions found so far have become available or failed. The first version that
        fails before another of its model is available is an error.

        Raises:
            UnknownError: A model failed to load; the text says why, for each.
            DeadlineExceededError: *timeout* seconds have passed; the text says how each stands.
            FailedPreconditionError: The server is not running.
        """
        self._check_open()
        names = [*self._configs]
        deadline_s = None if timeout is None else self._clock.now() + timeout
        self._source.refresh(timeout, names)
        decided: dict[str, ServableState] = {}

        def is_decided() -> bool:
            self._check_open()
            for name in names:
                if name not in decided:
                    state = first_settled(self._monitor.states(name), self._stale.get(name, ()))
                    if state is not None:
                        decided[name] = state
            return len(decided) == len(names)

        def is_settled() -> bool:
            self._check_open()
            seen = self._source.status()
            return not any(
                name in seen
                and unsettled_versions(self._monitor.states(name), seen[name], self._stale.get(name, ()))
                for name in names
            )

        for is_over in (is_decided, is_settled):
            if not self._monitor.wait_until(is_over, self._left_s(deadline_s), _LOOK_EVERY_S):
                raise DeadlineExceededError(f"after {timeout} s {self._pending_text(names)}")
            failed = [
                Verdict(name, problem=state.error, failed=state.id)
                for name, state in decided.items()
                if state.state is not ManagerState.AVAILABLE
            ]
            if failed:
                raise did_not_become_available(failed, "servable")

    # --- inside -----------------------------------------------------------------------------------

    def _wait_for_followers(self, names: Sequence[str], timeout_s: float | None) -> None:
        if self._followers is not None:
            self._followers.wait_until_available(names, timeout_s)

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise FailedPreconditionError(self._refusal)

    def _config(self, name: str) -> ModelConfig:
        try:
            return self._configs[name]
        except KeyError:
            known = ", ".join(sorted(self._configs)) or "none"
            raise NotFoundError(f"no model {name}; there is {known}") from None

    def _put_one(self, config: ModelConfig) -> None:
        """Add *config*, or put it in the place of the one of its name."""
        configs = {**self._configs, config.name: config}
        self._put(configs, lambda: self._labels.assign_model(config.name, config.labels))

    def _put(self, configs: Mapping[str, ModelConfig], assign_labels: Callable[[], None]) -> None:
        """Make *configs* the truth, under the change lock; nothing has changed when it raises."""
        new = [name for name in configs if name not in self._configs]
        if not self._monitor.wait_until(
            lambda: not any(map(self._manager.is_aspired, new)), _LONGEST_REMOVAL_S, _LOOK_EVERY_REMOVAL_S
        ):
            raise DeadlineExceededError(
                f"after {_LONGEST_REMOVAL_S} s the former models of these names are still being removed: "
                + ", ".join(name for name in new if self._manager.is_aspired(name))
            )
        stale = {name: self._stale.get(name) or self._ended(name) for name in configs}
        labels = self._labels.of_all()
        assign_labels()
        if self._prepare is not None:
            self._prepare(configs.values())
        try:
            self._source.update([config.servable_to_monitor() for config in configs.values()])
        except BaseException:  # an interrupt too must leave nothing half changed
            self._labels.restore(labels)
            if self._prepare is not None:
                self._prepare(self._configs.values())
            raise
        self._stale = stale
        self._configs = configs
        if self._followers is not None:
            self._followers.follow(list(configs.values()))
        if self._on_change is not None:
            self._on_change()

    def _ended(self, name: str) -> Sequence[ServableState]:
        """Return the states left from a former life of *name*, empty if it is alive."""
        if name in self._configs:
            return ()
        return [state for state in self._monitor.states(name) if state.state is ManagerState.END]

    def _drop(self, name: str) -> None:
        configs = {key: config for key, config in self._configs.items() if key != name}
        self._put(configs, lambda: self._labels.assign_model(name, {}))

    def _discard(self, config: ModelConfig) -> None:
        """Take back what ``add`` put, unless somebody else has changed it since."""
        with self._change:
            if self._refusal is None and self._configs.get(config.name) is config:
                self._drop(config.name)

    def _left_s(self, deadline_s: float | None) -> float | None:
        return None if deadline_s is None else max(0.0, deadline_s - self._clock.now())

    def _judge(self, name: str, *, is_patient: bool = True) -> Verdict:
        if name not in self._configs:
            return Verdict(name, problem=NotFoundError(f"model {name} was removed"))
        seen = self._source.status().get(name)
        if seen is None:
            return Verdict(name, pending=f"model {name}: its folder was not looked at yet")
        return judge(name, self._monitor.states(name), seen, self._stale.get(name, ()), is_patient=is_patient)

    def _wait(self, names: Sequence[str], timeout: float | None, noun: str, *, is_patient: bool) -> None:
        """Return once each of *names* is available; *is_patient* waits for incomplete versions, too."""
        deadline_s = None if timeout is None else self._clock.now() + timeout
        self._source.refresh(timeout, names)
        verdicts: dict[str, Verdict] = {}

        def is_decided() -> bool:
            self._check_open()
            for name in names:
                if name not in verdicts or not verdicts[name].is_decided:
                    verdicts[name] = self._judge(name, is_patient=is_patient)
            return all(verdict.is_decided for verdict in verdicts.values())

        if not self._monitor.wait_until(is_decided, self._left_s(deadline_s), _LOOK_EVERY_S):
            raise DeadlineExceededError(f"after {timeout} s {self._pending_text(names)}")
        if any(verdict.problem for verdict in verdicts.values()):
            raise did_not_become_available(verdicts.values(), noun)

    def _pending_text(self, names: Sequence[str]) -> str:
        verdicts = map(self._judge, names)
        texts = [verdict.pending or str(verdict.problem) for verdict in verdicts if not verdict.is_available]
        return "not yet available: " + ("; ".join(texts) or "versions still loading")


def _by_name(models: Iterable[ModelConfig]) -> dict[str, ModelConfig]:
    configs: dict[str, ModelConfig] = {}
    for config in models:
        if config.name in configs:
            raise InvalidArgumentError(f"Illegal to list model {config.name} multiple times in config list")
        configs[config.name] = config
    return configs
