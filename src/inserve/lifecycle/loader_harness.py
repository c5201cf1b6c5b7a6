"""The state machine around one loader, and the rule for trying again.

The manager is the only caller, on its own thread; nothing here blocks or calls the loader. Rules:
TensorFlow Serving, ``core/loader_harness.h`` and ``util/retrier.h``. A pause between attempts is a
due time here, where the C++ server keeps a load thread asleep.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from inserve.errors import FailedPreconditionError, InserveError, InternalError
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.servable_id import ServableId

__all__ = ["HarnessState", "LoaderHarness", "RetryPolicy"]


class HarnessState(enum.Enum):
    """Internal states; the values are TensorFlow Serving's names for them in messages."""

    NEW = "new"
    LOAD_REQUESTED = "load-requested"
    LOAD_APPROVED = "load-approved"
    LOADING = "loading"
    READY = "ready"
    UNLOAD_REQUESTED = "unload-requested"
    QUIESCING = "quiescing"
    QUIESCED = "quiesced"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"


_NEXT: dict[HarnessState, frozenset[HarnessState]] = {
    HarnessState.NEW: frozenset({HarnessState.LOAD_REQUESTED}),
    HarnessState.LOAD_REQUESTED: frozenset({HarnessState.LOAD_APPROVED}),
    HarnessState.LOAD_APPROVED: frozenset({HarnessState.LOADING}),
    HarnessState.LOADING: frozenset({HarnessState.READY, HarnessState.UNLOADING}),
    HarnessState.READY: frozenset({HarnessState.UNLOAD_REQUESTED}),
    HarnessState.UNLOAD_REQUESTED: frozenset({HarnessState.QUIESCING}),
    HarnessState.QUIESCING: frozenset({HarnessState.QUIESCED}),
    HarnessState.QUIESCED: frozenset({HarnessState.UNLOADING}),
    HarnessState.UNLOADING: frozenset({HarnessState.DISABLED}),
    HarnessState.DISABLED: frozenset(),
    HarnessState.ERROR: frozenset({HarnessState.NEW}),
}
"""Beside these, every state may end in ERROR. ERROR back to NEW is a failed version tried again."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a load is tried, and when.

    *max_num_retries* attempts follow a failed first one, each after *interval_s* seconds, below 0
    meaning at once (TensorFlow Serving's ``max_num_load_retries``, ``load_retry_interval_micros``).

    After the last of them the version has failed. As long as it stays aspired, it is loaded anew
    *reload_initial_s* seconds later, then after twice that time and so on, at most *reload_max_s*
    apart; None leaves it failed, as the C++ server does.

    Raises:
        ValueError: A figure is out of range.
    """

    max_num_retries: int = 5
    interval_s: float = 60.0
    reload_initial_s: float | None = None
    reload_max_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.max_num_retries < 0:
            raise ValueError(f"max_num_retries: expected at least 0, got {self.max_num_retries}")
        if math.isnan(self.interval_s):
            raise ValueError("interval_s: expected seconds, got nan")
        if self.reload_initial_s is not None and not 0 < self.reload_initial_s <= self.reload_max_s:
            raise ValueError(
                f"reload_initial_s: expected above 0 and at most reload_max_s ({self.reload_max_s}), "
                f"got {self.reload_initial_s}"
            )

    def reload_pause_s(self, num_failures: int) -> float | None:
        """Return the seconds until a version that has failed *num_failures* >= 1 times is loaded anew."""
        if self.reload_initial_s is None:
            return None
        return min(self.reload_max_s, self.reload_initial_s * 2.0 ** min(num_failures - 1, 64))


