"""Who is told what batching does: the metrics of a server."""

from __future__ import annotations

from typing import Protocol

__all__ = ["BatchingObserver"]


class BatchingObserver(Protocol):
    """Told of requests and batches as TensorFlow Serving counts them (``batching/batching_session.cc``).

    Called on the threads that run requests, any number at once, without a lock of batching; must
    return soon and not raise.
    """

    def submitted(self, rows: int, num_inputs: int) -> None:
        """A request of *rows* rows was submitted (``input_batch_size``, once per input)."""
        ...

    def queued(self, seconds: float) -> None:
        """A request waited so long until its batch started (``queuing_latency``)."""
        ...

    def ran(self, rows: int, padding_rows: int) -> None:
        """A batch of *rows* rows, *padding_rows* of them padding, was run.

        ``wrapped_run_count``, ``processed_batch_size`` and ``padding_size``.
        """
        ...

    def ran_directly(self, rows: int, num_inputs: int, count: int) -> None:
        """*count* requests were run alone on their own threads, at once and unpadded.

        Each had at most *rows* rows, a power of two, and more than half of that. They are told of
        in lumps, by ``BatchScheduler.report_direct_runs``.
        """
        ...
