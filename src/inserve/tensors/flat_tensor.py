"""Tensors whose shape no NumPy array can have.

TensorFlow knows up to 254 dimensions, and shapes without elements whose other dimensions are beyond
any memory; NumPy stops at 64 dimensions and at sizes it could address.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["FlatTensor", "is_flat", "shaped"]


class FlatTensor:
    """The values of a tensor in row-major order, ``[N]``, with the tensor's *shape* beside them.

    Stands where an array would, with the attributes of one that callers here use; as an array it
    is its flat values. Nothing computes with it.
    """

    __slots__ = ("dtype", "nbytes", "ndim", "shape", "size", "values")

    def __init__(self, values: NDArray[Any], shape: tuple[int, ...]) -> None:
        self.values = values
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = values.dtype
        self.size = values.size
        self.nbytes = values.nbytes

    def __repr__(self) -> str:
        return f"<FlatTensor {self.dtype} of {self.ndim} dimensions, {self.size} elements>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype, copy=bool(copy))

    def ravel(self) -> NDArray[Any]:
        """Return the values, ``[N]``."""
        return self.values

    def reshape(self, shape: int) -> NDArray[Any]:
        """Return the values, ``[N]``; *shape* is -1.

        Raises:
            ValueError: *shape* is another.
        """
        return self.values.reshape(shape)

    def tobytes(self) -> bytes:
        """Return the bytes of the values."""
        return self.values.tobytes()


def shaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return *values*, ``[N]``, as an array of *shape*, or as a ``FlatTensor`` where no array has it."""
    try:
        return values.reshape(shape)
    except ValueError:
        return cast(NDArray[Any], FlatTensor(values, shape))


def is_flat(tensor: object) -> bool:
    """Return whether *tensor* is a ``FlatTensor``, which types here do not tell from an array."""
    return isinstance(tensor, FlatTensor)
