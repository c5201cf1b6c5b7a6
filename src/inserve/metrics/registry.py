"""Counters and histograms by name; a server has one ``Registry``, so that several in a process do not mix.

A metric has cells, one for each combination of its labels' values. Recording takes no lock that
another thread may hold for long, and nothing is lost between threads.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Generic, NamedTuple, TypeVar

__all__ = [
    "MAX_CELLS",
    "Counter",
    "CounterCell",
    "Histogram",
    "HistogramCell",
    "HistogramValue",
    "Metric",
    "MetricSnapshot",
    "Registry",
    "add_up",
    "exponential_bounds",
]

MAX_CELLS = 4096
"""How many cells a metric keeps; one more takes the place of the oldest."""

_MAX_PENDING = 128
"""How many values a histogram's cell takes before it sorts them into buckets."""

CellT = TypeVar("CellT")


def exponential_bounds(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Return *count* bounds, each *factor* times the one before it."""
    bounds = [first]
    for _ in range(count - 1):
        bounds.append(bounds[-1] * factor)
    return tuple(bounds)


class CounterCell:
    """An integer that only grows; any thread may call any method."""

    __slots__ = ("_lock", "_more", "_ones", "_reads", "increment")

    def __init__(self) -> None:
        # ``next`` of an iterator written in C is one step for every other thread, unlike ``+=``.
        self._ones = itertools.count()
        self.increment: Callable[[], object] = self._ones.__next__
        """Adds one; what it returns means nothing."""
        self._reads = 0
        self._more = 0
        self._lock = threading.Lock()

    def increment_by(self, amount: int) -> None:
        """Add *amount*, at least 0."""
        with self._lock:
            self._more += amount

    def value(self) -> int:
        """Return the sum of what was added."""
        with self._lock:
            ones = next(self._ones) - self._reads
            self._reads += 1
            return ones + self._more


class HistogramValue(NamedTuple):
    """What a cell of a histogram has seen."""

    counts: tuple[int, ...]
    """How many values each bucket got, in order; the last is for those that no bound is above."""
    sum: float


class HistogramCell:
    """Counts values by the bucket they fall into; any thread may call any method.

    A bucket holds the values from the bound below it, itself included, up to the one above, itself
    excluded.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_pending", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        # Appending to a deque is one step for every other thread; sorting in is done for many at once.
        self._pending: deque[float] = deque()
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Count *value*."""
        pending = self._pending
        pending.append(value)
        if len(pending) >= _MAX_PENDING:
            self._sort_in()

    def add_times(self, value: float, count: int) -> None:
        """Count *value*, *count* times."""
        with self._lock:
            self._counts[bisect_right(self._bounds, value)] += count
            self._sum += value * count

    def value(self) -> HistogramValue:
        """Return what was added so far."""
        with self._lock:
            self._take_pending()
            return HistogramValue(tuple(self._counts), self._sum)

    def _sort_in(self) -> None:
        if self._lock.acquire(blocking=False):  # else another thread is about it
            try:
                self._take_pending()
            finally:
                self._lock.release()

    def _take_pending(self) -> None:
        take = self._pending.popleft
        values = [take() for _ in range(len(self._pending))]  # nobody else takes: the lock is held
        if not values:
            return
        self._sum += sum(values)
        # Values of one cell are much alike: with them in order few buckets need a look.
        values.sort()
        counts, bounds = self._counts, self._bounds
        bucket = bisect_right(bounds, values[0])
        start = 0
        for bound in bounds[bucket:]:
            stop = bisect_left(values, bound, start)
            counts[bucket] += stop - start
            if stop == len(values):
                return
            bucket, start = bucket + 1, stop
        counts[bucket] += len(values) - start


class MetricSnapshot(NamedTuple):
    """A metric at one moment: plain values, which another process can be sent."""

    name: str
    """The registry name."""
    kind: str
    """The word of Prometheus' ``# TYPE`` line."""
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    """Of a histogram; else empty."""
    cells: Mapping[tuple[str, ...], int | HistogramValue]
    """By the values of the labels, ordered by these; one kind of value throughout."""


def add_up(snapshots: Iterable[Iterable[MetricSnapshot]]) -> list[MetricSnapshot]:
    """Return the sum of what several processes hold, ordered by name.

    Metrics of one name must have the same kind, labels and bounds.
    """
    sums: dict[str, MetricSnapshot] = {}
    for snapshot in itertools.chain.from_iterable(snapshots):
        before = sums.get(snapshot.name)
        sums[snapshot.name] = snapshot if before is None else _sum_of(before, snapshot)
    return sorted(sums.values(), key=lambda snapshot: snapshot.name)


def _sum_of(one: MetricSnapshot, other: MetricSnapshot) -> MetricSnapshot:
    cells = dict(one.cells)
    for values, value in other.cells.items():
        before = cells.get(values)
        if isinstance(value, HistogramValue) and isinstance(before, HistogramValue):
            counts = tuple(map(add, before.counts, value.counts))
            cells[values] = HistogramValue(counts, before.sum + value.sum)
        elif isinstance(value, int) and isinstance(before, int):
            cells[values] = before + value
        else:
            cells[values] = value
    return one._replace(cells=dict(sorted(cells.items())))


class Metric(Generic[CellT]):
    """A metric by its registry name, ``/tensorflow/serving/request_count``; any thread may use it.

    With *only_once_used* the metric does not exist to readers before it has a cell.
    """

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        make_cell: Callable[[], CellT],
        only_once_used: bool = False,
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.only_once_used = only_once_used
        self.num_dropped = 0
        """How many cells had to go, each for a newer one."""
        self._make_cell = make_cell
        self._cells: dict[tuple[str, ...], CellT] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {len(self._cells)} cells>"

    def cell(self, *values: str) -> CellT:
        """Return the cell for *values* of the labels, in order; the first call for them makes it.

        Raises:
            ValueError: There are more or fewer labels than values.
        """
        found = self._cells.get(values)
        if found is not None:
            return found
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has labels {self.labels}, got values {values}")
        with self._lock:
            found = self._cells.get(values)
            if found is None:
                if len(self._cells) >= MAX_CELLS:
                    del self._cells[next(iter(self._cells))]
                    self.num_dropped += 1
                found = self._cells[values] = self._make_cell()
            return found

    def cells(self) -> list[tuple[tuple[str, ...], CellT]]:
        """Return every cell with its values, ordered by these."""
        with self._lock:
            cells = list(self._cells.items())
        return sorted(cells, key=lambda item: item[0])


class Counter(Metric[CounterCell]):
    """A metric of integers that only grow."""

    def __init__(self, name: str, labels: Sequence[str] = (), only_once_used: bool = False) -> None:
        super().__init__(name, labels, CounterCell, only_once_used)

    def snapshot(self) -> MetricSnapshot:
        """Return what the metric holds now."""
        cells = {values: cell.value() for values, cell in self.cells()}
        return MetricSnapshot(self.name, "counter", self.labels, (), cells)


class Histogram(Metric[HistogramCell]):
    """A metric of counts by size; *bounds* part the buckets and increase."""

    def __init__(
        self, name: str, bounds: Sequence[float], labels: Sequence[str] = (), only_once_used: bool = False
    ) -> None:
        self.bounds = tuple(bounds)
        super().__init__(name, labels, lambda: HistogramCell(self.bounds), only_once_used)

    def snapshot(self) -> MetricSnapshot:
        """Return what the metric holds now."""
        cells = {values: cell.value() for values, cell in self.cells()}
        return MetricSnapshot(self.name, "histogram", self.labels, self.bounds, cells)


class Registry:
    """The metrics of one server, by name; any thread may call any method."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Histogram] = {}
        self._unrecorded: dict[str, MetricSnapshot] = {}
        self._before_reading: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()

    def counter(self, name: str, labels: Sequence[str] = (), only_once_used: bool = False) -> Counter:
        """Return a new counter.

        Raises:
            ValueError: There is a metric of that name.
        """
        counter = Counter(name, labels, only_once_used)
        self._add(counter)
        return counter

    def histogram(
        self, name: str, bounds: Sequence[float], labels: Sequence[str] = (), only_once_used: bool = False
    ) -> Histogram:
        """Return a new histogram.

        Raises:
            ValueError: There is a metric of that name.
        """
        histogram = Histogram(name, bounds, labels, only_once_used)
        self._add(histogram)
        return histogram

    def declare(self, name: str, kind: str) -> None:
        """Let readers see a metric that never has a cell; *kind* is Prometheus' word."""
        with self._lock:
            self._unrecorded[name] = MetricSnapshot(name, kind, (), (), {})

    def before_reading(self, record: Callable[[], None]) -> None:
        """Call *record* before every reading from now on: it records what was only noted until then."""
        with self._lock:
            self._before_reading = (*self._before_reading, record)

    def snapshot(self) -> list[MetricSnapshot]:
        """Return what every metric that readers see holds now, ordered by name."""
        self._record_what_was_noted()
        with self._lock:
            metrics, snapshots = list(self._metrics.values()), list(self._unrecorded.values())
        for metric in metrics:
            snapshot = metric.snapshot()
            if snapshot.cells or not metric.only_once_used:
                snapshots.append(snapshot)
        return sorted(snapshots, key=lambda snapshot: snapshot.name)

    def value(self, name: str) -> int:
        """Return the first cell of the counter *name*; 0 where there is none, and for other kinds.

        The rule of ``metric_names`` in a reload (TensorFlow Serving, ``model_service_impl.cc``).
        """
        self._record_what_was_noted()
        with self._lock:
            metric = self._metrics.get(name)
        cells = metric.cells() if isinstance(metric, Counter) else []
        return cells[0][1].value() if cells else 0

    def _record_what_was_noted(self) -> None:
        for record in self._before_reading:
            record()

    def _add(self, metric: Counter | Histogram) -> None:
        with self._lock:
            if metric.name in self._metrics:
                raise ValueError(f"there is a metric {metric.name} already")
            self._metrics[metric.name] = metric
