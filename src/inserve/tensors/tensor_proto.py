"""Values on the wire to arrays and back: ``tensorflow.TensorProto``.

Most tensors are read where they lie in the request: ``scan_tensor`` finds type, shape and the one
span of bytes that holds the values. A message that it does not recognise (several strings, values
in several pieces, fields unknown here) is left to protobuf's own parser, so what is valid, and which
of two values wins, is always protobuf's rule.

Which bytes mean which values: TensorFlow, ``framework/tensor.cc`` (``Tensor::FromProto``).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from inserve.errors import Code, InserveError, InvalidArgumentError, ResourceExhaustedError
from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, encode_varint, read_varint
from inserve.tensors.dtypes import (
    DataType,
    ElementType,
    data_type_name,
    element_type_of,
    find_element_type,
)
from inserve.tensors.flat_tensor import shaped
from inserve.tensors.packed_varints import (
    are_packed_varints,
    decode_packed_varints,
    encode_packed_varints,
)
from inserve.tensors.tensor_shape import SCALAR, TensorShape, encode_shape, read_shape

__all__ = [
    "MAX_FILLED_BYTES",
    "MAX_MESSAGE_BYTES",
    "EncodedTensor",
    "HandleTensorError",
    "TensorParts",
    "array_from_parts",
    "decode_tensor",
    "encode_tensor",
    "every_payload_is_valid",
    "fixed_width_header",
    "fixed_width_payload",
    "payload_is_valid",
    "scan_tensor",
    "tensor_from_message",
    "tensor_to_message",
    "view_dtype",
]

MAX_FILLED_BYTES = 256 * 2**20
"""Most bytes of a tensor of which the request holds only some values, the rest being filled in.

