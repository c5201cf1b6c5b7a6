from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from inserve.protos import messages
from inserve.tensors.tensor_shape import MAX_DIMENSIONS, SCALAR, encode_shape, read_shape


@given(dimensions=st.lists(st.integers(0, 2**62), max_size=5))
def test_a_shape_is_written_as_protobuf_does(dimensions: list[int]) -> None:
    dims = [messages.TensorShapeProto.Dim(size=size) for size in dimensions]
    assert encode_shape(tuple(dimensions)) == messages.TensorShapeProto(dim=dims).SerializeToString()


@pytest.mark.parametrize("dimensions", [(), (3,), (2, 0, 5), (0, 2**62, 2**62), (1,) * MAX_DIMENSIONS])
def test_a_possible_shape_is_read_with_its_number_of_elements(dimensions: tuple[int, ...]) -> None:
    shape = read_shape(encode_shape(dimensions))
    assert (shape.dimensions, shape.problem) == (dimensions, "")
    assert shape.elements == (0 if 0 in dimensions else 3 if 3 in dimensions else 1)


@pytest.mark.parametrize(
    ("dimensions", "problem"),
    [
        ((2, -1), "dimension -1 is negative"),
        ((2**32, 2**31), "it has 9223372036854775808 elements, allowed at most 9223372036854775807"),
        (
            (2**32, 2**31, 0),
            "its first 2 dimensions have 9223372036854775808 elements, allowed at most 9223372036854775807",
        ),
        ((1,) * 255, "it has 255 dimensions, allowed at most 254"),
    ],
)
def test_an_impossible_shape_is_read_with_the_reason(dimensions: tuple[int, ...], problem: str) -> None:
    dims = [messages.TensorShapeProto.Dim(size=size) for size in dimensions]
    assert read_shape(messages.TensorShapeProto(dim=dims).SerializeToString()).problem == problem


def test_an_empty_message_is_a_scalar() -> None:
    assert read_shape(b"") == SCALAR


@pytest.mark.parametrize("serialized", [b"\x12", b"\x12\x04\x12\x02\x61\xff", b"\x12" * 300])
def test_bytes_that_are_no_shape_are_refused(serialized: bytes) -> None:
    with pytest.raises(DecodeError):
        read_shape(serialized)
