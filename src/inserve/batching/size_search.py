"""Finds the batch size that pays, from the batches of real requests: no run is made for it."""

from __future__ import annotations

from inserve.batching.statistics import size_class

__all__ = ["SizeSearch"]

_RUNS_PER_SIZE = 12
"""So many runs of one size are looked at."""

_QUIET_RUNS = 3
"""The slowest of so many fastest runs counts: other work on the machine only ever slows runs down."""

_PATIENCE = 2
"""So many sizes in a row may bring nothing more before the search ends."""

_MOST_RUNS_PER_SIZE = 128
"""After so many runs without enough of the size in question, requests do not come fast enough for it."""

_GROWTH = 1.05
"""A size must bring so many times the rows per second of the one before it."""

_WORTHWHILE = 1.2
"""Batches must bring so many times the rows per second of single requests, or they are left alone."""


class SizeSearch:
    """A climb through doubling batch sizes, as far as rows per second grow.

    Fed with runs that began while every slot was busy, so the figures are those of a loaded machine.
    ``limit`` is what batches may hold meanwhile, at least 1; it ends at the smallest size from which
    growth stops, at most *most_rows*. Call it under the lock of the scheduler.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rates: list[float] = []
        self._rows: list[int] = []
        self._runs = 0
        self.limit = 1
        self.is_done = False
        self.is_worthwhile = True
        """Whether batches bring something; False only once the search is done."""
        self.measured: tuple[tuple[int, float], ...] = ()
        """Each limit that was measured, and the rows per second of one slot with it."""

    def observe(self, rows: int, seconds: float) -> None:
        """Take in a run of *rows* that took *seconds*."""
        if self.is_done or seconds <= 0:
            return
        self._runs += 1
        if not self.measured or rows > self.limit // 2:
            self._rates.append(rows / seconds)
            self._rows.append(rows)
        if len(self._rates) >= _RUNS_PER_SIZE:
            self._settle_size(sorted(self._rates)[-_QUIET_RUNS])
        elif self._runs >= _MOST_RUNS_PER_SIZE:
            self._end()

    def _settle_size(self, rate: float) -> None:
        self.measured = (*self.measured, (self.limit, rate))
        sizes_since_best = len(self.measured) - 1 - self.measured.index(self._best())
        if sizes_since_best >= _PATIENCE or self.limit >= self._most_rows:
            self._end()
            return
        # A single request may have many rows: the next size holds about two of them.
        largest = sorted(self._rows)[len(self._rows) // 2] if len(self.measured) == 1 else self.limit
        self.limit = min(self._most_rows, 2 << size_class(largest))
        self._rates, self._rows, self._runs = [], [], 0

    def _end(self) -> None:
        if len(self.measured) < 2:
            # Too few requests meet to tell; begin again.
            self._rates, self._rows, self._runs = [], [], 0
            self.measured, self.limit = (), 1
            return
        self.is_done = True
        self.limit, rate = self._best()
        self.is_worthwhile = rate >= _WORTHWHILE * self.measured[0][1]

    def _best(self) -> tuple[int, float]:
        """Return the smallest size from which no larger one brings notably more."""
        best = self.measured[0]
        for figure in self.measured[1:]:
            if figure[1] >= _GROWTH * best[1]:
                best = figure
        return best
