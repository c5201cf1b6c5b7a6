"""Arrays of several requests -> arrays of one batch, and back. NumPy only.

A request is its inputs in the order of the feeds, each ``[N, ...]`` with its own ``N``; a batch runs
``M >= sum of N`` rows. Rules and texts: TensorFlow Serving, ``batching/batching_session.cc``,
``batching/incremental_barrier.h`` and ``batching/batching_util.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from inserve.tensors.dtypes import element_type_of
from inserve.tensors.flat_tensor import is_flat

__all__ = [
    "MergeKey",
    "UnbatchableOutputError",
    "join_parts",
    "merge_key",
    "merge_requests",
    "split_outputs",
    "split_request",
]

_MOST_PADDED_DIMENSIONS = 6

MergeKey: TypeAlias = tuple[object, ...]
"""Equal for requests that can share a batch."""


class UnbatchableOutputError(FailedPreconditionError):
    """An output that cannot be shared out among the requests of a batch."""

    code = FailedPreconditionError.code


def merge_key(arrays: Sequence[NDArray[Any]], pad_inputs: bool) -> MergeKey | None:
    """Return what requests must have in common to share a batch; None: this one runs alone.

    Without *pad_inputs* that is dtype and all dimensions but the first. With it shapes may differ where
    padding can make them equal.
    """
    key: list[object] = []
    for array in arrays:
        if is_flat(array):
            return None
        inner = array.shape[1:]
        key.append(array.dtype)
        if pad_inputs and len(inner) < _MOST_PADDED_DIMENSIONS and 0 not in inner:
            key.append(len(inner))
        else:
            key.append(inner)
    return tuple(key)


def merge_requests(
    requests: Sequence[Sequence[NDArray[Any]]],
    feed_names: Sequence[str],
    rows_to_run: int,
    pad_inputs: bool,
) -> list[NDArray[Any]]:
    """Return the inputs of one run of *rows_to_run* rows that holds all *requests*, in order.

    With *pad_inputs* every dimension but the first grows to the largest of the batch, filled with the
    request's own first element. Rows that are missing at the end repeat the first row of the last
    request. A lone request that needs neither is returned uncopied.

    Raises:
        FailedPreconditionError: Shapes differ, and not *pad_inputs*.
        InvalidArgumentError: A tensor cannot be padded.
        InternalError: Dtypes or ranks under one name differ.
    """
    merged = []
    for index, name in enumerate(feed_names):
        parts = [request[index] for request in requests]
        if pad_inputs:
            parts = _pad_inner_dimensions(parts)
        elif any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise FailedPreconditionError(
                f"Tensors with name '{name}' from different tasks have different shapes and padding is "
                "turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the "
                "same name have equal dimensions starting with the first dim."
            )
        merged.append(_concatenate(parts, rows_to_run))
    return merged


def _concatenate(parts: list[NDArray[Any]], rows_to_run: int) -> NDArray[Any]:
    first, last = parts[0], parts[-1]
    for part in parts:
        if part.dtype != first.dtype:
            raise InternalError(
                "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have "
                f"different data types. Got {element_type_of(first.dtype).name} and "
                f"{element_type_of(part.dtype).name}."
            )
        if part.shape[1:] != first.shape[1:] or (is_flat(part) and len(parts) > 1):
            raise InternalError(
                "Tensor concat operation failed: INVALID_ARGUMENT: Dimensions of inputs should match: "
                f"shapes {list(first.shape)} and {list(part.shape)}"
            )
    rows = sum(part.shape[0] for part in parts)
    if rows == rows_to_run:
        return first if len(parts) == 1 else np.concatenate(parts)
    if is_flat(first):
        raise InternalError("Tensor concat operation failed: INVALID_ARGUMENT: too many dimensions")
    merged = np.empty((rows_to_run, *first.shape[1:]), first.dtype)
    position = 0
    for part in parts:
        merged[position : position + len(part)] = part
        position += len(part)
    merged[position:] = last[:1]
    return merged


def _pad_inner_dimensions(parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    for part in parts:
        if not 1 <= part.ndim <= _MOST_PADDED_DIMENSIONS:
            raise InvalidArgumentError("Only tensors with rank from 1 to 6 can be padded.")
    if any(part.ndim != parts[0].ndim for part in parts):
        return parts
    inner = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True))
    padded = []
    for part in parts:
        if part.shape[1:] == inner:
            padded.append(part)
            continue
        if part.size == 0:
            raise InvalidArgumentError("Got empty tensor in batch of non-empty tensors.")
        wide = np.empty((part.shape[0], *inner), part.dtype)
        wide[...] = part[(slice(1),) * part.ndim]
        wide[tuple(slice(size) for size in part.shape)] = part
        padded.append(wide)
    return padded


def split_outputs(
    outputs: Sequence[NDArray[Any]], rows: Sequence[int], rows_run: int
) -> list[list[NDArray[Any]]]:
    """Return the outputs of each request of a batch, *rows* of each, from those of its run.

    Requests get arrays of their own, so that none keeps the whole batch in memory or sees the rows of
    another; a lone request without padding rows gets the outputs as they are.

    Raises:
        UnbatchableOutputError: An output does not have *rows_run* rows.
    """
    for output in outputs:
        if not output.shape:
            raise UnbatchableOutputError("Batched output tensor has 0 dimensions")
        if output.shape[0] != rows_run:
            raise UnbatchableOutputError(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                "the input tensors"
            )
    if len(rows) == 1 and rows[0] == rows_run:
        return [list(outputs)]
    if any(is_flat(output) for output in outputs):
        raise UnbatchableOutputError("Tensor split operation failed: INVALID_ARGUMENT: too many dimensions")
    shares = []
    start = 0
    for size in rows:
        stop = start + size
        shares.append([output[start:stop].copy() for output in outputs])
        start = stop
    return shares


def split_request(arrays: Sequence[NDArray[Any]], sizes: Sequence[int]) -> list[list[NDArray[Any]]]:
    """Return the parts of a request, views of *sizes* rows each, in order.

    Raises:
        InternalError: An input has a shape that no array has.
    """
    if any(is_flat(array) for array in arrays):
        raise InternalError(
            "When splitting input, Tensor split operation failed: INVALID_ARGUMENT: too many dimensions"
        )
    parts = []
    start = 0
    for size in sizes:
        stop = start + size
        parts.append([array[start:stop] for array in arrays])
        start = stop
    return parts


def join_parts(parts: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Return the outputs of a request from those of its parts, in order.

    Raises:
        FailedPreconditionError: Outputs of its parts have shapes that do not go together.
    """
    if len(parts) == 1:
        return list(parts[0])
    try:
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
    except ValueError as error:
        raise FailedPreconditionError(
            f"the outputs of the parts of a request cannot be joined: {error}"
        ) from error
