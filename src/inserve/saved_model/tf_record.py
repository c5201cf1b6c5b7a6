"""TFRecord files: records of bytes, each with its length and two checksums.

A record is its length (8 bytes), the masked CRC32C of those, the data, and the masked CRC32C of the
data, little-endian. Texts of errors are TensorFlow's. Source: ``tensorflow/core/lib/io/record_reader.cc``
and ``record_writer.cc``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from inserve.errors import DataLossError

__all__ = ["crc32c", "read_records", "write_record", "write_records"]

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_ALL_ONES = 0xFFFFFFFF
_SHORT = 1536
"""Up to this many bytes a loop in Python is faster than NumPy."""

_Tables = NDArray[np.uint32]
"""A linear map of 32-bit words: ``[4, 256]``, the image of each value of each byte."""


def read_records(path: str) -> Iterator[bytes]:
    """Yield the records of the file *path*, in order; one is held at a time.

    Fewer bytes than a length and its checksum take are the end of the file, as for TensorFlow.

    Raises:
        DataLossError: The file is truncated or a checksum differs; records before that were yielded.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while True:
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                return
            length, checksum = struct.unpack("<QI", header)
            if checksum != _masked_crc32c(header[:8]):
                doubt = "" if offset else " (Is this even a TFRecord file?)"
                raise DataLossError(f"corrupted record at {offset}{doubt}")
            start = offset + _HEADER_BYTES
            if length + _FOOTER_BYTES > size - start:
                raise DataLossError(
                    f"truncated record at {offset}' failed with Read less bytes than requested"
                )
            data = file.read(length)
            if struct.unpack("<I", file.read(_FOOTER_BYTES))[0] != _masked_crc32c(data):
                raise DataLossError(f"corrupted record at {start}")
            yield data
            offset = start + length + _FOOTER_BYTES


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append *data* as one record."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked_crc32c(length)))
    file.write(data)
    file.write(struct.pack("<I", _masked_crc32c(data)))


def write_records(path: str, records: Iterable[bytes]) -> None:
    """Put a file with *records* at *path* at once: whoever reads sees the old file or all of the new one.

    Raises:
        OSError: The file cannot be written; nothing is left of it, and an old one stays.
    """
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            for record in records:
                write_record(file, record)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _masked_crc32c(data: bytes) -> int:
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & _ALL_ONES


# --- CRC32C -----------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of *data*.

    A checksum that starts at 0 is linear: that of two halves is the left one's, moved over as many
    zero bytes as the right half has, xor the right one's. So every word gets its own, all at once,
    and neighbours are joined until one is left.
    """
    if len(data) <= _SHORT:
        checksum = _ALL_ONES
        for byte in data:
            checksum = checksum >> 8 ^ _BYTE_LIST[(checksum ^ byte) & 0xFF]
        return checksum ^ _ALL_ONES
    padding = -len(data) % 4  # zero bytes in front change nothing
    buffer = np.zeros(padding + len(data), np.uint8)
    buffer[padding:] = np.frombuffer(data, np.uint8)
    buffer[padding : padding + 4] ^= 0xFF  # the usual start, all ones, taken into the first four bytes
    parts = _apply(_over_zeros(0), buffer.view("<u4").astype(np.uint32, copy=False))
    level = 0
    while len(parts) > 1:
        if len(parts) % 2:
            parts = np.concatenate([np.zeros(1, np.uint32), parts])
        parts = _apply(_over_zeros(level), parts[::2]) ^ parts[1::2]
        level += 1
    return int(parts[0]) ^ _ALL_ONES


def _byte_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


def _four_zeros() -> _Tables:
    """Return what four zero bytes do to a checksum."""
    words = np.arange(256, dtype=np.uint32)
    tables = np.stack([words << np.uint32(8 * place) for place in range(4)])
    for _ in range(4):
        tables = tables >> np.uint32(8) ^ _BYTE_TABLE[tables & np.uint32(0xFF)]
    return tables


def _apply(tables: _Tables, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the image of each of *words*, ``[N]``."""
    octets = np.ascontiguousarray(words).astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
    images: NDArray[np.uint32] = tables[0][octets[:, 0]]
    for place in (1, 2, 3):
        images ^= tables[place][octets[:, place]]
    return images


@functools.cache
def _over_zeros(level: int) -> _Tables:
    """Return what ``4 << level`` zero bytes do to a checksum."""
    if not level:
        return _four_zeros()
    half = _over_zeros(level - 1)
    return np.stack([_apply(half, row) for row in half])


_BYTE_TABLE = _byte_table()
_BYTE_LIST: list[int] = _BYTE_TABLE.tolist()
