"""Walks the fields of an encoded protobuf message in a file, without reading what it does not need.

A ``saved_model.pb`` may hold gigabytes of constants; whether it is whole shows in the lengths alone. The
file is read and never memory-mapped: a mapped file that a writer shortens kills the process.
Source: the protobuf encoding, https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from inserve.errors import DataLossError

__all__ = ["Field", "iter_fields", "read_bytes", "read_varint"]

_VARINT, _FIXED64, _BYTES, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


class Field(NamedTuple):
    """One field: its *number*, the *value* of a varint (else 0), and where its bytes lie in the file."""

    number: int
    value: int
    start: int
    end: int


def iter_fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in the bytes *start* to *end* of *file*.

    The caller may move the position of *file* between fields. Groups, which none of the messages read here
    has, count as damage.

    Raises:
        DataLossError: a field does not end where the message ends, or is not one.
    """
    position = start
    while position < end:
        file.seek(position)
        key, position = read_varint(file, position, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise DataLossError(f"field number 0 before byte {position}")
        value = 0
        first = position
        if wire_type == _VARINT:
            value, position = read_varint(file, position, end)
        elif wire_type == _BYTES:
            length, first = read_varint(file, position, end)
            position = first + length
        elif wire_type in _FIXED_SIZES:
            position += _FIXED_SIZES[wire_type]
        else:
            raise DataLossError(f"wire type {wire_type} before byte {position}")
        if position > end:
            raise DataLossError(f"field {number} needs {position - end} bytes more than there are")
        yield Field(number, value, first, position)


def read_varint(file: BinaryIO, position: int, end: int) -> tuple[int, int]:
    """Return the varint at the current position of *file*, which is *position*, and where it ends.

    Raises:
        DataLossError: it does not end before *end*, or is longer than 10 bytes.
    """
    value = 0
    for index in range(10):
        byte = file.read(1) if position + index < end else b""
        if not byte:
            raise DataLossError(f"the data ends within the number at byte {position}")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value, position + index + 1
    raise DataLossError(f"a number of more than 10 bytes at byte {position}")


def read_bytes(file: BinaryIO, field: Field, limit: int) -> bytes:
    """Return the bytes of *field*.

    Raises:
        DataLossError: there are more than *limit* of them, or the file got shorter meanwhile.
    """
    length = field.end - field.start
    if length > limit:
        raise DataLossError(f"field {field.number} has {length} bytes, expected at most {limit}")
    file.seek(field.start)
    data = file.read(length)
    if len(data) != length:
        raise DataLossError(f"field {field.number} ends after {len(data)} of {length} bytes")
    return data
