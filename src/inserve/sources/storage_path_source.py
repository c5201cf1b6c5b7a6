"""One source for all models of a server: local base paths and remote ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from inserve.clock import Clock, SystemClock
from inserve.lifecycle.source import AspiredVersionsCallback
from inserve.sources.base_path import is_remote
from inserve.sources.file_system_source import FileSystemSource
from inserve.sources.remote_source import RemoteSource, RemoteSourceOptions
from inserve.sources.servable_to_monitor import MonitorStatus, ServableToMonitor, by_name

__all__ = ["StoragePathSource"]


class StoragePathSource:
    """Gives each model to the source its base path needs; methods are as those of ``FileSystemSource``.

    *poll_interval_s* is for local base paths; *remote* has the interval of the others. A model that moves
    between the two sources keeps the versions that both aspire to.
    """

    def __init__(
        self,
        models: Iterable[ServableToMonitor] = (),
        *,
        poll_interval_s: float | None = 1.0,
        check_complete: bool = True,
        quiet_period_s: float | None = None,
        remote: RemoteSourceOptions | None = None,
        clock: Clock | None = None,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        local_models, remote_models = _divided(models)
        self._clock = clock if clock is not None else SystemClock()
        self._local = FileSystemSource(
            local_models,
            poll_interval_s=poll_interval_s,
            check_complete=check_complete,
            quiet_period_s=quiet_period_s,
            clock=self._clock,
            wall_time=wall_time,
        )
        self._remote = RemoteSource(
            remote_models,
            options=remote,
            check_complete=check_complete,
            clock=self._clock,
            wall_time=wall_time,
        )

    def __repr__(self) -> str:
        return f"<StoragePathSource [{self._local!r}, {self._remote!r}]>"

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[str]) -> None:
        """Send aspired versions to *callback*, which several threads call. Called once, before ``start``."""
        self._local.set_aspired_versions_callback(callback)
        self._remote.set_aspired_versions_callback(callback)

    def start(self) -> None:
        """Start polling; idempotent. Raises RuntimeError when no callback was set."""
        self._local.start()
        self._remote.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop polling; return whether all polls ended within *timeout_s*. Idempotent."""
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        remote_ended = self._remote.stop(timeout_s)
        left = None if deadline is None else max(0.0, deadline - self._clock.now())
        return self._local.stop(left) and remote_ended

    def update(self, models: Iterable[ServableToMonitor]) -> None:
        """Replace the models. Returns at once; raises ValueError and MissingExtraError as the sources do."""
        local_models, remote_models = _divided(models)
        self._remote.update(remote_models)
        self._local.update(local_models)

    def refresh(self, timeout_s: float | None = None, names: Collection[str] | None = None) -> None:
        """Poll the models called *names* now, every one if None; return after their lists were sent.

        Local ones come first.

        Raises:
            FailedPreconditionError, CancelledError, DeadlineExceededError: see ``FileSystemSource.refresh``.
        """
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        self._local.refresh(timeout_s, names)
        left = None if deadline is None else max(0.0, deadline - self._clock.now())
        self._remote.refresh(left, names)

    def status(self) -> dict[str, MonitorStatus]:
        """Return how the last poll of each model went, by name."""
        return dict(sorted({**self._local.status(), **self._remote.status()}.items()))


def _divided(
    models: Iterable[ServableToMonitor],
) -> tuple[list[ServableToMonitor], list[ServableToMonitor]]:
    """Return the local models and the remote ones."""
    every = by_name(models).values()
    return [m for m in every if not is_remote(m.base_path)], [m for m in every if is_remote(m.base_path)]
