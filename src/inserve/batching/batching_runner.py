"""A Runner around a Runner: its runs meet those of others in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from inserve.batching.batch_formation import check_request_size, common_rows, part_sizes, request_rows
from inserve.batching.batch_task import BatchTask, Done, Outcome, split_task
from inserve.batching.merging import merge_key
from inserve.errors import InserveError, InternalError
from inserve.tensorflow_c.interface import Executor, Runner

if TYPE_CHECKING:
    from inserve.batching.slot_queue import SlotQueue
    from inserve.batching.thread_queue import ThreadQueue

__all__ = ["PermutedOrder", "SlotRunner", "Submitted", "ThreadRunner"]


class PermutedOrder:
    """The order in which one caller names feeds and fetches, against the order of the queue they share."""

    def __init__(
        self,
        feeds: Sequence[str],
        fetches: Sequence[str],
        queue_feeds: Sequence[str],
        queue_fetches: Sequence[str],
    ) -> None:
        self._inputs = [list(feeds).index(name) for name in queue_feeds]
        self._outputs = [list(queue_fetches).index(name) for name in fetches]
        self._keeps_inputs = list(feeds) == list(queue_feeds)
        self._keeps_outputs = list(fetches) == list(queue_fetches)

    def to_queue(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return inputs in the order of the queue."""
        return arrays if self._keeps_inputs else [arrays[index] for index in self._inputs]

    def from_queue(self, outputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return outputs in the order of the caller; one that it names twice is copied."""
        if self._keeps_outputs:
            return outputs
        taken: set[int] = set()
        result = []
        for index in self._outputs:
            result.append(outputs[index].copy() if index in taken else outputs[index])
            taken.add(index)
        return result


class Submitted:
    """A request that was handed in and is on its way."""

    def __init__(self, cancel: Callable[[], bool]) -> None:
        self._cancel = cancel

    def cancel(self) -> bool:
        """Give the request up if it still waits: it ends with ``CancelledError``. Return whether it did."""
        return self._cancel()


class SlotRunner:
    """Batches in the library's way; implements ``interface.Runner``.

    *inner* runs the caller's order of feeds and fetches, the queue's own runner that of the queue.
    """

    __slots__ = (
        "_by_rows",
        "_direct",
        "_free",
        "_inner",
        "_inner_run",
        "_order",
        "_queue",
        "_ready",
        "_return_slot",
        "_scheduler",
        "_take_slot",
    )

    def __init__(self, queue: SlotQueue, inner: Runner, order: PermutedOrder) -> None:
        self._queue = queue
        self._scheduler = queue.scheduler
        self._free = queue.scheduler.free
        self._take_slot = self._free.pop
        self._return_slot = self._free.append
        self._ready = queue.scheduler.ready
        self._direct = queue.counts.direct
        self._by_rows = [direct.by_rows for direct in queue.counts.direct]
        self._inner = inner
        self._inner_run = inner.run
        self._order = order

    def __repr__(self) -> str:
        return f"<SlotRunner {self._inner!r}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run at once where a slot is free, else wait for one and share it; see ``interface.Runner.run``.

        *timeout_s* counts while the request waits, whatever the *executor*; that holds only for a
        request that is run at once.

        Raises:
            DeadlineExceededError: *timeout_s* has passed.
            InvalidArgumentError: It has more rows than ``max_batch_size``.
            UnavailableError: The queue is full, or the server is stopping.
        """
        try:
            rows = len(arrays[0])
        except (TypeError, IndexError):  # a scalar, a shape that no array has, no input
            return self._run_unlike_most(arrays, timeout_s, executor)
        if rows > self._queue.direct_rows:
            return self._run_unlike_most(arrays, timeout_s, executor)
        try:
            slot = self._take_slot()
        except IndexError:
            return self._run_in_turn(arrays, timeout_s, executor)
        try:
            return self._inner_run(arrays, timeout_s, executor)
        finally:
            # Whoever holds the slot is alone with its counts.
            try:
                self._by_rows[slot][rows] += 1
            except IndexError:
                self._direct[slot].count_large(rows)
            self._return_slot(slot)
            if self._ready:
                self._scheduler.lend_slots()

    def would_wait(self) -> bool:
        """Return whether a request may have to wait for others: threads that must stay free ask before."""
        queue = self._queue
        return queue.passing is None and (not self._free or queue.expects_company)

    def submit(self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, done: Done) -> Submitted:
        """Hand in a request that no thread waits for; *done* is called with its outcome.

        It runs on a thread of the scheduler, beside others where it can. The arrays must not change
        before *done* is called, which may be before this returns. A deadline that passes is noticed
        when its turn comes. Errors are passed to *done* as well, never raised.
        """
        try:
            _, tasks = self._tasks(arrays, timeout_s, _returning(self._order, done))
            self._queue.add(tasks)
        except InserveError as error:
            done(error)
            return Submitted(lambda: False)
        return Submitted(partial(self._cancel, tasks))

    def _cancel(self, tasks: list[BatchTask]) -> bool:
        cancelled = [self._scheduler.cancel(self._queue, task) for task in tasks]
        return any(cancelled)

    def _run_unlike_most(
        self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, executor: Executor
    ) -> list[NDArray[Any]]:
        """Run what may not run directly as it is, or may for another reason."""
        queue = self._queue
        if queue.passing is not None or common_rows(arrays) == 0 or not arrays:
            return self._inner_run(arrays, timeout_s, executor)
        return self._run_in_turn(arrays, timeout_s, executor)

    def _run_in_turn(
        self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, executor: Executor
    ) -> list[NDArray[Any]]:
        if common_rows(arrays) == 0:
            return self._inner_run(arrays, timeout_s, executor)
        task, parts = self._tasks(arrays, timeout_s, None)
        self._queue.add(parts)
        return self._order.from_queue(self._scheduler.await_turn(self._queue, task))

    def _tasks(
        self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, done: Callable[[Outcome], None] | None
    ) -> tuple[BatchTask, list[BatchTask]]:
        """Return the task of a request, and what to queue: its parts where one batch cannot hold it.

        Raises:
            InvalidArgumentError: It has more rows than ``max_batch_size``.
        """
        options = self._queue.options
        now = self._scheduler.clock.now()
        deadline = None if timeout_s is None else now + timeout_s
        arrays = self._order.to_queue(arrays)
        rows = common_rows(arrays)
        if not rows or self._queue.passing is not None:
            task = BatchTask(arrays, 1 if rows is None else max(1, rows), now, deadline, None, done)
            return task, [task]
        if self._scheduler.observer is not None:
            self._scheduler.observer.submitted(rows, len(arrays))
        check_request_size(rows, options.max_batch_size)
        key = merge_key(arrays, options.pad_variable_length_inputs)
        task = BatchTask(arrays, rows, now, deadline, key, done)
        limit = options.execution_limit
        if not options.enable_large_batch_splitting or not 0 < limit < rows or key is None:
            return task, [task]
        return task, split_task(task, part_sizes(rows, 0, limit))


class ThreadRunner:
    """Batches to the letter of TensorFlow Serving; implements ``interface.Runner``.

    *inner* runs the caller's order of feeds and fetches, the queue's own runner that of the queue.
    """

    def __init__(self, queue: ThreadQueue, inner: Runner, order: PermutedOrder) -> None:
        self._queue = queue
        self._inner = inner
        self._order = order

    def __repr__(self) -> str:
        return f"<ThreadRunner {self._inner!r}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Wait for a batch and for its run; see ``interface.Runner.run``.

        The *executor* holds only for a request that is not batched: one without rows, which
        TensorFlow Serving never answers, or during warm-up.

        Raises:
            InvalidArgumentError: The inputs have no common number of rows, or too many.
            UnavailableError: The queue is full, or the server is stopping.
            ResourceExhaustedError: *timeout_s* passed, for every request of the batch, before it began.
        """
        if self._queue.passing or self._rows(arrays) == 0:
            return self._inner.run(arrays, timeout_s, executor)
        task = self._task(arrays, timeout_s, None)
        self._queue.add(task)
        return self._order.from_queue(self._queue.scheduler.await_turn(task))

    def would_wait(self) -> bool:
        """Return whether a request may have to wait for others: threads that must stay free ask before."""
        return not self._queue.passing

    def submit(self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, done: Done) -> Submitted:
        """Hand in a request that no thread waits for; *done* is called with its outcome.

        The arrays must not change before *done* is called, which may be before this returns. Errors
        are passed to *done* as well, never raised. It cannot be cancelled.
        """
        try:
            if self._rows(arrays) == 0:
                done(self._inner.run(arrays, timeout_s, Executor.POOL))
            else:
                self._queue.add(self._task(arrays, timeout_s, _returning(self._order, done)))
        except InserveError as error:
            done(error)
        return Submitted(lambda: False)

    def _rows(self, arrays: Sequence[NDArray[Any]]) -> int:
        rows = request_rows(arrays)
        observer = self._queue.scheduler.observer
        if observer is not None:
            observer.submitted(rows, len(arrays))
        check_request_size(rows, self._queue.options.max_batch_size)
        return rows

    def _task(
        self, arrays: Sequence[NDArray[Any]], timeout_s: float | None, done: Callable[[Outcome], None] | None
    ) -> BatchTask:
        now = self._queue.scheduler.clock.now()
        deadline = now + timeout_s if timeout_s is not None and timeout_s > 0 else None
        return BatchTask(self._order.to_queue(arrays), arrays[0].shape[0], now, deadline, None, done)


def _returning(order: PermutedOrder, done: Done) -> Callable[[Outcome], None]:
    """Return what takes the outcome of a task and passes it to *done* in the caller's order."""

    def take(outcome: Outcome) -> None:
        if isinstance(outcome, list):
            done(order.from_queue(outcome))
        elif isinstance(outcome, InserveError):
            done(outcome)
        else:
            done(InternalError(f"{type(outcome).__name__}: {outcome}"))

    return take
