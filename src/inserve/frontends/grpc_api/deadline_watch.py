"""Ends calls whose deadline passes while nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["DeadlineWatch"]


class DeadlineWatch:
    """Calls ``expire`` functions after their deadlines, on one thread that ends when it finds none left.

    Meant for the calls of a bounded pool: every wake-up looks at all of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._deadlines: dict[Callable[[], None], float] = {}
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def add(self, deadline: float, expire: Callable[[], None]) -> None:
        """Have *expire* called after *deadline*, in monotonic seconds, unless ``discard`` comes first."""
        with self._changed:
            self._deadlines[expire] = deadline
            if self._thread is None:
                self._wakes_at = deadline
                self._thread = threading.Thread(target=self._watch, name=self._name, daemon=True)
                self._thread.start()
            elif deadline < self._wakes_at:
                self._changed.notify()

    def discard(self, expire: Callable[[], None]) -> None:
        with self._changed:
            self._deadlines.pop(expire, None)

    def stop(self, timeout_s: float) -> None:
        """Forget every deadline and wait at most *timeout_s* seconds for the thread."""
        with self._changed:
            self._deadlines.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                passed = [expire for expire, deadline in self._deadlines.items() if deadline <= now]
                for expire in passed:
                    del self._deadlines[expire]
                if not passed:
                    if not self._deadlines:
                        self._thread = None
                        return
                    self._wakes_at = min(self._deadlines.values())
                    self._changed.wait(min(self._wakes_at - now, threading.TIMEOUT_MAX))
            for expire in passed:
                expire()
