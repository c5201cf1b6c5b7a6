"""A bounded number of things that one thread at a time may use, given out first come, first served."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from inserve.clock import Clock
from inserve.errors import DeadlineExceededError, FailedPreconditionError

__all__ = ["InterpreterPool"]

Item = TypeVar("Item")

FORKED_MESSAGE = (
    "TFLite models cannot be used in this process: it was forked from one that had loaded them. "
    "Load models in the child process only, or start processes with the 'spawn' method"
)


class _Waiter(Generic[Item]):
    __slots__ = ("given", "item")

    def __init__(self) -> None:
        self.given = threading.Event()
        self.item: Item | None = None


class InterpreterPool(Generic[Item]):
    """Gives out *items* one user at a time; *name* stands in messages. Any thread may use it.

    Whoever has taken an item gives it back. The item given back last is taken first: its memory is in
    the processor's caches.
    """

    def __init__(self, name: str, items: Iterable[Item], clock: Clock) -> None:
        self._name = name
        self._idle = list(items)
        self._size = len(self._idle)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiters: deque[_Waiter[Item]] = deque()
        self._refusal: str | None = None
        self._drained = threading.Event()
        _pools.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._refusal else "open"
        return (
            f"<InterpreterPool {self._name!r} [{state}, {len(self._idle)} of {self._size} idle, "
            f"{len(self._waiters)} waiting]>"
        )

    def take(self, timeout_s: float | None = None) -> Item:
        """Return an item, when it is the caller's turn.

        Raises:
            DeadlineExceededError: None was free for *timeout_s* seconds.
            FailedPreconditionError: The pool is closed.
        """
        with self._lock:
            if self._refusal is not None:
                raise FailedPreconditionError(self._refusal)
            # Idle items and waiters are never there at once: ``give_back`` hands over.
            if self._idle:
                return self._idle.pop()
            waiter: _Waiter[Item] = _Waiter()
            self._waiters.append(waiter)
        try:
            self._clock.wait(waiter.given, timeout_s)
        except BaseException:
            self._leave(waiter)
            if waiter.item is not None:
                self.give_back(waiter.item)
            raise
        if not waiter.given.is_set():
            self._leave(waiter)
        if waiter.item is None:
            raise DeadlineExceededError(
                f"none of the {self._size} interpreters of {self._name} was free within {timeout_s} s"
            )
        return waiter.item

    def give_back(self, item: Item) -> None:
        """Let the next user have *item*, or what replaces it."""
        with self._lock:
            if self._waiters:
                waiter = self._waiters.popleft()
                waiter.item = item
                waiter.given.set()
                return
            self._idle.append(item)
            if self._refusal is not None and len(self._idle) == self._size:
                self._drained.set()

    def close(self) -> None:
        """Give out nothing more; returns when everything has come back and is dropped.

        Those who wait already get their turn.
        """
        with self._lock:
            if self._refusal is None:
                self._refusal = f"the session of {self._name} is closed"
            if len(self._idle) == self._size:
                self._drained.set()
        self._drained.wait()
        self._idle.clear()

    def _leave(self, waiter: _Waiter[Item]) -> None:
        """Wait no longer; ``waiter.item`` tells whether the item was there before."""
        with self._lock:
            if waiter.item is None:
                self._waiters.remove(waiter)

    def refuse_after_fork(self) -> None:
        """Answer every further call with an error: what is in use stays so for ever in a forked child."""
        self._lock = threading.Lock()
        self._refusal = FORKED_MESSAGE
        self._waiters.clear()
        self._drained.set()


_pools: weakref.WeakSet[InterpreterPool[Any]] = weakref.WeakSet()


def _refuse_in_child() -> None:
    for pool in list(_pools):
        pool.refuse_after_fork()


os.register_at_fork(after_in_child=_refuse_in_child)
