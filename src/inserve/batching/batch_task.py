"""One request in a queue, and whom to tell of its outcome."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from numpy.typing import NDArray

from inserve.batching.merging import MergeKey, join_parts, split_request
from inserve.errors import InserveError

__all__ = ["BatchTask", "Done", "Outcome", "TaskState", "split_task"]

_LOGGER = logging.getLogger("inserve.batching")

Outcome: TypeAlias = "list[NDArray[Any]] | BaseException"
"""The outputs of a request in the order of its queue's fetches, or what it failed with."""

Done: TypeAlias = Callable[["list[NDArray[Any]] | InserveError"], None]
"""Takes the outcome of a request; called once, on any thread; must not block or raise."""


class TaskState(enum.Enum):
    """``QUEUED`` -> ``TAKEN`` -> ``DONE``; back to ``QUEUED`` for a run alone; ``DONE`` at once if it leaves.

    Changes under the lock of the scheduler, but for ``TAKEN`` -> ``DONE``.
    """

    QUEUED = 0
    TAKEN = 1
    DONE = 2


class BatchTask:
    """A request, or a part of one. *arrived* and *deadline* are seconds of the scheduler's clock.

    *arrays* stand in the order of the queue's feeds. Without *done* a thread waits for ``event``: it
    is set with the outcome, or with ``slot``, in which that thread is to run a batch with this task.
    """

    __slots__ = (
        "arrays",
        "arrived",
        "deadline",
        "done",
        "event",
        "key",
        "outcome",
        "rows",
        "slot",
        "state",
    )

    def __init__(
        self,
        arrays: Sequence[NDArray[Any]],
        rows: int,
        arrived: float,
        deadline: float | None,
        key: MergeKey | None = None,
        done: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.key = key
        """Which requests this one may be merged with; None: with no other."""
        self.done = done
        self.event = threading.Event() if done is None else None
        self.state = TaskState.QUEUED
        self.outcome: Outcome | None = None
        self.slot: int | None = None

    def finish(self, outcome: Outcome) -> None:
        """Tell of the outcome; call it without a lock."""
        self.outcome = outcome
        self.state = TaskState.DONE
        if self.done is not None:
            try:
                self.done(outcome)
            except Exception:
                _LOGGER.exception("the callback of a batched request failed")
        elif self.event is not None:
            self.event.set()

    def result(self) -> list[NDArray[Any]]:
        """Return the outputs of a finished task, or raise what it failed with."""
        outcome = self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome


def split_task(task: BatchTask, sizes: Sequence[int]) -> list[BatchTask]:
    """Return the parts of *task*, of *sizes* rows; when the last of them is done, so is *task*.

    Outputs are joined in the order of the parts; the first error that comes in is the request's.
    One size: *task* itself. Otherwise it must not be queued.

    Raises:
        InternalError: It cannot be split.
    """
    if len(sizes) == 1:
        return [task]
    lock = threading.Lock()
    outputs: list[list[NDArray[Any]]] = [[] for _ in sizes]
    errors: list[BaseException] = []
    missing = len(sizes)

    def take(index: int, outcome: Outcome) -> None:
        nonlocal missing
        with lock:
            if isinstance(outcome, BaseException):
                errors.append(outcome)
            else:
                outputs[index] = outcome
            missing -= 1
            if missing:
                return
        try:
            task.finish(errors[0] if errors else join_parts(outputs))
        except InserveError as error:
            task.finish(error)

    task.state = TaskState.TAKEN
    return [
        BatchTask(arrays, size, task.arrived, task.deadline, task.key, partial(take, index))
        for index, (arrays, size) in enumerate(zip(split_request(task.arrays, sizes), sizes, strict=True))
    ]
