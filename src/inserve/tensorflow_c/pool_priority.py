"""The priority of the threads on which TensorFlow runs whole graphs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["lower_pool_priority"]

_TASKS = Path("/proc/self/task")
_POOL_THREADS = "tf_Compute"
"""The inter-op pool, which long runs go to. Short ones run on the thread that asked, and the pool that
shares out single operations serves both."""

_NICE = 15
"""With 10 a request still waits for a whole time slice now and then; 19 gains nothing more."""


def lower_pool_priority() -> int:
    """Let long runs yield to everything else of this process; return how many threads were found.

    A short request behind a busy processor waits for the end of a time slice at every change of threads,
    unless the threads that keep it busy have a lower priority. Call this once the pool exists, which is
    after the first session; nothing happens where the system has no such threads (Linux has them).
    """
    found = 0
    with contextlib.suppress(OSError):
        for task in list(_TASKS.iterdir()):
            with contextlib.suppress(OSError, ValueError):  # the thread has ended meanwhile
                if (task / "comm").read_text().strip() == _POOL_THREADS:
                    thread = int(task.name)
                    nice = os.getpriority(os.PRIO_PROCESS, thread)
                    os.setpriority(os.PRIO_PROCESS, thread, max(nice, _NICE))
                    found += 1
    return found
