"""String tensors <-> object arrays of ``bytes``.

A string tensor is made by TensorFlow itself out of a serialized ``TensorProto``, so that it owns
every byte: operations share string buffers with each other, also beyond the run. Reading follows
the 24-byte records of ``tsl/platform/ctstring_internal.h`` on little-endian machines.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.status import new_status, raise_for_status
from inserve.tensorflow_c.wire import length_delimited, varint
from inserve.tensors.dtypes import DataType

__all__ = ["new_string_tensor", "read_strings"]

_DTYPE = b"\x08" + varint(DataType.DT_STRING)
_TENSOR_SHAPE_TAG = b"\x12"
_DIM_TAG = b"\x12"
_SIZE_TAG = b"\x08"
_STRING_VAL_TAG = b"\x42"
_MAX_MESSAGE_BYTES = (1 << 31) - 1

_SHORT_HEADERS = tuple(_STRING_VAL_TAG + varint(length) for length in range(128))

_RECORD_BYTES = 24
_FEW = 12
"""Up to this many strings, asking TensorFlow for each is faster than NumPy on the records."""


def new_string_tensor(library: Library, array: NDArray[Any]) -> Any:
    """Return a new ``TF_Tensor *`` of the strings in the object *array*, any shape; the caller deletes it.

    Elements are ``bytes``, or ``str``, which becomes UTF-8. Nothing of *array* is referred to
    after the return.

    Raises:
        TypeError: An element is something else.
        InvalidArgumentError: The strings take 2 GiB or more.
    """
    ffi, lib = library.ffi, library.lib
    if not array.size:
        dims = ffi.new("int64_t[]", array.shape)
        return lib.TF_AllocateTensor(int(DataType.DT_STRING), dims, array.ndim, 0)
    serialized = _serialize(array)
    if len(serialized) > _MAX_MESSAGE_BYTES:
        raise InvalidArgumentError(
            f"the strings of one tensor take {len(serialized)} bytes, expected at most {_MAX_MESSAGE_BYTES}"
        )
    status = new_status(library)
    message = ffi.new("TF_Buffer *", (ffi.from_buffer(serialized), len(serialized), ffi.NULL))
    tensor = lib.TF_AllocateTensor(int(DataType.DT_UINT8), ffi.new("int64_t[]", (0,)), 1, 0)
    try:
        lib.TF_TensorFromProto(message, tensor, status)
        raise_for_status(library, status)
    except BaseException:
        lib.TF_DeleteTensor(tensor)
        raise
    return tensor


def read_strings(library: Library, data: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a new object array of ``bytes`` of *shape*; *data* points to as many string records."""
    strings = np.empty(shape, np.object_)
    count = strings.size
    read = _read_each if count <= _FEW else _read_records
    strings.reshape(-1)[:] = read(library, data, count)
    return strings


def _serialize(array: NDArray[Any]) -> bytes:
    values: list[Any] = array.ravel().tolist()
    if len(values) == 1:
        value = _as_bytes(values[0])
        return b"".join((_fields_before_strings(array.shape), _header(len(value)), value))
    if set(map(type, values)) - {bytes}:
        values = [_as_bytes(value) for value in values]
    lengths = list(map(len, values))
    headers = {length: _header(length) for length in set(lengths)}
    parts = [b""] * (2 * len(values))
    parts[::2] = map(headers.__getitem__, lengths)
    parts[1::2] = values
    return _fields_before_strings(array.shape) + b"".join(parts)


@functools.lru_cache(maxsize=256)
def _fields_before_strings(shape: tuple[int, ...]) -> bytes:
    dims = [length_delimited(_DIM_TAG, _SIZE_TAG + varint(size)) for size in shape]
    return _DTYPE + length_delimited(_TENSOR_SHAPE_TAG, b"".join(dims))


def _header(length: int) -> bytes:
    return _SHORT_HEADERS[length] if length < len(_SHORT_HEADERS) else _STRING_VAL_TAG + varint(length)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8")
    raise TypeError(f"a string tensor takes bytes or str, got {type(value).__name__}")


def _read_each(library: Library, data: Any, count: int) -> list[bytes]:
    ffi, lib = library.ffi, library.lib
    start = ffi.cast("char *", data)
    values = []
    for index in range(count):
        record = ffi.cast("TF_TString *", start + index * _RECORD_BYTES)
        size = lib.TF_StringGetSize(record)
        values.append(ffi.unpack(lib.TF_StringGetDataPointer(record), size) if size else b"")
    return values


def _read_records(library: Library, data: Any, count: int) -> list[bytes]:
    ffi = library.ffi
    first = int(ffi.cast("uintptr_t", data))
    raw = np.frombuffer(ffi.buffer(data, count * _RECORD_BYTES), np.uint8).reshape(count, _RECORD_BYTES)
    words = raw.view("<u8")
    halves = raw.view("<u4")
    records = np.arange(first, first + count * _RECORD_BYTES, _RECORD_BYTES, dtype=np.uint64)
    kinds = raw[:, 0] & 3
    long_sizes = words[:, 0] >> np.uint64(2)
    # In the order small, large, offset, view.
    sizes = np.choose(kinds, [raw[:, 0] >> 2, long_sizes, halves[:, 0] >> 2, long_sizes])
    starts = np.choose(kinds, [records + np.uint64(1), words[:, 2], records + halves[:, 1], words[:, 1]])
    starts = np.where(sizes == 0, records, starts)
    pointers = ffi.unpack(ffi.cast("char **", ffi.from_buffer(starts)), count)
    return list(map(ffi.unpack, pointers, sizes.tolist()))
