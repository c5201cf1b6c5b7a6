from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inserve.protos import messages
from inserve.protos.wire import (
    encode_length_delimited_header,
    encode_varint,
    length_delimited_fields,
    read_varint,
)


@given(value=st.integers(0, 2**64 - 1))
def test_an_integer_is_written_as_protobuf_does(value: int) -> None:
    expected = messages.UInt64Value(value=value).SerializeToString()
    assert b"\x08" + encode_varint(value) == (expected or b"\x08\x00")


@given(value=st.integers(0, 2**31 - 1))
def test_a_length_is_read_with_the_position_after_it(value: int) -> None:
    encoded = encode_varint(value)
    assert read_varint(b"?" + encoded + b"?", 1) == (value, 1 + len(encoded))


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x01"])
def test_a_length_above_two_gibibytes_or_five_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no length within"):
        read_varint(data, 0)


def test_a_length_that_is_cut_is_refused() -> None:
    with pytest.raises(IndexError):
        read_varint(b"\x80", 0)


def test_a_header_is_tag_and_length() -> None:
    message = messages.TensorProto(float8_val=b"v" * 200)
    assert encode_length_delimited_header(18, 200) + b"v" * 200 == message.SerializeToString()


def test_length_delimited_fields_are_found_between_others() -> None:
    data = (
        b"skipped" + b"\x08\x96\x01" + b"\x12\x02ab" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x12\x00"
    )
    assert list(length_delimited_fields(data, 7, len(data))) == [(2, 12, 14), (2, 30, 30)]


@pytest.mark.parametrize("data", [b"\x0b\x0c", b"\x0a\x05a"], ids=["group", "too long"])
def test_a_message_that_cannot_be_stepped_through_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type 3|ends at byte 7, the message at 3"):
        list(length_delimited_fields(data, 0, len(data)))
