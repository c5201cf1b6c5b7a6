"""What one queue of requests has done so far, counted cheaply, read as a picture of one moment."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "BatchingStatistics",
    "CloseReason",
    "DirectRuns",
    "QueueCounts",
    "QueueStatistics",
    "size_class",
]

_FEW_ROWS = 65
"""Direct runs of fewer rows are counted one by one, others by the class of their size."""

_NUM_SIZES = 64
_NUM_WAITS = 48


class CloseReason(enum.Enum):
    """Why nothing more joined a batch."""

    FULL = "full"
    NO_FIT = "next request did not fit"
    SLOT_FREE = "a slot was free"
    SHARED = "other slots had their share"
    TIMEOUT = "batch_timeout_micros passed"
    SHAPES = "other requests waiting had other shapes"
    ALONE = "a request that runs alone"
    CLOSING = "the queue was closing"


def size_class(rows: int) -> int:
    """Return ``k`` such that *rows* is at most ``2**k`` and above half of that; *rows* is at least 0."""
    return (rows - 1).bit_length() if rows > 1 else 0


class DirectRuns:
    """Requests that were run at once by their own threads in one slot; written by who holds the slot."""

    __slots__ = ("by_rows", "large_by_size", "large_rows")

    def __init__(self) -> None:
        self.by_rows = [0] * _FEW_ROWS
        """Requests of fewer than ``_FEW_ROWS``, by their rows."""
        self.large_by_size = [0] * _NUM_SIZES
        self.large_rows = 0

    def count_large(self, rows: int) -> None:
        """Count one request of at least ``_FEW_ROWS``."""
        self.large_by_size[size_class(rows)] += 1
        self.large_rows += rows

    def by_size(self) -> list[int]:
        """Return the number of requests by the class of their rows."""
        sizes = list(self.large_by_size)
        for rows, count in enumerate(self.by_rows):
            sizes[size_class(rows)] += count
        return sizes

    def rows(self) -> int:
        """Return the rows of all requests."""
        return self.large_rows + sum(rows * count for rows, count in enumerate(self.by_rows))


@dataclass(frozen=True)
class QueueStatistics:
    """One queue: requests that feed and fetch the same tensors of one version of a model."""

    inputs: tuple[str, ...]
    """Names of the tensors that are fed."""
    outputs: tuple[str, ...]
    """Names of the tensors that are fetched."""
    direct_runs: int = 0
    """Requests that found a slot free and were run at once, alone."""
    batches: int = 0
    """Batches that were run after a wait, or padded."""
    batched_requests: int = 0
    """Requests in these batches."""
    rows: int = 0
    """Rows of requests, in direct runs and batches."""
    padding_rows: int = 0
    """Rows run in addition, to reach an allowed size."""
    runs_by_size: Mapping[int, int] = field(default_factory=dict)
    """Runs by their rows without padding, rounded up to a power of two; direct runs too."""
    seconds_by_size: Mapping[int, float] = field(default_factory=dict)
    """What a batch of about so many rows takes, by its rows rounded up to a power of two."""
    close_reasons: Mapping[CloseReason, int] = field(default_factory=dict)
    """How many batches were closed for each reason."""
    waited_s: float = 0.0
    """Seconds that the requests in batches waited before those started, in total."""
    wait_p50_s: float = 0.0
    """Half of these requests waited at most about so long; a power of two of microseconds."""
    wait_p99_s: float = 0.0
    """99 % of these requests waited at most about so long."""
    queued: int = 0
    """Requests that wait now."""
    refused: int = 0
    """Requests for which there was no room."""
    expired: int = 0
    """Requests whose deadline passed while they waited."""
    cancelled: int = 0
    """Requests that were given up while they waited."""
    failed_batches: int = 0
    """Batches of several requests that failed as a whole."""
    not_batching: str | None = None
    """Why requests are not merged although batching is on; None: they are."""
    measured: tuple[tuple[int, float], ...] = ()
    """Where sizes are measured: limit of a batch in rows, and rows per second of one slot with it."""
    batch_limit: int = 0
    """The largest batch that is formed now, in rows."""

    @property
    def runs(self) -> int:
        """Runs of the graph."""
        return self.direct_runs + self.batches

    @property
    def requests(self) -> int:
        """Requests that were run."""
        return self.direct_runs + self.batched_requests

    @property
    def mean_rows(self) -> float:
        """Rows of requests in a run, on average."""
        return self.rows / self.runs if self.runs else 0.0


@dataclass(frozen=True)
class BatchingStatistics:
    """All queues of one loaded version of a model."""

    path: str
    """The folder of the version."""
    queues: tuple[QueueStatistics, ...]
    num_slots: int
    """How many batches may run at the same time, see ``num_batch_threads``."""


class QueueCounts:
    """The counters of one queue. Change them under the scheduler's lock, but for ``direct``."""

    def __init__(self, num_slots: int) -> None:
        self.direct = [DirectRuns() for _ in range(num_slots)]
        self.batches = 0
        self.requests = 0
        self.rows = 0
        self.padding_rows = 0
        self.by_size = [0] * _NUM_SIZES
        self.seconds: dict[int, float] = {}
        self.close_reasons: dict[CloseReason, int] = {}
        self.waited_s = 0.0
        self.waits = [0] * _NUM_WAITS
        self.refused = 0
        self.expired = 0
        self.cancelled = 0
        self.failed_batches = 0
        self.reported = [0] * _NUM_SIZES

    def waited(self, seconds: float) -> None:
        """Count one request that waited *seconds* for its batch."""
        self.requests += 1
        self.waited_s += seconds
        self.waits[min(_NUM_WAITS - 1, int(seconds * 1e6).bit_length())] += 1

    def closed(self, rows: int, padding_rows: int, reason: CloseReason) -> None:
        """Count one batch of *rows* that is about to run."""
        self.batches += 1
        self.rows += rows
        self.padding_rows += padding_rows
        self.by_size[size_class(rows)] += 1
        self.close_reasons[reason] = self.close_reasons.get(reason, 0) + 1

    def direct_by_size(self) -> list[int]:
        """Return how many direct runs there were, by the class of their rows."""
        return [sum(counts) for counts in zip(*(direct.by_size() for direct in self.direct), strict=True)]

    def unreported_direct_runs(self) -> list[tuple[int, int]]:
        """Return rows, a power of two, and number of the direct runs that came since the last call."""
        now = self.direct_by_size()
        fresh = [
            (1 << k, count - self.reported[k]) for k, count in enumerate(now) if count > self.reported[k]
        ]
        self.reported = now
        return fresh

    def wait_quantile_s(self, share: float) -> float:
        """Return the upper end of the class of waits below which *share* of the requests lie."""
        left = share * sum(self.waits)
        if left == 0:
            return 0.0
        for bits, count in enumerate(self.waits):
            left -= count
            if left <= 0:
                return (1 << bits) * 1e-6 if bits else 0.0
        return (1 << _NUM_WAITS) * 1e-6

    def picture(
        self,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        queued: int,
        not_batching: str | None,
        measured: tuple[tuple[int, float], ...],
        batch_limit: int,
    ) -> QueueStatistics:
        """Return the counts as they are now."""
        direct = self.direct_by_size()
        sizes = [direct[k] + self.by_size[k] for k in range(_NUM_SIZES)]
        return QueueStatistics(
            inputs=inputs,
            outputs=outputs,
            direct_runs=sum(direct),
            batches=self.batches,
            batched_requests=self.requests,
            rows=self.rows + sum(slot.rows() for slot in self.direct),
            padding_rows=self.padding_rows,
            runs_by_size={1 << k: count for k, count in enumerate(sizes) if count},
            seconds_by_size={1 << k: seconds for k, seconds in sorted(self.seconds.items())},
            close_reasons=dict(self.close_reasons),
            waited_s=self.waited_s,
            wait_p50_s=self.wait_quantile_s(0.5),
            wait_p99_s=self.wait_quantile_s(0.99),
            queued=queued,
            refused=self.refused,
            expired=self.expired,
            cancelled=self.cancelled,
            failed_batches=self.failed_batches,
            not_batching=not_batching,
            measured=measured,
            batch_limit=batch_limit,
        )
