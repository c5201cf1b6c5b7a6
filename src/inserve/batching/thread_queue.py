"""Requests of one kind that wait for a thread, batched to the letter of TensorFlow Serving.

Rules and texts: TensorFlow, ``kernels/batching_util/shared_batch_scheduler.h``; TensorFlow Serving,
``batching/batching_session.cc``. A request without rows would wait there for ever and never comes here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from copy import copy

from inserve.batching.batch_formation import (
    check_capacity,
    check_room_for_batch,
    is_due,
    part_sizes,
    rows_to_run,
    seconds_until_due,
)
from inserve.batching.batch_task import BatchTask, Outcome, TaskState, split_task
from inserve.batching.merged_run import MergedRun
from inserve.batching.options import BatchingOptions
from inserve.batching.statistics import CloseReason, QueueCounts, QueueStatistics
from inserve.batching.thread_scheduler import ThreadScheduler
from inserve.errors import FailedPreconditionError, ResourceExhaustedError, UnavailableError
from inserve.tensorflow_c.interface import Runner

__all__ = ["ThreadQueue"]

_NO_TIMEOUT_S = (2**31 - 1) * 1e-6


class _Batch:
    """Requests that will run together; *opened_at* is when the first of them came."""

    __slots__ = ("opened_at", "rows", "tasks")

    def __init__(self) -> None:
        self.tasks: list[BatchTask] = []
        self.rows = 0
        self.opened_at = 0.0

    def add(self, task: BatchTask, now: float) -> None:
        if not self.tasks:
            self.opened_at = now
        self.tasks.append(task)
        self.rows += task.rows


class ThreadQueue:
    """Requests that feed *feeds* and fetch *fetches* of one version; *runner* takes them in that order.

    A list of batches of which only the last is open; there is always one. Methods that say so want the
    scheduler's lock.
    """

    def __init__(
        self,
        scheduler: ThreadScheduler,
        options: BatchingOptions,
        runner: Runner,
        feeds: Sequence[str],
        fetches: Sequence[str],
    ) -> None:
        self.scheduler = scheduler
        self.feeds = tuple(feeds)
        self.fetches = tuple(fetches)
        self.options = options
        self.counts = QueueCounts(scheduler.num_threads)
        self._run = MergedRun(runner, feeds, self.counts.seconds)
        self._batches: deque[_Batch] = deque([_Batch()])
        self.passing = False
        """Whether requests run by themselves, as without batching: while a version warms up."""
        self._closed: str | None = None
        self._unfinished = 0
        self._drained = threading.Event()

    def __repr__(self) -> str:
        return f"<ThreadQueue {', '.join(self.feeds)} -> {', '.join(self.fetches)}>"

    def set_options(self, options: BatchingOptions) -> None:
        """Form batches by *options* from now on."""
        with self.scheduler.lock:
            self.options = options
            self.scheduler.wake()

    def add(self, task: BatchTask) -> None:
        """Put *task* into the open batch, or into a new one where it does not fit.

        With splitting its parts go into as many batches as it takes.

        Raises:
            UnavailableError: There is no room, or the server is stopping.
            FailedPreconditionError: The version was unloaded.
            InternalError: The request cannot be split.
        """
        options = self.options
        limit = options.execution_limit
        with self.scheduler.lock:
            if self._closed is not None:
                raise FailedPreconditionError(self._closed)
            self.scheduler.check_running()
            open_rows = self._batches[-1].rows
            parts = [task]
            try:
                if options.enable_large_batch_splitting:
                    check_capacity(
                        task.rows, len(self._batches), options.max_enqueued_batches, open_rows, limit
                    )
                    parts = split_task(task, part_sizes(task.rows, open_rows, limit))
                elif open_rows + task.rows > limit:
                    check_room_for_batch(len(self._batches), max(1, options.max_enqueued_batches))
            except UnavailableError:
                self.counts.refused += 1
                raise
            self._unfinished += len(parts)
            for part in parts:
                if self._batches[-1].rows + part.rows > limit:
                    self._batches.append(_Batch())
                self._batches[-1].add(part, task.arrived)
            self.scheduler.wake()

    def take_due(self, now: float) -> tuple[list[BatchTask], CloseReason] | None:
        """Take the first batch out if it is due; an open one leaves a new one behind. Wants the lock."""
        batch, is_open = self._batches[0], len(self._batches) == 1
        limit, timeout = self.options.execution_limit, self.options.batch_timeout_micros
        is_closing = self._closed is not None
        if not is_due(batch.rows, batch.opened_at, now, limit, timeout, is_closing or not is_open):
            return None
        self._batches.popleft()
        if is_open:
            self._batches.append(_Batch())
        if batch.rows >= limit:
            reason = CloseReason.FULL
        elif not is_open:
            reason = CloseReason.NO_FIT
        elif is_closing:
            reason = CloseReason.CLOSING
        else:
            reason = CloseReason.TIMEOUT if timeout else CloseReason.SLOT_FREE
        return batch.tasks, reason

    def seconds_until_due(self, now: float) -> float | None:
        """Return when to look again if nothing changes; None: never. Wants the lock."""
        batch = self._batches[0]
        if batch.rows == 0:
            return None
        return seconds_until_due(batch.opened_at, now, self.options.batch_timeout_micros)

    def take_all(self) -> list[BatchTask]:
        """Take out every task that waits. Wants the lock."""
        tasks = [task for batch in self._batches for task in batch.tasks]
        self._batches = deque([_Batch()])
        self._end(len(tasks))
        return tasks

    def after_fork(self) -> None:
        """Forget what waited and ran: its threads do not exist in this process."""
        self.take_all()
        self._unfinished = 0

    def run_batch(self, tasks: list[BatchTask], reason: CloseReason) -> None:
        """Run *tasks*, which ``take_due`` returned, and tell of the outcomes."""
        try:
            outcomes = self._run_tasks(tasks, reason)
        except BaseException as error:
            outcomes = [copy(error) for _ in tasks]
        with self.scheduler.lock:
            self._end(len(tasks))
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.finish(outcome)

    def close(self, message: str, timeout_s: float) -> bool:
        """Refuse requests with *message* and return when those taken before are done; False: they are not."""
        with self.scheduler.lock:
            self._closed = message
            self._drained.clear()
            self._end(0)
            self.scheduler.wake()
        return self.scheduler.clock.wait(self._drained, timeout_s)

    def statistics(self) -> QueueStatistics:
        """Return what was counted so far."""
        with self.scheduler.lock:
            waiting = sum(len(batch.tasks) for batch in self._batches)
            limit = self.options.execution_limit
            return self.counts.picture(self.feeds, self.fetches, waiting, None, (), limit)

    def _end(self, num_tasks: int) -> None:
        self._unfinished -= num_tasks
        if self._closed is not None and not self._unfinished:
            self._drained.set()

    def _run_tasks(self, tasks: list[BatchTask], reason: CloseReason) -> list[Outcome]:
        scheduler, counts, observer = self.scheduler, self.counts, self.scheduler.observer
        now = scheduler.clock.now()
        rows = [task.rows for task in tasks]
        total = sum(rows)
        with scheduler.lock:
            for task in tasks:
                task.state = TaskState.TAKEN
                counts.waited(now - task.arrived)
        if observer is not None:
            for task in tasks:
                observer.queued(now - task.arrived)
        latest = max(
            task.arrived + _NO_TIMEOUT_S if task.deadline is None else task.deadline for task in tasks
        )
        if latest <= now:
            with scheduler.lock:
                counts.expired += len(tasks)
            return [
                ResourceExhaustedError("Run() timeout exceeded while waiting in batching queue")
                for _ in tasks
            ]
        padded = rows_to_run(total, self.options.allowed_batch_sizes)
        with scheduler.lock:
            counts.closed(total, padded - total, reason)
        # Whole milliseconds, of which none means no limit (``batching_session.cc``).
        timeout_s: float | None = int((latest - now) * 1e3) / 1e3 or None
        if all(task.deadline is None for task in tasks):
            timeout_s = None
        try:
            shares, _ = self._run.run(
                [task.arrays for task in tasks],
                rows,
                padded,
                self.options.pad_variable_length_inputs,
                timeout_s,
                scheduler.clock.now,
            )
        except Exception as error:
            if len(tasks) > 1:
                with scheduler.lock:
                    counts.failed_batches += 1
            return [copy(error) for _ in tasks]
        finally:
            if observer is not None:
                observer.ran(padded, padded - total)
        return list(shares)
