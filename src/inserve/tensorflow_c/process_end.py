"""Lets no call of TensorFlow be in progress when the process ends.

The global objects of TensorFlow's library are destroyed while a process ends, and a thread that still
runs a graph then crashes on them. So the interpreter's exit handlers refuse new runs, cancel those in
progress, and wait for them and for loads, which cannot be cancelled. An operation in progress is
never cut short: one that takes longer than ``END_LIMIT_S`` is left to its luck.

The interpreter stops daemon threads wherever they are. One that comes out of a run at that time, or
wants to begin one, is held here, so that it does not report an error which nobody is left to handle.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["ENDING_MESSAGE", "END_LIMIT_S", "Ending", "hold_daemon", "load_in_progress", "register"]

ENDING_MESSAGE = "the process is ending"

END_LIMIT_S = 10.0
"""How long the end of the process waits in all."""


class Ending(Protocol):
    """What has runs that the end of the process must wait for."""

    def cancel_runs(self) -> None:
        """Refuse new runs with ``ENDING_MESSAGE`` and cancel those in progress; does not block."""
        ...

    def wait_for_runs(self, deadline: float) -> None:
        """Return when no run is in progress, at *deadline* in monotonic seconds at the latest."""
        ...


_registered: dict[int, weakref.ref[Ending]] = {}
_loads_changed = threading.Condition()
_loads = 0
_ending = False


def register(ending: Ending) -> None:
    """End the runs of *ending*, if it still lives, when the process ends."""
    key = id(ending)
    _registered[key] = weakref.ref(ending, lambda _: _registered.pop(key, None))


@contextmanager
def load_in_progress() -> Iterator[None]:
    """Let the end of the process wait for what happens inside."""
    global _loads
    with _loads_changed:
        _loads += 1
    try:
        yield
    finally:
        with _loads_changed:
            _loads -= 1
            _loads_changed.notify_all()


def hold_daemon() -> None:
    """Never return on a daemon thread while the process ends; return at once otherwise."""
    if _ending and threading.current_thread().daemon:
        threading.Event().wait()


def _end() -> None:
    global _ending
    _ending = True
    deadline = time.monotonic() + END_LIMIT_S
    endings = [ending for reference in list(_registered.values()) if (ending := reference()) is not None]
    for ending in endings:
        ending.cancel_runs()
    for ending in endings:
        ending.wait_for_runs(deadline)
    with _loads_changed:
        _loads_changed.wait_for(lambda: not _loads, max(0.0, deadline - time.monotonic()))


def _forget_loads_of_parent() -> None:
    global _loads_changed, _loads
    _loads_changed = threading.Condition()
    _loads = 0


os.register_at_fork(after_in_child=_forget_loads_of_parent)
atexit.register(_end)
