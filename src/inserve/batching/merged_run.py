"""Runs requests as one batch: merge, run, share out; and remembers what batches cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from inserve.batching.merging import merge_requests, split_outputs
from inserve.batching.statistics import size_class
from inserve.tensorflow_c.interface import Executor, Runner

__all__ = ["MergedRun"]

_CALLING_THREAD_RUN_S = 5e-3
"""Up to this a graph runs on the calling thread; TensorFlow's pool would only start it on cold caches."""

_DEADLINE_MARGIN = 10.0
"""A run on the calling thread cannot be ended; its deadline must be this many times its cost away."""

_WEIGHT_OF_NEW = 0.2


class MergedRun:
    """One graph call that runs batches. Any number of threads may use it at once.

    *seconds* takes what batches cost, by ``size_class`` of their rows; a lost update costs one figure.
    """

    def __init__(self, runner: Runner, feed_names: Sequence[str], seconds: dict[int, float]) -> None:
        self._run = runner.run
        self._feed_names = tuple(feed_names)
        self._seconds = seconds
        self._seen: set[int] = set()

    def executor(self, rows: int, timeout_s: float | None) -> Executor:
        """Return where a batch of *rows* is to run that must end within *timeout_s*."""
        seconds = self._seconds.get(size_class(rows))
        if (
            seconds is not None
            and seconds <= _CALLING_THREAD_RUN_S
            and (timeout_s is None or timeout_s > _DEADLINE_MARGIN * seconds)
        ):
            return Executor.CALLING_THREAD
        return Executor.POOL

    def usual_s(self, rows: int) -> float | None:
        """Return what a batch of about so many rows takes, in seconds; None where that is not known yet."""
        size = size_class(rows)
        return self._seconds.get(size) if size in self._seen else None

    def run(
        self,
        requests: Sequence[Sequence[NDArray[Any]]],
        rows: Sequence[int],
        rows_to_run: int,
        pad_inputs: bool,
        timeout_s: float | None,
        now: Callable[[], float],
    ) -> tuple[list[list[NDArray[Any]]], float]:
        """Return the outputs of each request, and the seconds of the run by *now*.

        Raises:
            UnbatchableOutputError: An output does not have *rows_to_run* rows.
            InserveError: The requests do not go together, or what TensorFlow said.
        """
        merged = merge_requests(requests, self._feed_names, rows_to_run, pad_inputs)
        started = now()
        outputs = self._run(merged, timeout_s, self.executor(rows_to_run, timeout_s))
        seconds = now() - started
        del merged
        self._observe(rows_to_run, seconds)
        return split_outputs(outputs, rows, rows_to_run), seconds

    def run_alone(
        self, arrays: Sequence[NDArray[Any]], rows: int, timeout_s: float | None, now: Callable[[], float]
    ) -> tuple[list[NDArray[Any]], float]:
        """Return the outputs of one request, whatever their shapes, and the seconds of the run.

        Raises:
            InserveError: What TensorFlow said.
        """
        started = now()
        outputs = self._run(arrays, timeout_s, self.executor(rows, timeout_s))
        seconds = now() - started
        self._observe(rows, seconds)
        return outputs, seconds

    def _observe(self, rows: int, seconds: float) -> None:
        # The first run of a size prepares kernels for it and tells little.
        size = size_class(rows)
        known = self._seconds.get(size)
        if known is None or size not in self._seen:
            if known is not None:
                self._seen.add(size)
            self._seconds[size] = seconds
        else:
            self._seconds[size] = known + _WEIGHT_OF_NEW * (seconds - known)