class LoaderHarness:
    """One version under management. *loader* is None where the source gave *error* in its place.

    Raises:
        ValueError: Neither or both of *loader* and *error* are given.
    """

    def __init__(
        self,
        id: ServableId,
        loader: Loader | None,
        retry: RetryPolicy,
        error: InserveError | None = None,
    ) -> None:
        if (loader is None) == (error is None):
            raise ValueError(f"{id}: expected either a loader or an error")
        self.id = id
        self.loader = loader
        self.retry = retry
        self.state = HarnessState.NEW if error is None else HarnessState.ERROR
        self.error = error
        """Why the state is ERROR; set with it and cleared by ``try_again``."""
        self.is_aspired = True
        self.attempts = 0
        """Attempts to load begun, over all retries and reloads."""
        self.last_failure: InserveError | None = error
        """How the last failed attempt ended."""
        self.due_s: float | None = None
        """When the next attempt (LOAD_REQUESTED, LOADING) or reload (ERROR) is due; None: nothing is."""
        self._attempts_left = 1 + retry.max_num_retries
        self._num_failures = 0 if error is None else 1

    def __repr__(self) -> str:
        wish = "aspired" if self.is_aspired else "un-aspired"
        return f"<LoaderHarness {self.id} {self.state.value}, {wish}, attempts: {self.attempts}>"

    def transition(self, state: HarnessState) -> None:
        """Go to *state*; ERROR is reached through ``fail``.

        Raises:
            InternalError: *state* does not follow the present one.
        """
        if state not in _NEXT[self.state]:
            raise InternalError(
                f"Illegal request to transition from state {self.state.value} to {state.value}"
            )
        self.state = state

    def request_load(self) -> None:
        """NEW to LOAD_REQUESTED.

        Raises:
            FailedPreconditionError: A load was requested before.
        """
        if self.state is not HarnessState.NEW:
            raise FailedPreconditionError("Duplicate load request")
        self._attempts_left = 1 + self.retry.max_num_retries
        self.transition(HarnessState.LOAD_REQUESTED)

    def request_unload(self) -> None:
        """READY to UNLOAD_REQUESTED.

        Raises:
            FailedPreconditionError: Not loaded, or being unloaded.
        """
        if self.state is not HarnessState.READY:
            raise FailedPreconditionError("Servable not loaded, or unload already requested/ongoing")
        self.transition(HarnessState.UNLOAD_REQUESTED)

    def unaspire(self) -> None:
        """Mark as no longer wanted.

        A running attempt goes on and is the last one. In a pause between attempts one more attempt
        is made, as the C++ server does, but now and not at the end of the pause.
        """
        self.is_aspired = False
        if self.state is HarnessState.ERROR:
            self.due_s = None
        elif self.due_s is not None:
            self.due_s = -math.inf

    def begin_attempt(self) -> None:
        """Count an attempt to load (or to estimate before it) that starts now."""
        self.due_s = None
        self.attempts += 1
        self._attempts_left -= 1

    def attempt_failed(self, error: InserveError, now_s: float) -> bool:
        """Note how the running attempt ended; return whether another will follow, at ``due_s``.

        If not, the caller moves to ERROR with ``fail``.
        """
        self.last_failure = error
        if not self.is_aspired or self._attempts_left <= 0:
            return False
        self.due_s = now_s + max(0.0, self.retry.interval_s)
        return True

    def estimated(self) -> None:
        """Note that resources are estimated, so that loading has all its attempts.

        The load that follows belongs to the attempt already counted.
        """
        self._attempts_left = self.retry.max_num_retries

    def loaded(self) -> None:
        """LOADING to READY; the next failure starts with the shortest pause again."""
        self.transition(HarnessState.READY)
        self._num_failures = 0

    def fail(self, error: InserveError, now_s: float) -> None:
        """Any state to ERROR; ``due_s`` says when a version still aspired is loaded anew."""
        self.state = HarnessState.ERROR
        self.error = error
        self.last_failure = error
        self._num_failures += 1
        pause_s = self.retry.reload_pause_s(self._num_failures)
        can_reload = pause_s is not None and self.is_aspired and self.loader is not None
        self.due_s = now_s + pause_s if can_reload and pause_s is not None else None

    def try_again(self) -> None:
        """ERROR to NEW, keeping the counts and the last failure.

        Raises:
            InternalError: The state is not ERROR.
            FailedPreconditionError: There is no loader, the source gave an error.
        """
        if self.loader is None:
            raise FailedPreconditionError(f"{self.id} has no loader to try again: {self.last_failure}")
        self.transition(HarnessState.NEW)
        self.error = None
        self.due_s = None
