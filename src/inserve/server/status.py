"""What ``server.models.status`` tells of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inserve.errors import InserveError
from inserve.lifecycle.servable_state import ManagerState
from inserve.saved_model.tuning import Tuning

__all__ = ["ModelStatus", "VersionStatus"]


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
    tuning: Tuning | None = None
    """How it is run, and the figures behind that; None where it is not available."""


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
    def tuning(self) -> Tuning | None:
        """How the newest version that answers requests is run; None where none does."""
        return next((v.tuning for v in self.versions if v.state is ManagerState.AVAILABLE), None)

    @property
    def available_versions(self) -> tuple[int, ...]:
        """The versions that answer requests now, highest first."""
        return tuple(v.version for v in self.versions if v.state is ManagerState.AVAILABLE)
