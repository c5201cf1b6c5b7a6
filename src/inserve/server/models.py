"""``server.models``: which models a server has, changed and asked about while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from inserve.errors import AlreadyExistsError, InserveError, NotFoundError, UnknownError
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ManagerState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.version_labels import VersionLabels
from inserve.server.model_config import ModelConfig, check_transition
from inserve.sources.servable_to_monitor import MonitorStatus, ServableToMonitor

__all__ = ["ModelStatus", "Models", "VersionSource", "VersionStatus"]


class VersionSource(Protocol):
    """What ``Models`` needs of the source of versions."""

    def update(self, models: Iterable[ServableToMonitor]) -> None: ...

    def refresh(self, timeout_s: float | None = None) -> None: ...

    def status(self) -> dict[str, MonitorStatus]: ...


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model, as last seen."""

    version: int
    state: ManagerState
    error: InserveError | None = None
    """Why the version failed; None where it did not."""
    attempts: int = 0
    """Attempts to load it, retries included."""
    last_failure: InserveError | None = None
    """How the last attempt that failed has ended, also while the next one runs."""


@dataclass(frozen=True)
class ModelStatus:
    """One model and its versions, highest first; versions that were unloaded stay listed as END."""

    name: str
    versions: tuple[VersionStatus, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    """Why its folder could not be looked at the last time, None if it could."""
    waiting: Mapping[int, str] = field(default_factory=dict)
    """Versions that are seen but not loaded yet, and what each waits for."""

    @property
    def available_versions(self) -> tuple[int, ...]:
        """The versions that answer requests now, highest first."""
        return tuple(v.version for v in self.versions if v.state is ManagerState.AVAILABLE)


class Models:
    """The models of a server; every method may be called from any thread.

    Changes take their turns, one at a time. None of them disturbs the models that stay.
    """

    def __init__(
        self,
        source: VersionSource,
        monitor: ServableStateMonitor,
        labels: VersionLabels,
        retry_failed: Callable[[str, int | None], Sequence[ServableId]],
    ) -> None:
        self._source = source
        self._monitor = monitor
        self._labels = labels
        self._retry_failed = retry_failed
        self._change = threading.RLock()
        self._configs: dict[str, ModelConfig] = {}

    def __repr__(self) -> str:
        return f"<Models {', '.join(self._configs) or 'none'}>"

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def list(self) -> list[ModelConfig]:
        """Return the configuration of every model, by name."""
        return [config for _, config in sorted(self._configs.items())]

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
        that fails to load is not kept then.

        Raises:
            AlreadyExistsError: There is a model of this name.
            NotFoundError: The folder does not exist or holds no version (with *wait*).
            DeadlineExceededError: *timeout* has passed; the model stays, and may become available.
            UnknownError: It failed to load; the text says why.
        """
        config = model if isinstance(model, ModelConfig) else ModelConfig(model, path, **options)
        with self._change:
            if config.name in self._configs:
                raise AlreadyExistsError(f"there is a model {config.name} already")
            self._put({**self._configs, config.name: config})
        if wait:
            try:
                self.wait_until_available([config.name], timeout)
            except (NotFoundError, UnknownError):
                self.remove(config.name)
                raise

    def remove(self, name: str) -> None:
        """Stop serving *name*: new requests no longer find it, running ones finish.

        Raises:
            NotFoundError: There is no such model.
        """
        with self._change:
            self._config(name)
            self._put({key: config for key, config in self._configs.items() if key != name})

    def replace_all(self, models: Sequence[ModelConfig]) -> list[str]:
        """Serve exactly *models* from now on; return the names that are new.

        Raises:
            InvalidArgumentError: A name stands there twice, or a platform would change.
            FailedPreconditionError: A label names a version that is not available.
        """
        with self._change:
            check_transition(self._configs.values(), models)
            new = [config.name for config in models if config.name not in self._configs]
            self._put({config.name: config for config in models})
            return new

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Replace the version labels of *name*.

        Raises:
            NotFoundError: There is no such model.
            FailedPreconditionError: A label would move to a version that is not available.
        """
        with self._change:
            config = replace(self._config(name), labels=dict(labels))
            self._put({**self._configs, name: config})

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
            tuple(VersionStatus(s.id.version, s.state, s.error, s.attempts, s.last_failure) for s in states),
            self._labels.of_model(name),
            None if seen is None else seen.error,
            {} if seen is None else seen.waiting,
        )

    def refresh(self, timeout: float | None = None) -> None:
        """Look for new versions now; return once they are known, which is before they are loaded.

        Raises:
            DeadlineExceededError: *timeout* seconds have passed.
        """
        self._source.refresh(timeout)

    def retry(self, name: str, version: int | None = None) -> None:
        """Load failed versions of *name* anew, or the one *version*.

        Raises:
            NotFoundError: There is no such failed version.
        """
        self._retry_failed(name, version)

    def wait_until_available(self, names: Sequence[str] | None = None, timeout: float | None = None) -> None:
        """Return once each of *names* (all models by default) has a version that answers requests.

        Looks for versions first. A model whose newest version has failed is an error, unless another
        version answers.

        Raises:
            NotFoundError: A folder does not exist or holds no version.
            UnknownError: A model failed to load; the text says why, for each.
            DeadlineExceededError: *timeout* seconds have passed.
        """
        wanted = list(self._configs) if names is None else list(names)
        self._source.refresh(timeout)
        seen = self._source.status()
        for name in wanted:
            found = seen.get(name)
            if found is None or found.aspired_versions or found.waiting:
                continue
            raise NotFoundError(
                found.error
                or f"No versions of servable {name} found under base path {found.base_path}. Did you "
                "forget to name your leaf directory as a number (eg. '/1/')?"
            )
        decided = self._monitor.wait_until_reached(
            [ServableRequest.latest(name) for name in wanted], timeout_s=timeout
        )
        failed = [state for state in decided.values() if state.state is not ManagerState.AVAILABLE]
        if failed:
            reasons = "".join(
                f"{{{state.id} due to error: {_status_text(state.error)}}}, "
                for state in sorted(failed, key=lambda state: state.id)
            )
            raise UnknownError(f"{len(failed)} servable(s) did not become available: {{{reasons}}}")

    def _config(self, name: str) -> ModelConfig:
        try:
            return self._configs[name]
        except KeyError:
            known = ", ".join(sorted(self._configs)) or "none"
            raise NotFoundError(f"no model {name}; there is {known}") from None

    def _put(self, configs: dict[str, ModelConfig]) -> None:
        """Make *configs* the truth: labels first, as the C++ server does, then the source."""
        self._labels.assign({name: config.labels for name, config in configs.items()})
        self._configs = configs
        self._source.update([config.servable_to_monitor() for config in configs.values()])


def _status_text(error: InserveError | None) -> str:
    return "OK" if error is None else f"{error.code.name}: {error.message}"
