"""Nested JSON values to arrays of a signature's dtypes.

There are two ways. ``convert_plain`` takes what well-behaved clients send with a few passes that run in C,
and says None to anything else. ``fill_tensor`` goes element by element, and words all errors; it
is right for any value.

Source: TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, UnimplementedError
from inserve.tensors.dtypes import DataType, data_type_name, element_type, find_element_type
from inserve.tensors.flat_tensor import shaped
from inserve.tensors.json_document import TOO_DEEP
from inserve.tensors.json_dump import dump, type_name
from inserve.tensors.tensor_shape import MAX_DIMENSIONS

__all__ = [
    "TooManyDimensionsError",
    "as_float32",
    "convert_plain",
    "decode_b64_object",
    "encode_text",
    "fill_tensor",
    "first_element_shape",
    "flush_doubles",
    "integers_in_range",
    "is_b64_object",
    "to_array",
]

# What JSON integers may be, before they are cut to the width of the dtype.
_INTEGER_RANGES: dict[int, tuple[int, int]] = {
    DataType.DT_INT32: (-(2**31), 2**31 - 1),
    DataType.DT_INT16: (-(2**31), 2**31 - 1),
    DataType.DT_INT8: (-(2**31), 2**31 - 1),
    DataType.DT_UINT8: (-(2**31), 2**31 - 1),
    DataType.DT_INT64: (-(2**63), 2**63 - 1),
    DataType.DT_UINT32: (0, 2**32 - 1),
    DataType.DT_UINT64: (0, 2**64 - 1),
}

_FLOAT_MIN, _FLOAT_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_DOUBLE_MIN = float(np.finfo(np.float64).tiny)

# Plain numbers: finding a member in its class takes longer than comparing it.
_FLOAT, _DOUBLE, _STRING, _BOOL = map(
    int, (DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_STRING, DataType.DT_BOOL)
)
_FLOATS = frozenset({_FLOAT, _DOUBLE})

_NUMBERS = frozenset({float, int})
_FEW = 32


class TooManyDimensionsError(Exception):
    """The value is nested deeper than any tensor."""


# --- numbers --------------------------------------------------------------------------------------


def as_float32(doubles: NDArray[Any]) -> NDArray[np.float32]:
    """Return *doubles* in single precision; too large ones are infinite, denormal ones 0.0."""
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    return _flush(singles, _FLOAT_MIN)


def flush_doubles(doubles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Set denormal numbers of *doubles* to 0.0 in place, and return it."""
    return _flush(doubles, _DOUBLE_MIN)


def _flush(values: NDArray[Any], smallest: float) -> NDArray[Any]:
    tiny = np.abs(values) < smallest
    if np.count_nonzero(tiny):
        np.copysign(values.dtype.type(0), values, out=values, where=tiny)
    return values


def _are_ordinary(numbers: Sequence[float]) -> bool:
    """Return whether all *numbers* are 0 or finite and not denormal in single precision."""
    # A loop: of a few numbers it is faster than a generator.
    for number in numbers:  # noqa: SIM110
        if not (_FLOAT_MIN <= abs(number) <= _FLOAT_MAX or number == 0):
            return False
    return True


def integers_in_range(integers: NDArray[np.int64], data_type: int) -> NDArray[Any] | None:
    """Return *integers* as *data_type*, or None where that is no integer type or one is out of its range."""
    if data_type not in _INTEGER_RANGES:
        return None
    lowest, highest = _INTEGER_RANGES[data_type]
    if integers.size and not (lowest <= integers.min() and integers.max() <= highest):
        return None
    return integers.astype(element_type(data_type).numpy)


def to_array(flat: Sequence[Any], data_type: int) -> NDArray[Any]:
    """Return elements that are right for *data_type*, as ``fill_tensor`` gives them, as an array ``[N]``."""
    if data_type == _FLOAT:
        if len(flat) <= _FEW and _are_ordinary(flat):
            return np.array(flat, np.float32)
        return as_float32(np.array(flat, np.float64))
    if data_type == _DOUBLE:
        return flush_doubles(np.array(flat, np.float64))
    element = find_element_type(data_type)
    dtype = np.dtype(np.object_) if element is None else element.numpy  # None: there are no elements
    if data_type in _INTEGER_RANGES:
        wide = np.uint64 if data_type == DataType.DT_UINT64 else np.int64
        return np.array(flat, wide).astype(dtype, copy=False)
    if data_type == _STRING:
        strings = np.empty(len(flat), dtype)
        strings[:] = flat
        return strings
    return np.array(flat, dtype)


# --- strings --------------------------------------------------------------------------------------

_is_whole_base64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?").fullmatch
_split_base64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)").fullmatch
_BLANKS = str.maketrans("", "", " \t\n\v\f\r")


