"""Which replica runs the next request."""

from __future__ import annotations

import threading

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """Counts the runs in progress on each of *num_replicas* replicas; any thread may call."""

    def __init__(self, num_replicas: int) -> None:
        self._lock = threading.Lock()
        self._others = tuple(
            (*range(index + 1, num_replicas), *range(index)) for index in range(num_replicas)
        )
        self._counts = [0] * num_replicas
        self._next = 0

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
