"""Where loads and unloads run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["InlineRunner", "TaskRunner", "ThreadRunner"]

_logger = logging.getLogger("inserve.lifecycle")


class TaskRunner(Protocol):
    """Runs tasks for the manager, which keeps to its limits of tasks under way."""

    def start(self, name: str, task: Callable[[], None]) -> None:
        """Run *task* once, now or later, on any thread; it does not raise. *name* is for people.

        Called on the manager's thread.
        """
        ...


class InlineRunner:
    """Runs each task before ``start`` returns: the manager does nothing else meanwhile."""

    def start(self, name: str, task: Callable[[], None]) -> None:  # noqa: ARG002 - no thread to name
        task()


class ThreadRunner:
    """Runs each task on a thread of its own, which bears the task's name and has a low priority.

    A load takes long enough for the cost of a thread to vanish, and the name says in any stack dump
    what is being loaded. The threads are daemons: a load that hangs does not keep the process alive.
    Where threads have priorities of their own (Linux), requests come first: *niceness* is added to
    that of the process, and threads that a task starts inherit it. Where the system gives no more
    threads, the task runs on the caller's.

    Raises:
        ValueError: *niceness* is negative.
    """

    def __init__(self, niceness: int = 10) -> None:
        if niceness < 0:
            raise ValueError(f"niceness is {niceness}, expected at least 0")
        self._niceness = niceness

    def start(self, name: str, task: Callable[[], None]) -> None:
        def run() -> None:
            _lower_priority_of_this_thread(self._niceness)
            task()

        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except RuntimeError as error:
            _logger.warning("No thread for %s: %s", name, error)
            task()


def _lower_priority_of_this_thread(niceness: int) -> None:
    if sys.platform != "linux":  # elsewhere a priority is the whole process's
        return
    thread_id = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it; the load is then only less polite
        present = os.getpriority(os.PRIO_PROCESS, thread_id)
        os.setpriority(os.PRIO_PROCESS, thread_id, min(19, present + niceness))