A few bytes of request could otherwise claim any amount of memory. Tensors sent in full have no
such limit. TensorFlow Serving has none but the memory there is, and fails in the same way then. A
string counts as ``_STRING_BYTES``.
"""

MAX_MESSAGE_BYTES = 2**31 - 1
"""Most bytes of a protobuf message."""

_MOST_ARRAY_DIMENSIONS = 32
"""Every NumPy has arrays of so many; later ones have twice as many."""

_STRING_BYTES = 32
_SMALL_BYTES = 4096

_FIELD_NUMBERS = {
    "float_val": 5,
    "double_val": 6,
    "int_val": 7,
    "string_val": 8,
    "scomplex_val": 9,
    "int64_val": 10,
    "bool_val": 11,
    "dcomplex_val": 12,
    "half_val": 13,
    "uint32_val": 16,
    "uint64_val": 17,
    "float8_val": 18,
}
_CONTENT = 4
_STRING = _FIELD_NUMBERS["string_val"]
_BYTES_PER_ENTRY = {5: 4, 6: 8, 9: 4, 12: 8}
_OPAQUE = frozenset({_CONTENT, _FIELD_NUMBERS["float8_val"]})
_UNCHECKED = frozenset({*_OPAQUE, _STRING})
_TYPED = frozenset(_FIELD_NUMBERS.values())

# First bytes of the fields above, where one byte holds the whole tag.
_FIELD_OF_TAG = {number << 3 | 2: number for number in (*_TYPED, _CONTENT) if number < 16}
# First bytes of the fields from 16 on; the second byte of their tags is 1.
_FIELD_OF_FIRST_BYTE = {(number & 0x0F) << 3 | 0x82: number for number in _TYPED if number >= 16}

# Element type and field whose payload, at its full length, is the memory of the array.
_VIEWS: dict[tuple[int, int], np.dtype[Any]] = {
    (element.data_type.value, number): element.numpy
    for element in map(find_element_type, DataType)
    if element is not None and element.data_type not in (DataType.DT_STRING, DataType.DT_BOOL)
    for number in (_CONTENT, _FIELD_NUMBERS[element.field])
    if number in _BYTES_PER_ENTRY or number in _OPAQUE
}


class TensorParts(NamedTuple):
    """A tensor as it lies in the bytes of a message; ``array_from_parts`` reads it."""

    data_type: int
    shape: TensorShape
    field: int
    """Number of the field that has values; 0 for none."""
    data: bytes | memoryview
    start: int
    stop: int


class EncodedTensor(NamedTuple):
    """A serialized TensorProto in pieces, to be joined once. A piece may be a view of the array."""

    pieces: list[bytes | memoryview]
    nbytes: int
    """Length of all the pieces together."""


# --- decoding -------------------------------------------------------------------------------------


def decode_tensor(data: bytes | memoryview) -> NDArray[Any]:
    """Return the array of a serialized TensorProto.

    Where the values are raw bytes on the wire (``tensor_content``, floats, complex numbers) the
    array is a view of *data*: it keeps *data* alive, cannot be written where *data* cannot, and may
    be unaligned. ``DT_STRING`` gives an object array of ``bytes``. A shape that no array can have
    (more than 64 dimensions; no elements, but the other dimensions overflow) gives a ``FlatTensor``.

    Raises:
        InvalidArgumentError: *data* is no TensorProto, or TensorFlow would not accept the tensor,
            or most of it is to be filled in (``MAX_FILLED_BYTES``).
        HandleTensorError: It holds resources or variants.
    """
    parts = scan_tensor(data, 0, len(data))
    if parts is not None:
        return array_from_parts(parts)
    try:
        message = messages.TensorProto.FromString(bytes(data))
    except DecodeError:
        raise InvalidArgumentError("the bytes are not a TensorProto message") from None
    return tensor_from_message(message)


def tensor_from_message(message: Message) -> NDArray[Any]:
    """Return the array of a TensorProto message of our own pool; as ``decode_tensor``, but a copy.

    Raises:
        InvalidArgumentError: See ``decode_tensor``.
    """
    tensor: Any = message
    if tensor.dtype != DataType.DT_STRING:
        serialized = tensor.SerializeToString()
        parts = scan_tensor(serialized, 0, len(serialized))
        if parts is not None:
            return array_from_parts(parts)
    shape = read_shape(tensor.tensor_shape.SerializeToString())
    content = tensor.tensor_content
    if content:
        parts = TensorParts(tensor.dtype, shape, _CONTENT, content, 0, len(content))
        return array_from_parts(parts)
    element = find_element_type(tensor.dtype)
    if element is None:
        raise _no_array(tensor.dtype)
    if element.data_type is DataType.DT_STRING:
        _require_possible(shape)
        return shaped(_string_array(list(tensor.string_val), shape.elements), shape.dimensions)
    return array_from_parts(_parts_of_field(tensor, element, shape))


def _parts_of_field(tensor: Any, element: ElementType, shape: TensorShape) -> TensorParts:
    """Return the parts after protobuf has written the values in one piece."""
    only = messages.TensorProto()
    only.CopyFrom(tensor)
    only.DiscardUnknownFields()
    for field, _ in only.ListFields():
        if field.name != element.field:
            only.ClearField(field.name)
    serialized = only.SerializeToString()
    if not serialized:
        return TensorParts(element.data_type, shape, 0, b"", 0, 0)
    number = _FIELD_NUMBERS[element.field]
    length, start = read_varint(serialized, 1 if number < 16 else 2)
    return TensorParts(element.data_type, shape, number, serialized, start, start + length)


def scan_tensor(data: bytes | memoryview, position: int, end: int) -> TensorParts | None:
    """Return the parts of the TensorProto in ``data[position:end]``, or None.

    None means that protobuf's parser must judge: the bytes may be invalid, or valid in a form that
    is not recognised here. Where there are parts, the bytes are a valid message.
    """
    data_type = 0
    shape: TensorShape | None = None
    field = start = stop = 0
    try:
        while position < end:
            tag = data[position]
            if tag == 0x08:
                data_type = data[position + 1]
                if data_type > 0x7F:
                    return None
                position += 2
                continue
            if tag == 0x12:
                length = data[position + 1]
                if length > 0x7F:
                    length, position = read_varint(data, position + 1)
                else:
                    position += 2
                if shape is not None or position + length > end:
                    return None
                shape = read_shape(bytes(data[position : position + length]))
                position += length
                continue
            number = _FIELD_OF_TAG.get(tag)
            if number is None:
                number = _FIELD_OF_FIRST_BYTE.get(tag)
                position += 1
                if number is None or data[position] != 0x01:
                    return None
            if field:
                return None
            field = number
            length, start = read_varint(data, position + 1)
            position = stop = start + length
    except (IndexError, ValueError, DecodeError):
        return None
    if position != end or (field and not payload_is_valid(field, data, start, stop)):
        return None
    return TensorParts(data_type, shape or SCALAR, field, data, start, stop)


def payload_is_valid(field: int, data: bytes | memoryview, start: int, stop: int) -> bool:
    """Return whether ``data[start:stop]`` is a whole value of a field of TensorProto."""
    if stop > len(data):
        return False
    entry_bytes = _BYTES_PER_ENTRY.get(field)
    if entry_bytes is not None:
        return (stop - start) % entry_bytes == 0
    return field in _UNCHECKED or are_packed_varints(data[start:stop])


def every_payload_is_valid(field: int) -> bool:
    """Return whether ``payload_is_valid`` depends on nothing but the length of the payload."""
    return field in _UNCHECKED or field in _BYTES_PER_ENTRY or field == 0


class HandleTensorError(InserveError):
    """A tensor of a type that TensorFlow knows and no array can have: resource or variant.

    *data_type* is its number. Whoever feeds the tensor says what is expected in its place.
    """

    code = Code.INVALID_ARGUMENT

    def __init__(self, data_type: int) -> None:
        super().__init__(f"no array can hold elements of type {data_type_name(data_type)}")
        self.data_type = data_type


def _no_array(data_type: int) -> InserveError:
    if data_type in (DataType.DT_RESOURCE, DataType.DT_VARIANT):
        return HandleTensorError(data_type)
    return InvalidArgumentError(f"no tensor in a message has DataType {data_type}")


def _require_possible(shape: TensorShape) -> None:
    if shape.problem:
        raise InvalidArgumentError(f"the shape is not possible: {shape.problem}")


def view_dtype(parts: TensorParts) -> np.dtype[Any] | None:
    """Return the dtype with which the payload of *parts* is the memory of its array, or None.

    It depends on nothing but type, shape, field and length: the bytes themselves may be any.
    """
    data_type, shape, field, _, start, stop = parts
    dtype = _VIEWS.get((data_type, field))
    if (
        dtype is None
        or not 0 < stop - start == shape.elements * dtype.itemsize
        or len(shape.dimensions) > _MOST_ARRAY_DIMENSIONS
    ):
        return None
    return dtype


def array_from_parts(parts: TensorParts) -> NDArray[Any]:
    """Return the array of *parts*; see ``decode_tensor``.

    Raises:
        InvalidArgumentError: See ``decode_tensor``.
    """
    data_type, shape, field, data, start, stop = parts
    dtype = view_dtype(parts)
    if dtype is not None:
        view: NDArray[Any] = np.ndarray(shape.dimensions, dtype, data, start)
        return view
    element = find_element_type(data_type)
    if element is None:
        raise _no_array(data_type)
    _require_possible(shape)
    elements = shape.elements
    if elements == 0:
        return shaped(np.empty(0, element.numpy), shape.dimensions)
    if field == _CONTENT and stop > start:
        return shaped(_content_values(element, elements, data, start, stop), shape.dimensions)
    if element.data_type is DataType.DT_STRING:
        strings = [bytes(data[start:stop])] if field == _STRING else []
        return shaped(_string_array(strings, elements), shape.dimensions)
    if field != _FIELD_NUMBERS[element.field] or stop == start:
        return shaped(_fill(None, elements, element), shape.dimensions)
    values = _field_values(element, data, start, stop)
    if len(values) < elements:
        values = _fill(values, elements, element)
    elif len(values) > elements:
        values = values[:elements]
    return shaped(values, shape.dimensions)


def _content_values(
    element: ElementType, elements: int, data: bytes | memoryview, start: int, stop: int
) -> NDArray[Any]:
    if element.data_type is DataType.DT_STRING:
        return _string_array(_split_string_content(bytes(data[start:stop]), elements), elements)
    expected = elements * element.numpy.itemsize
    if stop - start != expected:
        raise InvalidArgumentError(
            f"tensor_content has {stop - start} bytes, {elements} elements of {element.name} take {expected}"
        )
    if element.data_type is DataType.DT_BOOL:
        largest = int(np.frombuffer(data, np.uint8, elements, start).max())
        if largest > 1:
            raise InvalidArgumentError(
                f"tensor_content of a bool tensor has the byte {largest}, expected 0 or 1"
            )
    return np.frombuffer(data, element.numpy, elements, start)


def _field_values(element: ElementType, data: bytes | memoryview, start: int, stop: int) -> NDArray[Any]:
    """Return the values in the element's own typed field, ``[N]``, N as many as were sent."""
    dtype = element.numpy
    number = _FIELD_NUMBERS[element.field]
    if number in _BYTES_PER_ENTRY or number in _OPAQUE:
        return np.frombuffer(data, dtype, (stop - start) // dtype.itemsize, start)
    integers = decode_packed_varints(data[start:stop])
    if element.data_type is DataType.DT_BOOL:
        truths: NDArray[np.bool_] = np.not_equal(integers, 0)
        return truths
    if dtype.kind in "iu":
        return integers.astype(dtype, copy=False)
    if element.field == "half_val":
        return integers.astype(np.uint16).view(dtype)
    if dtype.names:
        return integers.astype(dtype[0]).view(dtype)
    return integers.astype(np.uint8).view(dtype)


def _fill(values: NDArray[Any] | None, elements: int, element: ElementType) -> NDArray[Any]:
    """Return *elements* values: those there are, then the last one; zeros where there are none."""
    claimed = elements * element.numpy.itemsize
    if claimed > MAX_FILLED_BYTES:
        raise InvalidArgumentError(
            f"{0 if values is None else len(values)} values were sent for {elements} elements of "
            f"{element.name}; filling in the rest would take {claimed} bytes, allowed {MAX_FILLED_BYTES}"
        )
    if values is None or len(values) == 0:
        return np.zeros(elements, element.numpy)
    filled = np.empty(elements, element.numpy)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1]
    return filled


