"""Reads which bytes of which shard a checkpoint needs, from its ``variables.index``.

The index is a table in LevelDB's format: data blocks, an index block that points at them, and a footer of 48
bytes at the very end, which is why a file that is still being copied shows. The value of the empty key is a
``BundleHeaderProto`` (field 1: number of shards), every other value a ``BundleEntryProto`` (3: shard, 4:
offset, 5: size). TensorFlow writes it uncompressed.

Sources: LevelDB ``doc/table_format.md``; TensorFlow ``core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inserve.errors import DataLossError, UnimplementedError
from inserve.sources.proto_fields import iter_fields, read_varint

__all__ = ["CheckpointIndex", "parse_checkpoint_index", "read_checkpoint_index"]

_FOOTER_BYTES = 48
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_BLOCK_TRAILER_BYTES = 5
_LARGEST_INDEX_BYTES = 64 << 20
_HEADER_NUM_SHARDS = 1
_ENTRY_SHARD, _ENTRY_OFFSET, _ENTRY_SIZE = 3, 4, 5


@dataclass(frozen=True)
class CheckpointIndex:
    """How many shards the checkpoint has, and the number of bytes each shard has at least."""

    num_shards: int
    shard_bytes: Mapping[int, int]


def read_checkpoint_index(path: str | os.PathLike[str]) -> CheckpointIndex:
    """Return what the index file *path* says.

    Raises:
        DataLossError: the file is incomplete or damaged.
        UnimplementedError: it is compressed or above 64 MiB, so that it cannot be checked here.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(_LARGEST_INDEX_BYTES + 1)
    if len(data) > _LARGEST_INDEX_BYTES:
        raise UnimplementedError(f"the checkpoint index has more than {_LARGEST_INDEX_BYTES} bytes")
    return parse_checkpoint_index(data)


def parse_checkpoint_index(data: bytes) -> CheckpointIndex:
    """Return what an index file with the content *data* says; raises as ``read_checkpoint_index``."""
    if len(data) < _FOOTER_BYTES or not data.endswith(_MAGIC):
        raise DataLossError(f"the checkpoint index ends without its footer after {len(data)} bytes")
    footer = io.BytesIO(data[-_FOOTER_BYTES:])
    _read_handle(footer)
    index_block = _block(data, *_read_handle(footer))
    num_shards = 0
    shard_bytes: dict[int, int] = {}
    for _, handle in _block_entries(index_block):
        for key, value in _block_entries(_block(data, *_read_handle(io.BytesIO(handle)))):
            fields = {field.number: field.value for field in iter_fields(io.BytesIO(value), 0, len(value))}
            if not key:
                num_shards = fields.get(_HEADER_NUM_SHARDS, 0)
                continue
            shard = fields.get(_ENTRY_SHARD, 0)
            end = fields.get(_ENTRY_OFFSET, 0) + fields.get(_ENTRY_SIZE, 0)
            shard_bytes[shard] = max(end, shard_bytes.get(shard, 0))
    if num_shards < 1 or any(shard >= num_shards for shard in shard_bytes):
        raise DataLossError(f"the checkpoint index names shards {sorted(shard_bytes)} of {num_shards}")
    return CheckpointIndex(num_shards, shard_bytes)


def _read_handle(file: io.BytesIO) -> tuple[int, int]:
    """Return the offset and size that a block handle at the position of *file* holds."""
    end = len(file.getbuffer())
    offset, position = read_varint(file, file.tell(), end)
    size, _ = read_varint(file, position, end)
    return offset, size


def _block(data: bytes, offset: int, size: int) -> bytes:
    if offset + size + _BLOCK_TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise DataLossError(f"a block at byte {offset} with {size} bytes lies outside the checkpoint index")
    compression = data[offset + size]
    if compression != 0:
        raise UnimplementedError(
            f"the checkpoint index uses compression {compression}, which is not read here"
        )
    return data[offset : offset + size]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of *block*; a key is stored as what differs from the key before it."""
    num_restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else 0
    end = len(block) - 4 * (num_restarts + 1)
    if end < 0 or num_restarts < 1:
        raise DataLossError(f"an index block has {num_restarts} restarts in {len(block)} bytes")
    file = io.BytesIO(block)
    key = b""
    position = 0
    while position < end:
        shared, position = read_varint(file, position, end)
        unshared, position = read_varint(file, position, end)
        length, position = read_varint(file, position, end)
        if shared > len(key) or position + unshared + length > end:
            raise DataLossError(f"an entry of the checkpoint index ends outside its block at byte {position}")
        key = key[:shared] + file.read(unshared)
        yield key, file.read(length)
        position += unshared + length
