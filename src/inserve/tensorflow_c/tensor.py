"""``TF_Tensor`` of fixed-width elements <-> NumPy arrays.

Inputs are copied once into memory that TensorFlow allocates: it needs 64-byte alignment, and the
caller may change the array afterwards. Small outputs are copied out; large ones are handed out as
they are, with the ``TF_Tensor`` as the owner of the array's memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InternalError
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.string_tensor import new_string_tensor, read_strings
from inserve.tensors.dtypes import DataType, ElementType
from inserve.tensors.flat_tensor import is_flat, shaped

__all__ = ["HANDED_OUT_BYTES", "new_tensor", "storage_dtype", "take_array", "tensor_view"]

HANDED_OUT_BYTES = 64 * 1024
"""Outputs of at least so many bytes are not copied, where nothing else holds their memory."""


def storage_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return *dtype*, or where the buffer protocol has no letter for it, integers of the same width.

    It has none for bfloat16, float8 and integers below a byte.
    """
    try:
        memoryview(np.empty(0, dtype))  # type: ignore[arg-type]
    except (ValueError, BufferError, NotImplementedError):
        return np.dtype(f"u{dtype.itemsize}")
    return dtype


def tensor_view(library: Library, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a writable array on the memory of *tensor*, which has to outlive it."""
    data = library.ffi.buffer(library.lib.TF_TensorData(tensor), prod(shape) * dtype.itemsize)
    view: NDArray[Any] = np.ndarray(shape, dtype, data)
    return view


def new_tensor(library: Library, element: ElementType, array: NDArray[Any]) -> Any:
    """Return a new ``TF_Tensor *`` with a copy of *array*; the caller deletes it.

    *array* has the dtype of *element*, any shape and any strides.

    Raises:
        ValueError: The dtype is another one.
        TypeError: A string tensor is to hold something that is no string.
    """
    dtype = element.numpy
    if array.dtype != dtype:
        raise ValueError(f"expected an array of {dtype}, got {array.dtype}")
    if element.data_type == DataType.DT_STRING:
        return new_string_tensor(library, array)
    ffi, lib = library.ffi, library.lib
    shape = array.shape
    dims = ffi.new("int64_t[]", shape)
    tensor = lib.TF_AllocateTensor(int(element.data_type), dims, len(shape), array.nbytes)
    if tensor == ffi.NULL:
        raise MemoryError(f"TensorFlow cannot allocate a tensor of {array.nbytes} bytes")
    if array.nbytes:
        try:
            flat_or_same = (array.size,) if is_flat(array) else shape
            tensor_view(library, tensor, dtype, flat_or_same)[...] = array
        except BaseException:
            lib.TF_DeleteTensor(tensor)
            raise
    return tensor


def take_array(library: Library, tensor: Any, element: ElementType) -> NDArray[Any]:
    """Return the array in *tensor*, whose elements are *element*; *tensor* belongs to this function.

    The array is writable and independent of every other array, session and run. A shape that no
    array can have gives a ``FlatTensor``.

    Raises:
        InternalError: The elements of *tensor* are others.
    """
    lib = library.lib
    handed_out = False
    try:
        shape = _shape(lib, tensor)
        dtype = element.numpy
        if lib.TF_TensorType(tensor) != element.data_type:
            raise InternalError(
                f"expected a tensor of {element.name}, got one of DataType {lib.TF_TensorType(tensor)}"
            )
        if 0 in shape:
            return shaped(np.empty(0, dtype), shape)
        num_elements = prod(shape)
        if element.data_type == DataType.DT_STRING:
            return shaped(read_strings(library, lib.TF_TensorData(tensor), (num_elements,)), shape)
        num_bytes = num_elements * dtype.itemsize
        if lib.TF_TensorByteSize(tensor) != num_bytes:
            raise InternalError(
                f"expected {num_bytes} bytes in a {element.name} tensor of shape {list(shape)}, "
                f"got {lib.TF_TensorByteSize(tensor)}"
            )
        if num_bytes >= HANDED_OUT_BYTES and lib.TF_TensorMaybeMove(tensor):
            handed_out = True
            owner = library.ffi.gc(tensor, lib.TF_DeleteTensor, num_bytes)
            return shaped(_TensorMemory(library, owner, num_bytes).array(dtype), shape)
        return shaped(tensor_view(library, tensor, dtype, (num_elements,)).copy(), shape)
    finally:
        if not handed_out:
            lib.TF_DeleteTensor(tensor)


class _TensorMemory:
    """What keeps the ``TF_Tensor`` of an array alive: NumPy refers to it as the base of the array."""

    def __init__(self, library: Library, owner: Any, num_bytes: int) -> None:
        self._owner = owner
        address = int(library.ffi.cast("uintptr_t", library.lib.TF_TensorData(owner)))
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (num_bytes,),
            "typestr": "|u1",
        }

    def array(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        whole: NDArray[Any] = np.asarray(self)
        return whole.view(dtype)


def _shape(lib: Any, tensor: Any) -> tuple[int, ...]:
    return tuple([lib.TF_Dim(tensor, axis) for axis in range(lib.TF_NumDims(tensor))])
