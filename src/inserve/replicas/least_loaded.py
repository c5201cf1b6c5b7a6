"""Which replica runs the next request."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["LeastLoaded"]

_all: weakref.WeakSet[LeastLoaded] = weakref.WeakSet()


class LeastLoaded:
    """Counts the runs in progress on each of *num_replicas* replicas; any thread may call."""

    def __init__(self, num_replicas: int) -> None:
        self._lock = threading.Lock()
        self._others = tuple(
            (*range(index + 1, num_replicas), *range(index)) for index in range(num_replicas)
        )
        self._counts = [0] * num_replicas
        self._next = 0
        _all.add(self)

    def __repr__(self) -> str:
        return f"<LeastLoaded {self._counts}>"

    def take(self) -> int:
        """Return the replica with the fewest runs in progress, of several the next in turn; note a run.

        Its number has to be given to ``give_back``.
        """
        with self._lock:
            counts = self._counts
            chosen = self._next
            least = counts[chosen]
            if least:
                for index in self._others[chosen]:
                    if counts[index] < least:
                        chosen, least = index, counts[index]
            counts[chosen] = least + 1
            self._next = chosen + 1 if chosen + 1 < len(counts) else 0
            return chosen

    def give_back(self, replica: int) -> None:
        """Note that a run on *replica* is over."""
        with self._lock:
            self._counts[replica] -= 1

    def counts(self) -> list[int]:
        """Return the runs in progress on each replica."""
        with self._lock:
            return list(self._counts)

    def after_fork(self) -> None:
        """Begin anew in a forked child: a thread that does not exist there may have held the lock."""
        self._lock = threading.Lock()
        self._counts = [0] * len(self._counts)


def _after_fork_in_child() -> None:
    for least_loaded in list(_all):
        least_loaded.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