# --- strings --------------------------------------------------------------------------------------


def _string_array(values: list[bytes], elements: int) -> NDArray[Any]:
    """Return the first *elements* of *values*, filled up with the last one or ``b""``, ``[elements]``."""
    if len(values) < elements:
        if elements * _STRING_BYTES > MAX_FILLED_BYTES:
            raise InvalidArgumentError(
                f"{len(values)} strings were sent for {elements} elements; "
                f"at most {MAX_FILLED_BYTES // _STRING_BYTES} are filled in"
            )
        values = values + [values[-1] if values else b""] * (elements - len(values))
    return np.fromiter(values, np.object_, elements)


def _split_string_content(content: bytes, elements: int) -> list[bytes]:
    """Return the strings of ``tensor_content``: all lengths first, then all bytes."""
    head = np.frombuffer(content, np.uint8, min(len(content), elements * 5))
    ends = np.flatnonzero(head <= 0x7F)[:elements]
    if len(ends) < elements:
        raise InvalidArgumentError(f"tensor_content ends within the lengths of {elements} strings")
    start = int(ends[-1]) + 1
    if int(np.diff(ends, prepend=-1).max()) > 5:
        raise InvalidArgumentError("tensor_content has a string length of more than five bytes")
    lengths = decode_packed_varints(content[:start]).astype(np.int64) & 0xFFFFFFFF
    stops = np.cumsum(lengths) + start
    if int(stops[-1]) != len(content):
        raise InvalidArgumentError(
            f"tensor_content has {len(content) - start} bytes of strings, their lengths add up to "
            f"{int(stops[-1]) - start}"
        )
    begins = (stops - lengths).tolist()
    return [content[begin:stop] for begin, stop in zip(begins, stops.tolist(), strict=True)]


