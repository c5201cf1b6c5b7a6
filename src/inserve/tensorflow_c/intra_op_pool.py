"""Which pool of intra-op threads a session gets.

TensorFlow keeps one such pool for all sessions of a process, of the size that the first session asked
for (``common_runtime/local_device.cc``); what later ones ask for changes nothing. A session that asks
for exactly one thread gets a pool of its own here: its operations then run on the threads that execute
its graph, which for small graphs is several times faster than sharing each operation out.

TensorFlow decides by a flag of the library, ``LocalDevice::use_global_threadpool_``, when it makes a
session. It holds for all threads, so sessions of the two kinds are not made at the same time. Where the
library has no such flag, every session uses the shared pool.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from inserve.tensorflow_c.library import Library

__all__ = ["intra_op_pool", "shared_pool_flag"]

_FLAG = "_ZN10tensorflow11LocalDevice22use_global_threadpool_E"

_LONGEST_WAIT_S = 10.0
"""A load that hangs must not hold up loads of the other kind for good."""

_changed = threading.Condition()
_in_progress = {True: 0, False: 0}
"""Loads of sessions with and without a pool of their own."""


@contextmanager
def intra_op_pool(library: Library, own: bool) -> Iterator[None]:
    """Let sessions that are made inside have a pool of their *own*, or the shared one.

    Waits for those who make sessions of the other kind; if that takes longer than ten seconds, goes on
    with the kind that these have.
    """
    flag = shared_pool_flag(library)
    if flag is None:
        yield
        return
    with _changed:
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while _in_progress[not own]:
            left = deadline - time.monotonic()
            if left <= 0:
                own = not own
                break
            _changed.wait(left)
        _in_progress[own] += 1
        flag.value = not own
    try:
        yield
    finally:
        with _changed:
            _in_progress[own] -= 1
            if not _in_progress[own]:
                flag.value = True
                _changed.notify_all()


@functools.lru_cache(maxsize=1)
def shared_pool_flag(library: Library) -> ctypes.c_bool | None:
    """Return TensorFlow's flag: whether sessions get the shared pool; None where there is no choice."""
    try:
        framework = ctypes.CDLL(str(library.paths.framework))
        flag = ctypes.c_bool.in_dll(framework, _FLAG)
    except (OSError, ValueError):
        return None
    return flag if flag.value else None  # TF_OVERRIDE_GLOBAL_THREADPOOL gives every session its own


def _renew_after_fork() -> None:
    global _changed
    _changed = threading.Condition()


os.register_at_fork(after_in_child=_renew_after_fork)
