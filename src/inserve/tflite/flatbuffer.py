"""Reads FlatBuffers tables without trusting a single offset.

A table starts with a signed offset back to its vtable, which holds for each field (slot) where in the
table it lies, 0 for absent. Offsets to strings, vectors and tables are unsigned and relative to where
they stand; everything is little-endian.
"""

from __future__ import annotations

import struct
from typing import Any

from inserve.errors import InvalidArgumentError

__all__ = ["FlatBuffer", "Table"]

_SMALLEST_TABLE_BYTES = 4
_U16 = struct.Struct("<H")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")


class FlatBuffer:
    """The bytes of a FlatBuffers file with the four-letter *identifier*.

    As many tables are read as fit into the file side by side, so that tables which are referred to many
    times over cannot keep a reader busy for ever.

    Raises:
        InvalidArgumentError: Too short, or with another identifier.
    """

    def __init__(self, data: bytes, identifier: bytes) -> None:
        self.data = data
        self._tables_left = len(data) // _SMALLEST_TABLE_BYTES
        if data[4:8] != identifier:
            raise InvalidArgumentError(
                f"the file identifier is {data[4:8]!r}, expected {identifier!r}"
                if len(data) >= 8
                else f"the file has {len(data)} bytes"
            )

    def root(self) -> Table:
        """Return the table that the file is.

        Raises:
            InvalidArgumentError: It does not lie within the file.
        """
        return self.table_at(self.offset_at(0))

    def table_at(self, position: int) -> Table:
        """Return the table at byte *position*; raises ``InvalidArgumentError`` as ``root``."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise InvalidArgumentError("the file refers to its tables more often than it can have tables")
        return Table(self, position)

    def offset_at(self, position: int) -> int:
        """Return where the offset that stands at byte *position* points to."""
        return position + int(self.number_at(_U32, position))

    def number_at(self, form: struct.Struct, position: int) -> int:
        """Return the number at byte *position*."""
        if not 0 <= position <= len(self.data) - form.size:
            raise InvalidArgumentError(f"byte {position} is outside a file of {len(self.data)} bytes")
        number: int = form.unpack_from(self.data, position)[0]
        return number

    def vector_at(self, position: int, element_bytes: int) -> tuple[int, int]:
        """Return where the elements of the vector at byte *position* start, and their number."""
        length = self.number_at(_U32, position)
        start = position + _U32.size
        if length * element_bytes > len(self.data) - start:
            raise InvalidArgumentError(
                f"a vector of {length} elements at byte {position} is longer than the file"
            )
        return start, length


class Table:
    """One table; fields are asked for by slot, the number of the field in the schema.

    Every method raises ``InvalidArgumentError`` for what does not lie within the file.
    """

    __slots__ = ("_buffer", "_position", "_vtable", "_vtable_bytes")

    def __init__(self, buffer: FlatBuffer, position: int) -> None:
        self._buffer = buffer
        self._position = position
        self._vtable = position - buffer.number_at(_I32, position)
        self._vtable_bytes = buffer.number_at(_U16, self._vtable)

    def number(self, slot: int, form: str, default: int = 0) -> int:
        """Return the number of ``struct`` format *form* in the field, *default* where it is absent."""
        position = self._field(slot)
        return default if position is None else self._buffer.number_at(struct.Struct(f"<{form}"), position)

    def tables(self, slot: int) -> list[Table]:
        """Return the tables of the vector in the field."""
        start, length = self._vector(slot, _U32.size)
        buffer = self._buffer
        return [buffer.table_at(buffer.offset_at(start + 4 * index)) for index in range(length)]

    def tables_of_field(self, slot: int) -> list[Table]:
        """Return the table in the field, as a list that is empty where the field is absent."""
        position = self._field(slot)
        return [] if position is None else [self._buffer.table_at(self._buffer.offset_at(position))]

    def numbers(self, slot: int, form: str = "i") -> tuple[Any, ...]:
        """Return the numbers, of ``struct`` format *form*, of the vector in the field."""
        start, length = self._vector(slot, struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{length}{form}", self._buffer.data, start) if length else ()

    def octets(self, slot: int) -> bytes:
        """Return the bytes of the string or vector of bytes in the field."""
        start, length = self._vector(slot, 1)
        return self._buffer.data[start : start + length]

    def text(self, slot: int) -> str:
        """Return the string in the field; what is not UTF-8 is replaced."""
        return self.octets(slot).decode("utf-8", "replace")

    def _vector(self, slot: int, element_bytes: int) -> tuple[int, int]:
        position = self._field(slot)
        if position is None:
            return 0, 0
        return self._buffer.vector_at(self._buffer.offset_at(position), element_bytes)

    def _field(self, slot: int) -> int | None:
        """Return where the field lies, None where it is absent."""
        entry = 2 * _U16.size + _U16.size * slot
        if entry + _U16.size > self._vtable_bytes:
            return None
        offset = self._buffer.number_at(_U16, self._vtable + entry)
        return self._position + offset if offset else None