# --- encoding -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _header(data_type: DataType, dimensions: tuple[int, ...]) -> bytes:
    """Return the fields dtype and tensor_shape of a serialized TensorProto."""
    shape = encode_shape(dimensions)
    return b"\x08" + encode_varint(data_type) + encode_length_delimited_header(2, len(shape)) + shape


def _require_size(nbytes: int) -> None:
    if nbytes > MAX_MESSAGE_BYTES:
        raise ResourceExhaustedError(
            f"the tensor takes {nbytes} bytes, a protobuf message holds at most {MAX_MESSAGE_BYTES}"
        )


@functools.lru_cache(maxsize=1024)
def fixed_width_header(dtype: np.dtype[Any], dimensions: tuple[int, ...], as_content: bool) -> bytes | None:
    """Return all of a serialized TensorProto that stands before ``fixed_width_payload``.

    None where the values are not simply the bytes of the array: strings, and integers in their
    typed field.

    Raises:
        ValueError: TensorFlow has no such type.
        ResourceExhaustedError: The tensor does not fit into a protobuf message.
    """
    element = element_type_of(dtype)
    if element.data_type is DataType.DT_STRING:
        return None
    number = _CONTENT if as_content else _FIELD_NUMBERS[element.field]
    if not (number in _OPAQUE or number in _BYTES_PER_ENTRY or element.data_type is DataType.DT_BOOL):
        return None
    nbytes = math.prod(dimensions) * dtype.itemsize
    _require_size(nbytes)
    header = _header(element.data_type, dimensions)
    return header + encode_length_delimited_header(number, nbytes) if nbytes else header


