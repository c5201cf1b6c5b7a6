"""Where loads and unloads run."""

from __future__ import annotations

import logging
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
    """Runs each task on a thread of its own, which bears the task's name.

    A load takes long enough for the cost of a thread to vanish, and the name says in any stack dump
    what is being loaded. The threads are daemons: a load that hangs does not keep the process alive.
    Where the system gives no more threads, the task runs on the caller's.
    """

    def start(self, name: str, task: Callable[[], None]) -> None:
        try:
            threading.Thread(target=task, name=name, daemon=True).start()
        except RuntimeError as error:
            _logger.warning("No thread for %s: %s", name, error)
            task()
