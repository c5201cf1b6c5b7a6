"""Arrays as the JSON answer to a Predict request.

Numbers have the shortest text that reads back as the same value; TensorFlow Serving writes 6, 9 or 17
digits. Everything that is not a digit is as there: ``.0`` behind whole floats, ``NaN`` and ``Infinity`` as
bare words, strings byte for byte, and base64 objects for strings of an output named ``*_bytes``.

Source: TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

import binascii
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, ResourceExhaustedError
from inserve.tensors.dtypes import DataType, data_type_name, element_type

__all__ = [
    "encode_floats",
    "encode_plain_response",
    "encode_plain_row",
    "encode_predict_response",
    "encode_string",
]

_FLOATS = frozenset({DataType.DT_FLOAT, DataType.DT_DOUBLE})
_WRITABLE = _FLOATS | {
    DataType.DT_INT8,
    DataType.DT_INT16,
    DataType.DT_INT32,
    DataType.DT_INT64,
    DataType.DT_UINT8,
    DataType.DT_UINT32,
    DataType.DT_UINT64,
    DataType.DT_BOOL,
    DataType.DT_STRING,
}

_dumps = orjson.dumps
_N = ord("n")  # Python looks for a byte faster than for bytes
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_PLAIN = frozenset(element_type(number).numpy for number in _WRITABLE - {DataType.DT_STRING})

_MAX_EMPTY_LISTS = 2**24
"""A tensor without elements may have any other dimensions, each of which is a list of lists."""


def encode_plain_response(tensor: NDArray[Any], is_row: bool) -> bytes | None:
    """Return what ``encode_predict_response`` returns for one output of numbers, which models mostly have.

    None where *tensor* has to be looked at more closely.
    """
    shape = tensor.shape
    if not shape or 0 in shape or type(tensor) is not np.ndarray or tensor.dtype not in _PLAIN:
        return None
    text = _encode_array(np.ascontiguousarray(tensor))
    return b'{"predictions": %b}' % text if is_row else b'{"outputs": %b}' % text


def encode_plain_row(aliases: Sequence[str], tensors: Sequence[NDArray[Any]]) -> bytes | None:
    """Return what ``encode_predict_response`` returns for a single row of several outputs of numbers.

    None where they are anything else, or have to be looked at more closely.
    """
    texts = []
    for tensor in tensors:
        shape = tensor.shape
        if not shape or shape[0] != 1 or 0 in shape or type(tensor) is not np.ndarray:
            return None
        if tensor.dtype not in _PLAIN:
            return None
        texts.append(_encode_array(np.ascontiguousarray(tensor))[1:-1])
    return b'{"predictions": [%b]}' % (_row_format(tuple(aliases)) % tuple(texts))


def encode_predict_response(
    outputs: Sequence[tuple[str, NDArray[Any]]], data_types: Sequence[int], is_row: bool
) -> bytes:
    """Return the body that answers a Predict request.

    *outputs* are alias and tensor, at least one, and *data_types* the ``DataType`` number of each. *is_row*
    is that of the request: the answer is a list over dimension 0 of the outputs, else the tensors.

    Raises:
        InvalidArgumentError: A type has no JSON; for rows also an output without a dimension 0, or two with
            different ones.
        ResourceExhaustedError: An output without elements has too many lists in it.
    """
    if is_row:
        _check_rows(outputs)
    if len(outputs) == 1:
        [(alias, tensor)] = outputs
        content = b"".join(_encode(alias, tensor, data_types[0], 0))
    elif is_row:
        content = _encode_rows(outputs, data_types)
    else:
        names = [encode_string(alias.encode("utf-8", "surrogateescape")) for alias, _ in outputs]
        values = [
            b"".join(_encode(alias, tensor, data_type, 0))
            for (alias, tensor), data_type in zip(outputs, data_types, strict=True)
        ]
        content = b"{" + b", ".join(map(b": ".join, zip(names, values, strict=True))) + b"}"
    return b"".join((b'{"predictions": ' if is_row else b'{"outputs": ', content, b"}"))


def _check_rows(outputs: Sequence[tuple[str, NDArray[Any]]]) -> None:
    rows: int | None = None
    for alias, tensor in outputs:
        if tensor.ndim == 0:
            raise InvalidArgumentError(f"Tensor name: {alias} has no shape information ")
        size = tensor.shape[0]
        if rows is not None and size != rows:
            raise InvalidArgumentError(
                f"Tensor name: {alias} has inconsistent batch size: {size} expecting: {rows}"
            )
        rows = size


def _encode_rows(outputs: Sequence[tuple[str, NDArray[Any]]], data_types: Sequence[int]) -> bytes:
    columns = [
        _encode(alias, tensor, data_type, 1)
        for (alias, tensor), data_type in zip(outputs, data_types, strict=True)
    ]
    row = _row_format(tuple(alias for alias, _ in outputs))
    return b"[" + b", ".join([row % values for values in zip(*columns, strict=True)]) + b"]"


@functools.lru_cache(maxsize=128)
def _row_format(aliases: tuple[str, ...]) -> bytes:
    """Return one row of several outputs, to be filled in with the texts of their values."""
    names = [encode_string(alias.encode("utf-8", "surrogateescape")) for alias in aliases]
    return b"{" + b", ".join([name.replace(b"%", b"%%") + b": %b" for name in names]) + b"}"


def _encode(alias: str, tensor: NDArray[Any], data_type: int, depth: int) -> list[bytes]:
    """Return the texts of the parts of *tensor*: of itself for *depth* 0, of its rows for *depth* 1."""
    shape = tensor.shape
    if 0 in shape:
        return _encode_empty(shape, depth)
    if data_type not in _WRITABLE:
        name = data_type_name(data_type)
        raise InvalidArgumentError(f"Failed to write JSON value for tensor type: {name}")
    flat = tensor.reshape(-1)
    if data_type == DataType.DT_STRING:
        strings = flat.tolist()
        elements = _encode_b64(strings) if alias.endswith("_bytes") else _encode_strings(strings)
        return _nest(elements, shape, depth)
    if shape and isinstance(tensor, np.ndarray):
        text = _encode_array(np.ascontiguousarray(tensor))
        return _rows_of(text, len(shape)) if depth else [text]
    return _nest(_encode_array(flat)[1:-1].split(b","), shape, depth)


def _encode_array(array: NDArray[Any]) -> bytes:
    """Return the text of an *array* of numbers or bools with 1 to 64 dimensions."""
    text = _dumps(array, option=_NUMPY)
    if _N in text:  # from null, which is there for what is not finite
        return _name_infinities(text, array)
    return text


def _rows_of(text: bytes, dimensions: int) -> list[bytes]:
    """Return the texts of the items of the list *text*, in which lists are nested *dimensions* deep."""
    inner = dimensions - 1
    if not inner:
        return text[1:-1].split(b",")
    opening, closing = b"[" * inner, b"]" * inner
    rows = text[dimensions:-dimensions].split(closing + b"," + opening)
    return [b"%b%b%b" % (opening, row, closing) for row in rows]


def _name_infinities(text: bytes, array: NDArray[Any]) -> bytes:
    flat = array.reshape(-1)
    words = [
        b"NaN" if math.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"
        for value in flat[~np.isfinite(flat)].tolist()
    ]
    pieces = text.split(b"null")
    interleaved = [b""] * (2 * len(words) + 1)
    interleaved[::2] = pieces
    interleaved[1::2] = words
    return b"".join(interleaved)


def encode_floats(values: NDArray[Any]) -> bytes:
    """Return the text of the list of *values*, ``[N]``, in single or double precision."""
    return _encode_array(np.ascontiguousarray(values)) if values.size else b"[]"


def _nest(elements: list[bytes], shape: Sequence[int], depth: int) -> list[bytes]:
    """Join *elements* to the lists that *shape* says, from the innermost out, down to *depth* dimensions."""
    for size in reversed(shape[depth:]):
        elements = [
            b"[" + b",".join(elements[start : start + size]) + b"]" for start in range(0, len(elements), size)
        ]
    return elements


def _encode_empty(shape: Sequence[int], depth: int) -> list[bytes]:
    lists = 1
    for size in shape[: shape.index(0)]:
        lists *= size
        if lists > _MAX_EMPTY_LISTS:
            raise ResourceExhaustedError(
                f"an output of shape {list(shape)}, without elements, has more than {_MAX_EMPTY_LISTS} lists"
            )
    text = b""
    for size in reversed(shape[depth:]):
        text = b"[" + b",".join([text] * size) + b"]"
    return [text] * (shape[0] if depth else 1)


# --- strings --------------------------------------------------------------------------------------

_SPECIAL = b'"\\' + bytes(range(0x20))
_ESCAPES = {byte: b"\\u%04X" % byte for byte in range(0x20)} | {
    ord("\b"): b"\\b",
    ord("\f"): b"\\f",
    ord("\n"): b"\\n",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord('"'): b'\\"',
    ord("\\"): b"\\\\",
}
_substitute = re.compile(rb'["\\\x00-\x1f]').sub


def encode_string(text: bytes) -> bytes:
    """Return *text* as a JSON string; bytes that are not UTF-8 stay as they are."""
    return b'"' + _substitute(lambda found: _ESCAPES[found[0][0]], text) + b'"'


def _encode_strings(strings: list[bytes]) -> list[bytes]:
    joined = b"".join(strings)
    if len(joined.translate(None, _SPECIAL)) == len(joined):
        return (b'"' + b'"\n"'.join(strings) + b'"').split(b"\n")  # a line feed would be special
    return [encode_string(text) for text in strings]


def _encode_b64(strings: list[bytes]) -> list[bytes]:
    return [b'{"b64": "%b"}' % binascii.b2a_base64(text, newline=False) for text in strings]
