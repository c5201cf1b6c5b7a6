"""The published states of a version and their legal order.

Rules: TensorFlow Serving, ``core/servable_state.h``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from inserve.errors import InserveError, ResourceExhaustedError, UnknownError, error_from_code
from inserve.lifecycle.servable_id import ServableId

__all__ = ["ManagerState", "ServableState", "health_of", "is_legal_transition"]


class ManagerState(enum.IntEnum):
    """Where a version stands; the numbers are those of ``ModelVersionStatus.State``."""

    START = 10
    """Known to the manager, not loading yet."""
    LOADING = 20
    """Resources are reserved; an attempt runs, or the pause before the next one."""
    AVAILABLE = 30
    """Lookups find it. Published after they do."""
    UNLOADING = 40
    """Lookups cease to find it; requests that hold a handle still use it. Published before they do."""
    END = 50
    """Not in memory: unloaded, or failed if there is an error."""


_NEXT: dict[ManagerState | None, frozenset[ManagerState]] = {
    None: frozenset({ManagerState.START, ManagerState.END}),
    ManagerState.START: frozenset({ManagerState.START, ManagerState.LOADING, ManagerState.END}),
    ManagerState.LOADING: frozenset({ManagerState.LOADING, ManagerState.AVAILABLE, ManagerState.END}),
    ManagerState.AVAILABLE: frozenset({ManagerState.UNLOADING}),
    ManagerState.UNLOADING: frozenset({ManagerState.END}),
    ManagerState.END: frozenset({ManagerState.START, ManagerState.END}),
}


def is_legal_transition(before: ManagerState | None, after: ManagerState) -> bool:
    """Return whether *after* may be published next; *before* None means nothing was published yet.

    START and LOADING repeat when an attempt has failed and another will follow. After END a new
    life begins with START, or with END where a source gave an error in place of a version.
    """
    return after in _NEXT[before]


@dataclass(frozen=True)
class ServableState:
    """One published state.

    *time_s* is the moment by the manager's clock, in seconds. *error* is the health that status
    calls show: set only in END, for a version that failed or whose load was cancelled. *attempts*
    counts the attempts to load begun since the version was aspired, and *last_failure* is how the
    last failed one of them ended; both survive into a retry, which the C++ server does not show.
    Errors here carry no traceback, so that no frame is kept alive by a status.
    """

    id: ServableId
    state: ManagerState
    time_s: float
    error: InserveError | None = None
    attempts: int = 0
    last_failure: InserveError | None = None


def health_of(error: BaseException) -> InserveError:
    """Return what a status may keep of *error*: code and text, without traceback or cause.

    What is not an ``InserveError`` becomes UNKNOWN with its type and text, lack of memory
    RESOURCE_EXHAUSTED.
    """
    if isinstance(error, InserveError):
        return error_from_code(error.code, error.message)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        return ResourceExhaustedError(text)
    return UnknownError(text)
