"""How a serving command ends: the first SIGTERM or SIGINT is an interrupt, a second one ends at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["restore_default_signals", "signals_interrupt"]

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


def restore_default_signals() -> None:
    """Let the next SIGINT or SIGTERM end the process where it stands."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
