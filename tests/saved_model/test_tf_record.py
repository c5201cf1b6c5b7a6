from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inserve.errors import DataLossError
from inserve.saved_model.tf_record import crc32c, read_records, write_record, write_records


def bitwise_crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def record_of(data: bytes) -> bytes:
    file = io.BytesIO()
    write_record(file, data)
    return file.getvalue()


def test_the_checksum_of_the_standard_text_is_the_standard_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [1536, 1537, 1538, 1539, 1540, 2047, 2048, 2049, 5001])
def test_the_checksum_of_long_data_is_that_of_the_definition(size: int) -> None:
    data = bytes(index * 7 % 251 for index in range(size))
    assert crc32c(data) == bitwise_crc32c(data)


@given(st.binary(max_size=200))
def test_the_checksum_of_short_data_is_that_of_the_definition(data: bytes) -> None:
    assert crc32c(data) == bitwise_crc32c(data)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = [b"", b"one", bytes(range(256)) * 40]
    write_records(str(tmp_path / "file"), records)
    assert list(read_records(str(tmp_path / "file"))) == records


def test_a_file_with_a_wrong_first_checksum_is_doubted_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"garbage garbage garbage")
    with pytest.raises(DataLossError) as caught:
        list(read_records(str(path)))
    assert caught.value.message == "corrupted record at 0 (Is this even a TFRecord file?)"


def test_records_before_a_corrupt_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    broken = bytearray(record_of(b"two"))
    broken[-1] ^= 1
    path.write_bytes(record_of(b"one") + broken)
    records = read_records(str(path))
    assert next(records) == b"one"
    with pytest.raises(DataLossError) as caught:
        next(records)
    assert caught.value.message == "corrupted record at 31"


def test_a_record_that_claims_more_than_the_file_has_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file"
    length = struct.pack("<Q", 1 << 60)
    masked = crc32c(length)
    masked = ((masked >> 15 | masked << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(length + struct.pack("<I", masked))
    with pytest.raises(DataLossError, match="truncated record at 0' failed with Read less bytes"):
        list(read_records(str(path)))


def test_less_than_a_header_is_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(record_of(b"one") + b"tail")
    assert list(read_records(str(path))) == [b"one"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def records() -> list[bytes]:
        raise ValueError("no records")

    with pytest.raises(ValueError, match="no records"):
        write_records(str(path), (record for _ in [0] for record in records()))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensorflow_reads_what_is_written_and_writes_what_is_read(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    records = [b"one", b"x" * 5000]
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    write_records(ours, records)
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    assert Path(ours).read_bytes() == Path(theirs).read_bytes()
    assert [bytes(item.numpy()) for item in tf.data.TFRecordDataset(ours)] == records