def is_b64_object(value: Any) -> bool:
    """Return whether *value* stands for bytes: ``{"b64": "<base64>"}``, and no name twice."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def _is_string(value: Any) -> bool:
    return type(value) is str or is_b64_object(value)


def decode_b64_object(value: dict[str, Any]) -> bytes:
    """Return the bytes that a b64 object stands for.

    Base64 is as ``absl::Base64Unescape`` reads it: blanks count for nothing, padding may be missing but
    not be incomplete, a dot is padding too, and bits left over are ignored.

    Raises:
        InvalidArgumentError: It is no base64.
    """
    text = value["b64"]
    if _is_whole_base64(text) is None:
        match = _split_base64(text.translate(_BLANKS))
        if match is None:
            raise InvalidArgumentError("Unable to base64 decode")
        text, padding = match.groups()
        missing = -len(text) % 4
        if missing == 3 or (padding and len(padding) != missing):
            raise InvalidArgumentError("Unable to base64 decode")
        text += "=" * missing
    return binascii.a2b_base64(text)


def encode_text(text: str) -> bytes:
    """Return the bytes of a string of a document."""
    return text.encode("utf-8", "surrogateescape")


# --- what well-behaved clients send ---------------------------------------------------------------

_flatten = itertools.chain.from_iterable


def convert_plain(value: Any, data_type: int) -> NDArray[Any] | None:
    """Return the array of a nested *value*, or None where only ``fill_tensor`` knows what it is."""
    if type(value) is list and data_type in _FLOATS and _NUMBERS.issuperset(map(type, value)):
        return to_array(value, data_type)
    shape: list[int] = []
    flat = [value]
    while flat and type(flat[0]) is list:
        if len(flat) > 1 and (set(map(type, flat)) != {list} or len(set(map(len, flat))) > 1):
            return None
        shape.append(len(flat[0]))
        flat = flat[0] if len(flat) == 1 else list(_flatten(flat))
    elements = _plain_elements(flat, set(map(type, flat)), data_type)
    if elements is None or len(shape) > MAX_DIMENSIONS:
        return None
    array = to_array(elements, data_type)
    return array if len(shape) == 1 else shaped(array, tuple(shape))


def _plain_elements(flat: list[Any], types: set[type], data_type: int) -> list[Any] | None:
    """Return the elements if all are right for *data_type*."""
    if data_type in _FLOATS:
        return flat if types <= _NUMBERS else None
    if data_type == _STRING:
        if types <= {str}:
            return [text.encode("utf-8", "surrogateescape") for text in flat]
        if types <= {str, dict} and all(map(_is_string, flat)):
            try:
                return [encode_text(item) if type(item) is str else decode_b64_object(item) for item in flat]
            except InvalidArgumentError:
                return None
        return None
    if data_type in _INTEGER_RANGES:
        if not flat:
            return flat
        lowest, highest = _INTEGER_RANGES[data_type]
        return flat if types == {int} and lowest <= min(flat) and max(flat) <= highest else None
    return flat if not flat or (data_type == _BOOL and types == {bool}) else None


# --- anything -------------------------------------------------------------------------------------


def first_element_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of *value* as its first elements tell it.

    Raises:
        TooManyDimensionsError: It is nested too deep.
    """
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if value is TOO_DEEP:
        raise TooManyDimensionsError
    return tuple(shape)


def fill_tensor(value: Any, shape: tuple[int, ...], data_type: int) -> list[Any]:
    """Return the elements of *value*, which must have *shape*, in row-major order, fit for ``to_array``.

    Raises:
        InvalidArgumentError: *value* has another shape, or an element is not right for *data_type*.
        UnimplementedError: JSON knows no elements of *data_type*.
        TooManyDimensionsError: It is nested too deep.
    """
    rank = len(shape)
    convert = _converter(data_type)
    elements: list[Any] = []
    open_lists = [iter((value,))]
    while open_lists:
        level = len(open_lists) - 1
        for item in open_lists[-1]:
            if isinstance(item, list):
                if level >= rank:
                    raise InvalidArgumentError(
                        f"Encountered list at unexpected level: {level} expected < {rank}"
                    )
                if len(item) != shape[level]:
                    raise InvalidArgumentError(
                        f"Encountered list at unexpected size: {len(item)} at level: {level}"
                        f" expected size: {shape[level]}"
                    )
                open_lists.append(iter(item))
                break
            if item is TOO_DEEP:
                raise TooManyDimensionsError
            if level != rank:
                raise InvalidArgumentError(
                    f"JSON Value: {dump(item)} found at incorrect level: {level + 1} in the JSON DOM."
                    f" Expected at level: {rank}"
                )
            elements.append(convert(item))
        else:
            open_lists.pop()
    return elements


def _converter(data_type: int) -> Callable[[Any], Any]:
    """Return what turns one JSON value into an element of *data_type*, or raises."""
    name = data_type_name(data_type)

    def wrong_type(value: Any) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"JSON Value: {dump(value)} Type: {type_name(value)} is not of expected type: {name}"
        )

    def number(value: Any) -> float:
        if type(value) is float or type(value) is int:
            return value
        raise wrong_type(value)

    def integer(value: Any) -> int:
        if type(value) is int and lowest <= value <= highest:
            return value
        raise wrong_type(value)

    def boolean(value: Any) -> bool:
        if type(value) is bool:
            return value
        raise wrong_type(value)

    def string(value: Any) -> bytes:
        if isinstance(value, str):
            return encode_text(value)
        if is_b64_object(value):
            return decode_b64_object(value)
        if isinstance(value, dict):
            raise InvalidArgumentError(f"JSON Value: {dump(value)} not formatted correctly for base64 data")
        raise wrong_type(value)

    def unsupported(value: Any) -> Any:
        raise UnimplementedError(f"Conversion of JSON Value: {dump(value)} to type: {name}")

    if data_type in _FLOATS:
        return number
    if data_type in _INTEGER_RANGES:
        lowest, highest = _INTEGER_RANGES[data_type]
        return integer
    if data_type == _STRING:
        return string
    return boolean if data_type == _BOOL else unsupported
