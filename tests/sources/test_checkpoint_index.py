import struct
from pathlib import Path

import numpy as np
import pytest

from inserve.errors import DataLossError, UnimplementedError
from inserve.sources.checkpoint_index import parse_checkpoint_index, read_checkpoint_index

INDEX = Path(__file__).parent.parent / "golden/models/half_plus_two/1/variables/variables.index"
FOOTER_BYTES = 48


def test_a_checkpoint_of_many_blocks_and_shards_that_tensorflow_wrote_is_read(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    prefixes = [str(tmp_path / f"part{shard}") for shard in range(3)]
    for shard, prefix in enumerate(prefixes):
        names = [f"layer_{shard}/with/a/long/name/{index:05d}" for index in range(400)]
        tensors = [np.full((shard + 1, 4), index, np.float32) for index in range(400)]
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * 400, tensors=tensors)
    merged = str(tmp_path / "variables")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=merged)
    index = read_checkpoint_index(f"{merged}.index")
    assert index.num_shards == 3
    assert index.shard_bytes == {
        shard: (tmp_path / f"variables.data-{shard:05d}-of-00003").stat().st_size for shard in range(3)
    }


def test_an_index_without_a_footer_is_incomplete() -> None:
    with pytest.raises(DataLossError, match="ends without its footer after 100 bytes"):
        parse_checkpoint_index(INDEX.read_bytes()[:100])


def test_a_hole_of_zeros_in_the_index_is_incomplete() -> None:
    data = INDEX.read_bytes()
    with pytest.raises(DataLossError):
        parse_checkpoint_index(bytes(len(data) - FOOTER_BYTES) + data[-FOOTER_BYTES:])


def test_a_footer_that_points_outside_is_incomplete() -> None:
    data = INDEX.read_bytes()
    footer = b"\x00\x00" + b"\xff\x7f\xff\x7f" + bytes(34) + data[-8:]
    with pytest.raises(DataLossError, match="lies outside the checkpoint index"):
        parse_checkpoint_index(data[:-FOOTER_BYTES] + footer)


def test_a_compressed_block_cannot_be_checked() -> None:
    data = bytearray(INDEX.read_bytes())
    data[-FOOTER_BYTES - 5] = 1
    with pytest.raises(UnimplementedError, match="compression 1"):
        parse_checkpoint_index(bytes(data))


def test_an_entry_of_a_shard_that_does_not_exist_is_damage() -> None:
    def block(entries: list[tuple[bytes, bytes]]) -> bytes:
        body = b"".join(bytes([0, len(key), len(value)]) + key + value for key, value in entries)
        return body + struct.pack("<II", 0, 1)

    data_block = block([(b"", b"\x08\x01"), (b"w", b"\x18\x05\x28\x04")])
    index_block = block([(b"w", bytes([0, len(data_block)]))])
    handles = bytes([0, 0, len(data_block) + 5, len(index_block)])
    file = data_block + bytes(5) + index_block + bytes(5) + handles.ljust(40, b"\0")
    with pytest.raises(DataLossError, match=r"names shards \[5\] of 1"):
        parse_checkpoint_index(file + INDEX.read_bytes()[-8:])


@pytest.mark.parametrize("position", range(0, 234, 7))
def test_a_flipped_byte_is_read_or_refused_but_nothing_else_happens(position: int) -> None:
    data = bytearray(INDEX.read_bytes())
    data[position] ^= 0xFF
    try:
        index = parse_checkpoint_index(bytes(data))
    except (DataLossError, UnimplementedError):
        return
    assert set(index.shard_bytes) <= set(range(index.num_shards))
