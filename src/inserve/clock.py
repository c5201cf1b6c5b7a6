"""Time, handed in: product code asks a Clock, tests hand in ``inserve.testing.ManualClock``."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Monotonic time and waiting, in float seconds. Every method may be called from any thread."""

    def now(self) -> float:
        """Return monotonic seconds; only differences mean anything."""
        ...

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Block until *event* is set or *timeout_s* seconds have passed; return whether it is set."""
        ...


class SystemClock:
    """The operating system's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        return event.wait(timeout_s)
