"""TensorProto against TensorFlow itself: ``parse_tensor`` is the C++ decoder of the server."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensors.dtypes import STRING, DataType, ElementType, element_type, find_element_type
from inserve.tensors.flat_tensor import is_flat
from inserve.tensors.tensor_proto import (
    MAX_FILLED_BYTES,
    HandleTensorError,
    decode_tensor,
    encode_tensor,
    tensor_from_message,
    tensor_to_message,
)

ELEMENTS = [element for element in map(find_element_type, DataType) if element is not None]
FIXED_WIDTH = [element for element in ELEMENTS if element.name != "string"]
NUMBERS: dict[str, list[Any]] = {
    "float_val": [1.5, -0.0, float("inf"), float("nan")],
    "double_val": [1.5, -0.0, 1e300, 5e-324],
    "int_val": [1, -1, 300, -129, 70000, 2**31 - 1, -(2**31), 7, 15],
    "scomplex_val": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "int64_val": [1, -1, 2**62, -(2**63), 300],
    "bool_val": [True, False, True],
    "dcomplex_val": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "half_val": [15360, 0, 65535, 65536 + 15360, -1, 31744],
    "uint32_val": [1, 2**32 - 1, 300],
    "uint64_val": [1, 2**64 - 1, 300],
    "string_val": [b"a", b"", b"\x00b\x00", b"\xff"],
}


def joined(array: NDArray[Any], *, as_content: bool = False) -> bytes:
    encoded = encode_tensor(array, as_content=as_content)
    data = b"".join(encoded.pieces)
    assert len(data) == encoded.nbytes
    return data


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()


def parsed_by_tensorflow(data: bytes, element: ElementType) -> NDArray[Any] | None:
    """What the C++ decoder makes of *data*, or None where it fails."""
    try:
        tensor = tf.io.parse_tensor(data, tf.as_dtype(int(element.data_type)))
    except (tf.errors.InvalidArgumentError, tf.errors.InternalError):
        return None
    array: NDArray[Any] = np.asarray(tensor.numpy(), object if element.name == "string" else None)
    return array


def decoded(data: bytes) -> NDArray[Any] | None:
    try:
        return decode_tensor(data)
    except InvalidArgumentError:
        return None


def assert_as_tensorflow(message: messages.TensorProto, element: ElementType) -> None:
    """Both ways in give what TensorFlow gives, or fail where it fails."""
    data = message.SerializeToString()
    expected = parsed_by_tensorflow(data, element)
    got = decoded(data)
    if expected is None:
        assert got is None
        with pytest.raises(InvalidArgumentError):
            tensor_from_message(message)
        return
    assert got is not None
    assert got.dtype == element.numpy
    assert same(got, expected.astype(element.numpy, copy=False).reshape(expected.shape))
    assert same(tensor_from_message(message), got)


def sized(element: ElementType, *sizes: int, **values: Any) -> messages.TensorProto:
    dims = [messages.TensorShapeProto.Dim(size=size) for size in sizes]
    return messages.TensorProto(
        dtype=int(element.data_type), tensor_shape=messages.TensorShapeProto(dim=dims), **values
    )


def typed_values(element: ElementType, repetitions: int = 1) -> dict[str, Any]:
    if element.field == "float8_val":
        return {"float8_val": b"\x01\x02\x03" * repetitions}
    return {element.field: NUMBERS[element.field] * repetitions}


@pytest.mark.parametrize("elements", [0, 1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.name)
def test_typed_values_are_cast_cut_and_filled_as_in_tensorflow(element: ElementType, elements: int) -> None:
    assert_as_tensorflow(sized(element, elements, **typed_values(element)), element)


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.name)
def test_many_typed_values_are_read_as_in_tensorflow(element: ElementType) -> None:
    assert_as_tensorflow(sized(element, 20, 30, **typed_values(element, 300)), element)


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.name)
def test_no_values_or_those_of_another_type_are_zeros(element: ElementType) -> None:
    other = {"int64_val": [5]} if element.field != "int64_val" else {"float_val": [5.0]}
    for values in ({}, other, other | {"string_val": [b"a"]} if element.name != "string" else other):
        assert_as_tensorflow(sized(element, 2, 2, **values), element)
    assert_as_tensorflow(messages.TensorProto(dtype=int(element.data_type)), element)


@pytest.mark.parametrize("element", FIXED_WIDTH, ids=lambda element: element.name)
def test_content_counts_before_typed_values_and_only_at_its_exact_length(element: ElementType) -> None:
    size = element.numpy.itemsize
    for length in (1, 2 * size - 1, 2 * size, 2 * size + 1, 3 * size):
        content = (b"\x00\x01" * length)[:length]
        assert_as_tensorflow(sized(element, 2, tensor_content=content), element)
        both = typed_values(element) | {"tensor_content": content}
        assert_as_tensorflow(sized(element, 2, **both), element)
        assert_as_tensorflow(sized(element, 2, 0, tensor_content=content), element)


@pytest.mark.parametrize(
    "content",
    [
        b"\x01\x02abb",
        b"\x00\x00",
        b"\x01\x02ab",
        b"\x01\x02abbc",
        b"\x01",
        b"\x80",
        b"\x80" * 12,
        b"\x00\x81\x80\x80\x80\x00a",
        b"\x00\x81\x80\x80\x80\x80\x00a",
        b"\xff\xff\xff\xff\x7f\x00",
        b"\x81\x80\x80\x80\x10\x00a",
    ],
)
def test_string_content_is_lengths_then_bytes(content: bytes) -> None:
    assert_as_tensorflow(sized(STRING, 2, tensor_content=content), STRING)


@pytest.mark.parametrize("byte", [2, 255])
def test_a_bool_is_0_or_1_in_content(byte: int) -> None:
    element = element_type(DataType.DT_BOOL)
    assert_as_tensorflow(sized(element, 2, tensor_content=bytes([1, byte])), element)


@pytest.mark.parametrize(
    "sizes", [(-1,), (0, -1), (2**31, 2**31, 2), (2**62, 2, 2), (1,) * 255, (0,) * 300, (2**63 - 1, 2)]
)
def test_a_shape_that_no_tensor_has_fails(sizes: tuple[int, ...]) -> None:
    element = ELEMENTS[0]
    assert_as_tensorflow(sized(element, *sizes, float_val=[1.0]), element)


def test_the_names_of_dimensions_the_version_and_unknown_rank_are_ignored() -> None:
    element = ELEMENTS[0]
    message = sized(element, 2, float_val=[1.0, 2.0], version_number=9)
    message.tensor_shape.dim[0].name = "batch"
    message.tensor_shape.unknown_rank = True
    assert_as_tensorflow(message, element)


@pytest.mark.parametrize("sizes", [(2**62, 0), (0, 2**62, 2**62), (1,) * 65])
def test_a_shape_that_no_array_has_stands_beside_its_values(sizes: tuple[int, ...]) -> None:
    message = sized(ELEMENTS[0], *sizes)
    assert tf.io.parse_tensor(message.SerializeToString(), tf.float32).shape.rank == len(sizes)
    tensor: Any = decode_tensor(message.SerializeToString())
    assert is_flat(tensor)
    assert tensor.shape == sizes
    assert tensor.values.tolist() == [0.0] * math.prod(sizes)
    assert tensor_to_message(tensor).tensor_shape == message.tensor_shape


def test_a_huge_dimension_of_an_empty_tensor_is_kept() -> None:
    message = sized(ELEMENTS[0], 0, 2**60)
    assert decode_tensor(message.SerializeToString()).shape == (0, 2**60)


def test_filling_stops_at_a_fixed_size() -> None:
    limit = MAX_FILLED_BYTES // 4
    with pytest.raises(InvalidArgumentError, match=f"1 values were sent for {limit + 1} elements of float"):
        decode_tensor(sized(ELEMENTS[0], limit + 1, float_val=[1.0]).SerializeToString())
    with pytest.raises(InvalidArgumentError, match="0 strings were sent"):
        decode_tensor(sized(STRING, 2**40).SerializeToString())


@pytest.mark.parametrize("data_type", [0, 34, 101, 133, 200, -1])
def test_a_type_that_no_array_has_fails(data_type: int) -> None:
    message = messages.TensorProto(dtype=data_type, tensor_shape=messages.TensorShapeProto())
    with pytest.raises(InvalidArgumentError, match=f"DataType {data_type}"):
        decode_tensor(message.SerializeToString())


@pytest.mark.parametrize(("data_type", "name"), [(20, "resource"), (21, "variant")])
def test_handles_are_no_arrays(data_type: int, name: str) -> None:
    message = messages.TensorProto(dtype=data_type, tensor_shape=messages.TensorShapeProto())
    with pytest.raises(HandleTensorError, match=f"elements of type {name}") as error:
        decode_tensor(message.SerializeToString())
    assert error.value.data_type == data_type


@pytest.mark.parametrize("data", [b"\xff", b"\x2a\x03abc", b"\x2a\x04", b"\x42\x05a", b"\x3a\x01\x80"])
def test_bytes_that_are_no_tensor_fail(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="not a TensorProto"):
        decode_tensor(data)


def test_pieces_of_a_field_are_joined_whether_packed_or_not() -> None:
    one, two = np.float32(1).tobytes(), np.float32(2).tobytes()
    shape = b"\x08\x01\x12\x04\x12\x02\x08\x04"
    data = shape + b"\x2a\x04" + one + b"\x2d" + two + b"\x2a\x08" + one + two
    assert decode_tensor(data).tolist() == [1.0, 2.0, 1.0, 2.0]


def test_pieces_of_a_shape_are_joined() -> None:
    data = b"\x08\x01\x12\x04\x12\x02\x08\x02\x12\x04\x12\x02\x08\x03"
    assert decode_tensor(data).shape == (2, 3)


def test_unknown_fields_are_ignored() -> None:
    data = joined(np.array([1.5], np.float32))
    assert decode_tensor(b"\xf8\x07\x05" + data + b"\xfb\x07\xfc\x07").tolist() == [1.5]


def test_a_decoded_view_keeps_the_bytes_and_cannot_be_written() -> None:
    data = joined(np.arange(5000.0), as_content=True)
    array = decode_tensor(memoryview(data))
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


def random_bytes(element: ElementType, shape: tuple[int, ...]) -> NDArray[Any]:
    random = np.random.default_rng(7)
    if element.name == "bool":
        return random.integers(0, 2, shape).astype(np.bool_)
    if element.numpy in map(np.dtype, (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2)):
        return random.integers(0, 2, shape).astype(element.numpy)
    if element.name == "float4_e2m1fn":
        return random.integers(0, 16, shape).astype(np.uint8).view(element.numpy)
    count = int(np.prod(shape)) * element.numpy.itemsize
    return np.frombuffer(random.bytes(count), element.numpy).reshape(shape)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (40, 50), (0,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("element", FIXED_WIDTH, ids=lambda element: element.name)
def test_tensorflow_reads_what_we_write(element: ElementType, shape: tuple[int, ...]) -> None:
    array = random_bytes(element, shape)
    for as_content in (False, True):
        data = joined(array, as_content=as_content)
        message = messages.TensorProto.FromString(data)
        expected = parsed_by_tensorflow(data, element)
        assert expected is not None
        assert same(expected.astype(element.numpy, copy=False).reshape(shape), array)
        assert same(decode_tensor(data), array)
        assert message.HasField("tensor_shape")
        used = {field.name for field, _ in message.ListFields()} - {"dtype", "tensor_shape"}
        assert used == ({"tensor_content" if as_content else element.field} if array.size else set())
        assert message.SerializeToString() == data


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,), (300,)], ids=str)
def test_tensorflow_reads_the_strings_we_write(shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    array = np.fromiter((b"\x00\xff" * (i % 90) for i in range(count)), object, count).reshape(shape)
    for as_content in (False, True):
        data = joined(array, as_content=as_content)
        expected = parsed_by_tensorflow(data, STRING)
        assert expected is not None
        assert expected.reshape(shape).tolist() == array.tolist()
        assert same(decode_tensor(data), array)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(3000)[::3], np.asfortranarray(np.ones((50, 60), np.float32))],
)
def test_the_order_of_memory_does_not_matter(array: NDArray[Any]) -> None:
    for as_content in (False, True):
        assert same(decode_tensor(joined(array, as_content=as_content)), array)


def test_an_element_that_is_not_bytes_is_a_type_error() -> None:
    for as_content in (False, True):
        with pytest.raises(TypeError):
            encode_tensor(np.array([1], object), as_content=as_content)
        with pytest.raises(TypeError):
            encode_tensor(np.array(["text"], object), as_content=as_content)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1.0], ">f4")])
def test_a_dtype_that_tensorflow_lacks_is_a_value_error(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="no element type"):
        encode_tensor(array)


@settings(deadline=None, max_examples=200)
@given(
    array=npst.arrays(
        st.one_of(
            npst.integer_dtypes(endianness="="),
            npst.unsigned_integer_dtypes(endianness="="),
            npst.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
            npst.complex_number_dtypes(endianness="=", sizes=(64, 128)),
            npst.boolean_dtypes(),
        ),
        npst.array_shapes(min_dims=0, min_side=0),
    )
)
def test_tensors_that_tensorflow_makes_are_read_and_ours_are_read_by_it(array: NDArray[Any]) -> None:
    made: Message = tf.make_tensor_proto(array)
    assert same(decode_tensor(made.SerializeToString()), array)
    ours = type(made).FromString(tensor_to_message(array).SerializeToString())
    assert same(tf.make_ndarray(ours), array)


@settings(deadline=None)
@given(values=st.lists(st.binary(max_size=300), max_size=30))
def test_strings_that_tensorflow_makes_are_read_and_ours_are_read_by_it(values: list[bytes]) -> None:
    array = np.fromiter(values, object, len(values))
    made: Message = tf.make_tensor_proto(values, tf.string)
    assert decode_tensor(made.SerializeToString()).tolist() == values
    ours = type(made).FromString(tensor_to_message(array).SerializeToString())
    assert tf.make_ndarray(ours).tolist() == values
    assert decode_tensor(joined(array, as_content=True)).tolist() == values
