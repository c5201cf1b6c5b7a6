"""Notices that this process is a fork of one in which TensorFlow's threads were running.

The threads do not exist in the child, so any run or load there would wait for ever.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from inserve.errors import FailedPreconditionError

__all__ = ["FORKED_MESSAGE", "ForkSensitive", "check_not_forked", "is_forked", "register"]

FORKED_MESSAGE = (
    "TensorFlow cannot be used in this process: it was forked from one that had loaded a model. "
    "Load models in the child process only, or start processes with the 'spawn' method"
)


class ForkSensitive(Protocol):
    """What is told that it lives in a forked child, before any other code runs there."""

    def refuse_after_fork(self) -> None:
        """Answer every further call with ``FORKED_MESSAGE`` and free nothing."""
        ...


_registered: weakref.WeakSet[ForkSensitive] = weakref.WeakSet()
_threads_started = False
_forked = False


def register(sensitive: ForkSensitive) -> None:
    """Tell *sensitive* in every child that is forked from now on; TensorFlow's threads run now."""
    global _threads_started
    _threads_started = True
    _registered.add(sensitive)


def is_forked() -> bool:
    """Return whether TensorFlow's threads were left behind in the parent."""
    return _forked


def check_not_forked() -> None:
    """Return where TensorFlow can be used.

    Raises:
        FailedPreconditionError: This is a forked child without TensorFlow's threads.
    """
    if _forked:
        raise FailedPreconditionError(FORKED_MESSAGE)


def _mark_child() -> None:
    global _forked
    if _threads_started:
        _forked = True
        for sensitive in list(_registered):
            sensitive.refuse_after_fork()


os.register_at_fork(after_in_child=_mark_child)
