"""Which requests may enter a queue, when a batch is due, and how many rows it runs with.

Pure functions: the caller holds the queue, the clock and the session. Rules and texts: TensorFlow
Serving, ``batching/batching_session.cc``; TensorFlow, ``kernels/batching_util/shared_batch_scheduler.h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, UnavailableError

__all__ = [
    "check_capacity",
    "check_request_size",
    "check_room_for_batch",
    "common_rows",
    "is_due",
    "part_sizes",
    "request_rows",
    "rows_to_run",
    "seconds_until_due",
]

_QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; "


def request_rows(arrays: Sequence[NDArray[Any]]) -> int:
    """Return the number of rows of a request: dimension 0 of each of its inputs.

    Raises:
        InvalidArgumentError: It has no input, a scalar, or inputs that differ in dimension 0.
    """
    if not arrays:
        raise InvalidArgumentError("Batching Run() must have at least one input tensor")
    rows = -1
    for array in arrays:
        shape = array.shape
        if not shape:
            raise InvalidArgumentError("Batching Run() input tensors must have at least one dimension")
        if rows not in (-1, shape[0]):
            raise InvalidArgumentError("Batching Run() input tensors must have equal 0th-dimension size")
        rows = shape[0]
    return rows


def common_rows(arrays: Sequence[NDArray[Any]]) -> int | None:
    """Return what ``request_rows`` does, or None where that raises."""
    rows: int | None = None
    for array in arrays:
        shape = array.shape
        if not shape or rows not in (None, shape[0]):
            return None
        rows = shape[0]
    return rows


def check_request_size(rows: int, max_batch_size: int) -> None:
    """Check a request against the largest that is taken.

    Raises:
        InvalidArgumentError: It has more rows.
    """
    if rows > max_batch_size:
        raise InvalidArgumentError(
            f"Task size {rows} is larger than maximum input batch size {max_batch_size}"
        )


def check_room_for_batch(enqueued_batches: int, max_enqueued_batches: int) -> None:
    """Check whether a queue of *enqueued_batches*, the open one included, may open one more.

    Raises:
        UnavailableError: It may not.
    """
    if enqueued_batches >= max_enqueued_batches:
        raise UnavailableError(
            f"{_QUEUE_FULL}currently {enqueued_batches} batches enqueued and max_enqueued_batches is "
            f"{max_enqueued_batches}"
        )


def check_capacity(
    rows: int, enqueued_batches: int, max_enqueued_batches: int, open_rows: int, execution_limit: int
) -> None:
    """Check whether a queue whose requests may be split has room for *rows*.

    *enqueued_batches* counts the open batch, which holds *open_rows*.

    Raises:
        UnavailableError: It has not.
    """
    capacity = (max_enqueued_batches - enqueued_batches) * execution_limit + execution_limit - open_rows
    if rows > capacity:
        raise UnavailableError(
            f"{_QUEUE_FULL}task size is {rows} but scheduling capacity is only {capacity} "
            f"(num_enqueued_batches={enqueued_batches}, max_enqueued_batches={max_enqueued_batches}, "
            f"open_batch_size={open_rows}, max_execution_batch_size={execution_limit})"
        )


def part_sizes(rows: int, open_rows: int, execution_limit: int) -> list[int]:
    """Return the rows of each part of a request that joins a batch of *open_rows*, in order.

    One part where the batch has room for all; else what fits, then full batches, then the rest.
    *execution_limit* is at least 1.
    """
    free = execution_limit - open_rows
    if rows <= free:
        return [rows]
    sizes = [free] if free > 0 else []
    remaining = rows - sum(sizes)
    sizes += [execution_limit] * (remaining // execution_limit)
    if remaining % execution_limit:
        sizes.append(remaining % execution_limit)
    return sizes


def is_due(
    rows: int, opened_at: float, now: float, execution_limit: int, batch_timeout_micros: int, closed: bool
) -> bool:
    """Return whether a batch that holds *rows* since *opened_at* is to be run at *now*, in seconds.

    *closed* says that nothing more can join it. A batch without requests is never due.
    """
    if rows == 0:
        return False
    return closed or rows >= execution_limit or seconds_until_due(opened_at, now, batch_timeout_micros) == 0.0


def seconds_until_due(opened_at: float, now: float, batch_timeout_micros: int) -> float:
    """Return how long a part-full batch may still wait whose first request came at *opened_at*."""
    return max(0.0, opened_at + batch_timeout_micros * 1e-6 - now)


def rows_to_run(rows: int, allowed_batch_sizes: Sequence[int]) -> int:
    """Return the first allowed size that holds *rows*, in listed order; *rows* itself where none does."""
    for size in allowed_batch_sizes:
        if size >= rows:
            return size
    return rows
