"""How a serving command ends: the first SIGTERM or SIGINT is an interrupt, a second one ends at once."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["restore_default_signals", "signals_interrupt", "wait_for_interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt in a block; give the handlers back after it."""
    before = [signal.signal(number, signal.default_int_handler) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def wait_for_interrupt() -> NoReturn:
    """Wait, in the main thread, until the handler of a signal raises.

    The system may deliver a signal on any thread. Python runs its handler on the main thread, but wakes that
    thread from a wait only if the signal was delivered there; what is written to the wakeup descriptor
    (``signal.set_wakeup_fd``) wakes it in each case.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                select.select([reader], [], [])
                reader.recv(64)
        finally:
            signal.set_wakeup_fd(before)


def restore_default_signals() -> None:
    """Let the next SIGINT or SIGTERM end the process where it stands."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
