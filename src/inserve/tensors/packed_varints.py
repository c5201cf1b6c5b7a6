"""Packed variable-length integers to arrays and back, without a Python step per value.

Work goes in blocks of ``_BLOCK`` values, so scratch memory stays within a few megabytes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, read_varint

__all__ = ["are_packed_varints", "decode_packed_varints", "encode_packed_varints"]

_BLOCK = 1 << 15
_SMALL = 256
_UINT64_VAL = 17
_MAX_BYTES = 10
_TOO_LONG = re.compile(rb"[\x80-\xff]{10}")

# Keeps the lowest k bytes of a 64-bit word.
_LOW_BYTES = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)
# Continuation bits of a value of k bytes, as far as they lie in its first eight.
_CONTINUATION = np.array(
    [sum(0x80 << 8 * byte for byte in range(min(k - 1, 8))) for k in range(_MAX_BYTES + 1)], np.uint64
)
_LOWEST_OF_LENGTH = [1 << 7 * k for k in range(1, _MAX_BYTES)]


def are_packed_varints(payload: bytes | memoryview) -> bool:
    """Return whether *payload* is whole integers of at most ten bytes each."""
    size = len(payload)
    if size == 0:
        return True
    if payload[size - 1] > 0x7F:
        return False
    if size <= _SMALL:
        return _TOO_LONG.search(payload) is None
    # Run lengths double: after the four steps a set entry means ten continuation bytes in a row.
    run = np.frombuffer(payload, np.uint8) > 0x7F
    for step in (1, 2, 4, 2):
        if not run.any():
            return True
        run = run[:-step] & run[step:]
    return not bool(run.any())


def _squeeze(words: NDArray[np.uint64]) -> Any:
    """Join the low seven bits of each of the eight bytes of every word into 56 bits."""
    words = words & np.uint64(0x7F7F7F7F7F7F7F7F)
    words = (words & np.uint64(0x007F007F007F007F)) | (
        (words & np.uint64(0x7F007F007F007F00)) >> np.uint64(1)
    )
    words = (words & np.uint64(0x00003FFF00003FFF)) | (
        (words & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2)
    )
    return (words & np.uint64(0x000000000FFFFFFF)) | ((words & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))


def _spread(values: NDArray[np.uint64]) -> Any:
    """Undo ``_squeeze`` for the low 56 bits of *values*."""
    words = (values & np.uint64(0x000000000FFFFFFF)) | (
        (values & np.uint64(0x00FFFFFFF0000000)) << np.uint64(4)
    )
    words = (words & np.uint64(0x00003FFF00003FFF)) | (
        (words & np.uint64(0x0FFFC0000FFFC000)) << np.uint64(2)
    )
    return (words & np.uint64(0x007F007F007F007F)) | ((words & np.uint64(0x3F803F803F803F80)) << np.uint64(1))


def decode_packed_varints(payload: bytes | memoryview) -> NDArray[np.uint8] | NDArray[np.uint64]:
    """Return the integers of *payload*, which ``are_packed_varints`` accepts, ``[N]``.

    The array is ``uint8``, possibly a read-only view of *payload*, where every integer takes one
    byte, else ``uint64``; negative numbers appear as their two's complement.
    """
    if len(payload) <= _SMALL:
        return _decode_small(bytes(payload))
    raw = np.frombuffer(payload, np.uint8)
    if len(raw) == 0 or int(raw.max()) <= 0x7F:
        return raw
    ends = np.flatnonzero(raw <= 0x7F)
    decoded = np.empty(len(ends), np.uint64)
    padded = np.zeros(len(raw) + 2 * 8, np.uint8)
    padded[: len(raw)] = raw
    words = np.ndarray((len(raw) + 8,), np.dtype("<u8"), padded, strides=(1,))
    start = 0
    for first in range(0, len(ends), _BLOCK):
        block_ends = ends[first : first + _BLOCK]
        starts = np.empty_like(block_ends)
        starts[0] = start
        np.add(block_ends[:-1], 1, out=starts[1:])
        start = int(block_ends[-1]) + 1
        lengths = block_ends - starts + 1
        values = _squeeze(words[starts] & _LOW_BYTES[np.minimum(lengths, 8)])
        if int(lengths.max()) > 8:
            long = np.flatnonzero(lengths > 8)
            rest = words[starts[long] + 8] & _LOW_BYTES[lengths[long] - 8]
            values[long] |= _squeeze(rest) << np.uint64(56)
        decoded[first : first + len(values)] = values
    return decoded


def _decode_small(payload: bytes) -> NDArray[np.uint8] | NDArray[np.uint64]:
    """Let protobuf's parser do it, which costs less than a dozen array operations."""
    if payload.isascii():
        return np.frombuffer(payload, np.uint8)
    message = messages.TensorProto.FromString(
        encode_length_delimited_header(_UINT64_VAL, len(payload)) + payload
    )
    return np.array(list(message.uint64_val), np.uint64)


def encode_packed_varints(values: NDArray[np.integer[Any]]) -> bytes:
    """Return *values*, ``[N]``, one after the other; negative numbers take ten bytes each."""
    if len(values) == 0:
        return b""
    if len(values) <= _SMALL:
        return _encode_small(values)
    if int(values.max()) <= 0x7F and int(values.min()) >= 0:
        return values.astype(np.uint8).tobytes()
    return b"".join(_encode_block(values[first : first + _BLOCK]) for first in range(0, len(values), _BLOCK))


def _encode_small(values: NDArray[np.integer[Any]]) -> bytes:
    numbers = values.tolist()
    if values.dtype.kind == "i":
        serialized = messages.TensorProto(int64_val=numbers).SerializeToString()
        return serialized[read_varint(serialized, 1)[1] :]
    serialized = messages.TensorProto(uint64_val=numbers).SerializeToString()
    return serialized[read_varint(serialized, 2)[1] :]


def _encode_block(values: NDArray[np.integer[Any]]) -> bytes:
    unsigned = (
        values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    )
    highest = int(unsigned.max())
    lengths = np.ones(len(unsigned), np.intp)
    for lowest in _LOWEST_OF_LENGTH:
        if highest < lowest:
            break
        lengths += unsigned >= np.uint64(lowest)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    size = int(stops[-1])
    encoded = np.empty(size + 8, np.uint8)
    # Each store writes eight bytes; what exceeds the value is overwritten by the stores after it.
    words = np.ndarray((size + 1,), np.dtype("<u8"), encoded, strides=(1,))
    words[starts] = _spread(unsigned) | _CONTINUATION[lengths]
    if highest >= _LOWEST_OF_LENGTH[7]:
        long = np.flatnonzero(lengths > 8)
        rest = unsigned[long] >> np.uint64(56)
        encoded[starts[long] + 8] = (rest & np.uint64(0x7F)) | (lengths[long] == _MAX_BYTES) * np.uint64(0x80)
        encoded[stops[long[lengths[long] == _MAX_BYTES]] - 1] = 1
    return encoded[:size].tobytes()
