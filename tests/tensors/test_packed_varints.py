"""Packed integers against protobuf's own parser and writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inserve.protos import messages
from inserve.protos.wire import read_varint
from inserve.tensors.packed_varints import are_packed_varints, decode_packed_varints, encode_packed_varints

KINDS: dict[str, Any] = {
    "one byte": np.arange(128),
    "one length": np.arange(128, 160),
    "tokens": np.array([0, 127, 128, 16383, 16384, 29999]),
    "negative": np.array([-1, 0, -(2**31), 5]),
    "every length": np.array([2 ** (7 * k) for k in range(9)] + [2 ** (7 * k) - 1 for k in range(1, 10)]),
    "extremes": np.array([-(2**63), 2**63 - 1]),
    "bytes": np.array([-128, 127], np.int8),
}


def packed(values: NDArray[Any]) -> bytes:
    """What protobuf writes for *values* behind the tag and the length."""
    serialized = messages.TensorProto(int64_val=values.tolist()).SerializeToString()
    return serialized[read_varint(serialized, 1)[1] :] if serialized else b""


@pytest.mark.parametrize("repetitions", [1, 40, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_written_and_read_as_protobuf_does(kind: str, repetitions: int) -> None:
    values = np.tile(KINDS[kind], repetitions)
    encoded = encode_packed_varints(values)
    assert encoded == packed(values)
    assert are_packed_varints(encoded)
    assert decode_packed_varints(encoded).astype(np.int64).tolist() == values.tolist()


@pytest.mark.parametrize("repetitions", [1, 5000])
def test_unsigned_integers_use_all_64_bits(repetitions: int) -> None:
    values = np.tile(np.array([2**64 - 1, 2**63, 0], np.uint64), repetitions)
    assert decode_packed_varints(encode_packed_varints(values)).tolist() == values.tolist()


@settings(deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), repetitions=st.sampled_from([1, 300]))
def test_any_integers_are_written_and_read_as_protobuf_does(values: list[int], repetitions: int) -> None:
    many = np.array(values * repetitions, np.int64)
    assert encode_packed_varints(many) == packed(many)
    assert decode_packed_varints(packed(many)).astype(np.int64).tolist() == many.tolist()


@settings(deadline=None, max_examples=300)
@given(
    head=st.sampled_from([b"", b"\x01" * 500, b"\x81\x01" * 300]),
    tail=st.lists(st.sampled_from([0x80, 0xFF, 0x01, 0x00]), max_size=24),
)
def test_bytes_are_integers_where_protobuf_reads_them(head: bytes, tail: list[int]) -> None:
    payload = head + bytes(tail)
    size = len(payload)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    try:
        read = list(messages.TensorProto.FromString(b"\x8a\x01" + length + payload).uint64_val)
    except DecodeError:
        read = None
    assert are_packed_varints(payload) == (read is not None)
    if read is not None:
        assert decode_packed_varints(payload).tolist() == read