def fixed_width_payload(array: NDArray[Any]) -> bytes | memoryview:
    """Return the bytes of *array* in row-major order; a view of a large contiguous one."""
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def encode_tensor(array: NDArray[Any], *, as_content: bool = False) -> EncodedTensor:
    """Return the serialized TensorProto of *array* in pieces.

    Values go to the typed field of the element type, all of them, or with *as_content* to
    ``tensor_content``. Elements of an object array are ``bytes``. The pieces must be joined before
    *array* is changed.

    Raises:
        ValueError: TensorFlow has no type for the dtype of *array*.
        TypeError: An element of an object array is not ``bytes``.
        ResourceExhaustedError: The tensor does not fit into a protobuf message.
    """
    head = fixed_width_header(array.dtype, array.shape, as_content)
    if head is not None:
        payload = fixed_width_payload(array)
        return EncodedTensor([head, payload], len(head) + len(payload))
    element = element_type_of(array.dtype)
    head = _header(element.data_type, array.shape)
    if array.size == 0:
        return EncodedTensor([head], len(head))
    if element.data_type is not DataType.DT_STRING:
        payload = encode_packed_varints(_integers(array, element))
        tag = encode_length_delimited_header(_FIELD_NUMBERS[element.field], len(payload))
    elif as_content:
        payload = _join_string_content(array.ravel().tolist())
        tag = encode_length_delimited_header(_CONTENT, len(payload))
    else:
        strings = array.ravel().tolist()
        _require_size(sum(map(len, strings)))
        payload = messages.TensorProto(string_val=strings).SerializeToString()
        tag = b""
    nbytes = len(head) + len(tag) + len(payload)
    _require_size(nbytes)
    return EncodedTensor([head, tag, payload], nbytes)


def _integers(array: NDArray[Any], element: ElementType) -> NDArray[Any]:
    """Return what the typed integer field holds for each element, ``[N]``."""
    values = array.reshape(-1)
    if element.field == "half_val":
        return np.ascontiguousarray(values).view(np.uint16)
    if element.numpy.names:
        return np.ascontiguousarray(values).view(element.numpy[0])
    return values if element.numpy.kind in "iu" else values.astype(np.int8)


def _join_string_content(strings: list[bytes]) -> bytes:
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    return encode_packed_varints(lengths) + b"".join(strings)


def tensor_to_message(array: NDArray[Any], *, as_content: bool = False) -> messages.TensorProto:
    """Return the TensorProto message of *array*; see ``encode_tensor``."""
    return messages.TensorProto.FromString(b"".join(encode_tensor(array, as_content=as_content).pieces))
