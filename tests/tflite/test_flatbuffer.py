from __future__ import annotations

import struct

import flatbuffers  # type: ignore[import-untyped]
import pytest

from inserve.errors import InvalidArgumentError
from inserve.tflite.flatbuffer import FlatBuffer, Table


def build() -> bytes:
    """A table with a number in slot 1, a string in slot 2, int32 in slot 3, and twice a table in slot 4."""
    builder = flatbuffers.Builder(0)
    text = builder.CreateString("zwölf")
    builder.StartVector(4, 3, 4)
    for number in (3, -2, 1):
        builder.PrependInt32(number)
    numbers = builder.EndVector()
    builder.StartObject(1)
    builder.PrependInt32Slot(0, 7, 0)
    inner = builder.EndObject()
    builder.StartVector(4, 2, 4)
    builder.PrependUOffsetTRelative(inner)
    builder.PrependUOffsetTRelative(inner)
    tables = builder.EndVector()
    builder.StartObject(6)
    builder.PrependInt32Slot(1, 42, 0)
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.PrependUOffsetTRelativeSlot(3, numbers, 0)
    builder.PrependUOffsetTRelativeSlot(4, tables, 0)
    builder.PrependUOffsetTRelativeSlot(5, inner, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TEST")
    return bytes(builder.Output())


@pytest.fixture
def root() -> Table:
    return FlatBuffer(build(), b"TEST").root()


def test_fields_are_read_by_slot(root: Table) -> None:
    assert root.number(1, "i") == 42
    assert root.text(2) == "zwölf"
    assert root.octets(2) == "zwölf".encode()
    assert root.numbers(3) == (1, -2, 3)
    assert [table.number(0, "i") for table in root.tables(4)] == [7, 7]
    assert [table.number(0, "i") for table in root.tables_of_field(5)] == [7]


def test_an_absent_field_is_its_default_or_empty(root: Table) -> None:
    assert root.number(0, "i", 5) == 5
    assert root.number(99, "i") == 0
    assert root.text(0) == ""
    assert root.numbers(0) == ()
    assert root.tables(0) == []
    assert root.tables_of_field(0) == []


def test_another_identifier_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="identifier is b'TEST', expected b'TFL3'"):
        FlatBuffer(build(), b"TFL3")


@pytest.mark.parametrize("length", range(8))
def test_a_file_without_room_for_an_identifier_is_refused(length: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"the file has {length} bytes"):
        FlatBuffer(build()[:length], b"TEST")


def test_an_offset_beyond_the_file_is_refused() -> None:
    data = struct.pack("<I", 1 << 31) + b"TEST"
    with pytest.raises(InvalidArgumentError, match="byte 2147483648 is outside a file of 8 bytes"):
        FlatBuffer(data, b"TEST").root()


def test_a_vtable_before_the_file_is_refused() -> None:
    data = struct.pack("<I4si", 8, b"TEST", 1000)
    with pytest.raises(InvalidArgumentError, match="byte -992 is outside"):
        FlatBuffer(data, b"TEST").root()


def test_a_vector_longer_than_the_file_is_refused() -> None:
    # A table at 16 with its vtable at 8: 6 bytes long, table of 8 bytes, slot 0 at 4; a vector at 24.
    data = struct.pack("<I4sHHHHiIII", 16, b"TEST", 6, 8, 4, 0, 8, 4, 1 << 30, 0)
    with pytest.raises(InvalidArgumentError, match="a vector of 1073741824 elements at byte 24"):
        FlatBuffer(data, b"TEST").root().numbers(0)


def test_a_file_that_refers_to_one_table_over_and_over_is_refused() -> None:
    buffer = FlatBuffer(build(), b"TEST")
    table = buffer.root()
    limit = len(build()) // 4
    reads = (table.tables(4) for _ in range(limit))
    with pytest.raises(InvalidArgumentError, match="more often than it can have tables"):
        list(reads)
