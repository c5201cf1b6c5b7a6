"""A clock that goes on only when told to."""

from __future__ import annotations

import math
import threading

__all__ = ["ManualClock"]

_LOOK_S = 0.001
_WAKE_LIMIT_S = 30.0


class ManualClock:
    """A ``Clock`` whose seconds pass in ``advance`` alone; any thread may call.

    What a wait returns depends on its event and on this time only, never on the machine's.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._changed = threading.Condition()
        self._deadlines: list[float] = []

    def __repr__(self) -> str:
        return f"<ManualClock {self._now_s} s, waiting: {len(self._deadlines)}>"

    def now(self) -> float:
        return self._now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        if event.is_set():
            return True
        with self._changed:
            deadline = math.inf if timeout_s is None else self._now_s + timeout_s
            if deadline <= self._now_s:
                return False
            self._deadlines.append(deadline)
            self._changed.notify_all()
        try:
            while not event.wait(_LOOK_S):
                if self._now_s >= deadline:
                    return event.is_set()
            return True
        finally:
            with self._changed:
                self._deadlines.remove(deadline)
                self._changed.notify_all()

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and return when every wait that this ends has woken.

        Raises:
            ValueError: *seconds* is negative.
            TimeoutError: A wait that is over did not wake.
        """
        if seconds < 0:
            raise ValueError(f"expected seconds that have not passed yet, got {seconds}")
        with self._changed:
            self._now_s += seconds
            if not self._changed.wait_for(
                lambda: all(deadline > self._now_s for deadline in self._deadlines), _WAKE_LIMIT_S
            ):
                raise TimeoutError(f"a wait that was over did not wake within {_WAKE_LIMIT_S} s")

    def block_until_waiting(self, count: int = 1) -> None:
        """Return once at least *count* threads are in ``wait``.

        Raises:
            TimeoutError: That does not come about.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._deadlines) >= count, _WAKE_LIMIT_S):
                raise TimeoutError(f"expected {count} threads in wait, got {len(self._deadlines)}")
