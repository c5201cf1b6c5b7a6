"""Inputs made from a signature alone, to run a model before anybody has asked it anything."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.saved_model.signature import Signature, TensorSpec

__all__ = ["MAX_GENERATED_BYTES", "generate_inputs", "with_rows"]

MAX_GENERATED_BYTES = 64 << 20
"""What the inputs of one signature may take together."""


def generate_inputs(signature: Signature, is_fragile: bool = False) -> list[NDArray[Any]] | None:
    """Return an array for each input, in the order of ``signature.inputs``, or None where none will do.

    Its default value, else zeros, false or empty strings; dimensions of any size are 1. None: an
    input of any rank, of a type that no array has, or inputs larger than ``MAX_GENERATED_BYTES``
    together. A guess may be wrong, and *is_fragile* says that the kernels may then end the process: only
    the first dimension is guessed then.
    """
    arrays: list[NDArray[Any]] = []
    num_bytes = 0
    for alias, spec in signature.inputs.items():
        array = signature.defaults.get(alias)
        if array is None:
            size = _generated_bytes(spec, is_fragile)
            if size is None or num_bytes + size > MAX_GENERATED_BYTES:
                return None
            num_bytes += size
            array = _generated(spec)
        arrays.append(array)
    return arrays


def with_rows(signature: Signature, arrays: Sequence[NDArray[Any]], rows: int) -> list[NDArray[Any]] | None:
    """Return *arrays*, of one row each, with that row *rows* times over, or None where that will not do.

    It will not where the first dimension of an input is not of any size, or for more bytes than
    ``MAX_GENERATED_BYTES``.
    """
    specs = signature.inputs.values()
    if not arrays or any(not spec.shape or spec.shape[0] is not None for spec in specs):
        return None
    if any(array.shape[:1] != (1,) for array in arrays):
        return None
    if sum(array.nbytes for array in arrays) * rows > MAX_GENERATED_BYTES:
        return None
    return [np.repeat(array, rows, axis=0) for array in arrays]


def _dimensions(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in shape)


def _generated_bytes(spec: TensorSpec, is_fragile: bool) -> int | None:
    if spec.dtype is None or spec.shape is None or (is_fragile and None in spec.shape[1:]):
        return None
    return prod(_dimensions(spec.shape)) * int(spec.dtype.itemsize)


def _generated(spec: TensorSpec) -> NDArray[Any]:
    shape = _dimensions(spec.shape or ())
    return np.full(shape, b"", np.object_) if spec.dtype == np.object_ else np.zeros(shape, spec.dtype)
