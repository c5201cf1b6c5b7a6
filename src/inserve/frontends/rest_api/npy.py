"""One array as an ``.npy`` file: read without trust, written."""

from __future__ import annotations

import io
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError

__all__ = ["array_of_type", "can_write_npy", "read_npy", "write_npy"]

_MAX_EMPTY_VALUES = 1 << 24
"""Strings of no length take no byte of the file, and one each of the array."""

_MAX_DIMENSIONS = 32
_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def read_npy(data: bytes) -> NDArray[Any]:
    """Return the array in *data*, a read-only view of its bytes where their order is the machine's.

    Nothing in it is ever unpickled.

    Raises:
        InvalidArgumentError: It is not one whole ``.npy`` file of version 1 or 2, or has objects.
    """
    stream = io.BytesIO(data)
    try:
        reader = _READERS[npy_format.read_magic(stream)]
        shape, is_fortran, dtype = reader(stream)
    except Exception as error:  # the header is read as a Python literal, which fails in many ways
        raise InvalidArgumentError("the body is not an .npy file of version 1.0 or 2.0") from error
    if dtype.hasobject:
        raise InvalidArgumentError("the .npy file holds Python objects, expected numbers or strings")
    if len(shape) > _MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise InvalidArgumentError(f"the .npy file has a shape of {len(shape)} dimensions that no array has")
    came, wanted = len(data) - stream.tell(), prod(shape) * dtype.itemsize
    if came != wanted:
        raise InvalidArgumentError(
            f"the .npy file has {came} bytes of values, expected {wanted} for {dtype.str}{list(shape)}"
        )
    if not dtype.itemsize and prod(shape) > _MAX_EMPTY_VALUES:
        raise InvalidArgumentError(f"the .npy file has more than {_MAX_EMPTY_VALUES} values without a byte")
    try:
        if not dtype.itemsize:
            return np.zeros(shape, dtype)
        flat = np.frombuffer(data, dtype, prod(shape), stream.tell())
        return flat.reshape(shape, order="F" if is_fortran else "C")
    except (OverflowError, ValueError) as error:  # no values, beside vast dimensions
        raise InvalidArgumentError(f"the .npy file has a shape that no array has: {error}") from error


def array_of_type(array: NDArray[Any], dtype: Any, alias: str) -> NDArray[Any]:
    """Return *array* with *dtype*, the NumPy type of input *alias*; ``object`` stands for strings.

    Strings may come as ``S`` or ``U``. Numbers are converted where every value survives, floats also
    with a loss of precision. Types that NumPy itself lacks (bfloat16, ...) come as ``V``.

    Raises:
        InvalidArgumentError: They cannot be.
    """
    if dtype is not None:
        wanted = np.dtype(dtype)
        if wanted == np.object_:
            if array.dtype.kind in "SU":
                return _bytes_array(array)
        elif array.dtype == wanted:
            return np.ascontiguousarray(array).reshape(array.shape)
        elif array.dtype.kind == "V" and array.dtype.names is None:
            if wanted.kind not in "biufc" and array.dtype.itemsize == wanted.itemsize:
                return np.ascontiguousarray(array).reshape(array.shape).view(wanted)
        elif (array.dtype.kind in "iu" and wanted.kind in "iu") or (
            array.dtype.kind in "iufc" and np.can_cast(array.dtype, wanted, "same_kind")
        ):
            with np.errstate(all="ignore"):
                converted = array.astype(wanted, order="C")
            if wanted.kind not in "iu" or (converted == array).all():
                return converted
            raise InvalidArgumentError(f"input {alias} has values that {wanted.name} cannot hold")
    name = "no type" if dtype is None else "strings" if dtype == np.object_ else np.dtype(dtype).name
    raise InvalidArgumentError(f"input {alias} takes {name}, the .npy file holds {array.dtype.str}")


def can_write_npy(array: NDArray[Any]) -> bool:
    """Return whether *array* has a type and a rank that an ``.npy`` file can have."""
    return isinstance(array, np.ndarray) and not array.dtype.hasobject


def write_npy(array: NDArray[Any]) -> bytes:
    """Return *array* as a file of version 1; bfloat16 and its like are written as ``V``."""
    stream = io.BytesIO()
    npy_format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _bytes_array(array: NDArray[Any]) -> NDArray[Any]:
    texts = array.reshape(-1).tolist()
    result = np.empty(array.shape, np.object_)
    result.reshape(-1)[:] = [text.encode() if isinstance(text, str) else text for text in texts]
    return result
