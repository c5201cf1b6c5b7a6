"""Large rectangular lists of numbers, from the text straight into arrays.

simdjson parses the text of a list and hands out its numbers without making a Python object of any. It
flattens while it does; ``json_structure`` tells whether the list has one shape throughout.

Only values of members are looked at, outside strings. Whatever is not sure to be such a list is left to the
general way.
"""

from __future__ import annotations

import math
import re
import threading
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.tensors.dtypes import DataType
from inserve.tensors.json_document import load_document
from inserve.tensors.json_structure import is_rectangular, structure_of
from inserve.tensors.json_values import as_float32, flush_doubles, integers_in_range
from inserve.tensors.tensor_shape import MAX_DIMENSIONS

__all__ = ["MIN_BYTES", "DenseList", "load_with_dense_lists"]

MIN_BYTES = 1024
"""Length of the text of a list from which on this way is the faster one."""

_MAX_STRINGS = 512
_MAX_KEPT_PARSER_BYTES = 4 * 2**20
"""Length of the longest text whose parser, which takes many times that, is kept for the next one."""
_MAX_SIMDJSON_LENGTH = 0xFFFFFF
"""simdjson says no greater length of a list."""
_TAIL = 64
_MAX_LOOKED_UP_BYTES = 2**16
"""Length of the longest body whose structure tells the shape: to hash a longer one takes too long."""
_MAX_REMEMBERED = 32

_one_list_start = re.compile(
    rb"[ \t\r\n]*\{[ \t\r\n]*"
    rb'(?:"signature_name"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f]*)"[ \t\r\n]*,[ \t\r\n]*)?'
    rb'"(instances|inputs)"[ \t\r\n]*:[ \t\r\n]*(?=\[)'
).match
_member_list_start = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(?=\[)").match
_first_is_integer = re.compile(rb"[\[ \t\r\n]*-?[0-9]+[ \t\r\n]*[,\]]").match
_MARK = "\x01"
"""Starts the string that stands for a list; no string without escapes can hold it."""

_thread = threading.local()
_shapes: dict[bytes, tuple[int, ...]] = {}
"""Of lists that came before, by their brackets and commas."""


class DenseList:
    """A list of numbers in a document: *values* ``[N]`` in row-major order and its *shape*.

    The values are int64 if all were written as integers that fit, else float64.
    """

    __slots__ = ("shape", "values")

    def __init__(self, values: NDArray[Any], shape: tuple[int, ...]) -> None:
        self.values = values
        self.shape = shape

    def convert(self, data_type: int) -> NDArray[Any] | None:
        """Return the values as *data_type*, ``[N]``, or None where not all are right for it."""
        values = self.values
        if data_type == DataType.DT_FLOAT:
            return as_float32(values)
        if data_type == DataType.DT_DOUBLE:
            return flush_doubles(values.astype(np.float64))
        if values.dtype == np.int64:
            return integers_in_range(values, data_type)
        return None


def load_with_dense_lists(body: bytes) -> Any | None:
    """Return the value of a document, with a ``DenseList`` for each member that is one and is large.

    None where it has no such member, where it is no JSON, and where there is more to know about it than
    this knows. The lists are found in the document itself, in the objects in it, and in the objects of
    the lists in it; elsewhere a string stands for a list.
    """
    match = _one_list_start(body)
    if match is not None:
        start = match.end()
        if body.find(b'"', start) < 0:
            return _only_list(body, match) if len(body) - start >= MIN_BYTES else None
    found = _dense_members(body)
    if found is None:
        return None
    reduced, lists = found
    try:
        document = load_document(reduced)
    except InvalidArgumentError:
        return None
    if not isinstance(document, dict):
        return None
    _put_back(document, lists)
    for value in document.values():
        if isinstance(value, dict):
            _put_back(value, lists)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _put_back(item, lists)
    return document


def _only_list(body: bytes, match: re.Match[bytes]) -> dict[str, Any] | None:
    """Return the document whose last string is the *match*'s, the usual form of a body.

    If it is JSON at all, nothing but the list and a brace follows.
    """
    signature_name, key = match.group(1), match.group(2).decode()
    start, stop = match.end(), body.rfind(b"]") + 1
    if signature_name is not None:
        dense = _read_list(body, start, stop, key)
        return None if dense is None else {"signature_name": signature_name.decode(), key: dense}
    if len(body) > _MAX_LOOKED_UP_BYTES:
        dense = _read_list(body, start, stop, key)
        return None if dense is None else {key: dense}
    structure = structure_of(body)
    shape = _shapes.get(structure)
    dense = _read_list(body, start, stop, key, shape)
    if dense is None:
        return None
    if shape is None and dense.values.size:  # an empty list and one of a single number look alike
        if len(_shapes) >= _MAX_REMEMBERED:
            _shapes.clear()
        _shapes[structure] = dense.shape
    return {key: dense}


def _put_back(json_object: dict[str, Any], lists: list[DenseList]) -> None:
    for name, value in json_object.items():
        if type(value) is str and value.startswith(_MARK):
            json_object[name] = lists[int(value[1:])]


def _dense_members(body: bytes) -> tuple[bytes, list[DenseList]] | None:
    """Return the document with a string in place of each large dense list, and these lists."""
    before: list[bytes] = []
    lists: list[DenseList] = []
    copied = 0
    opening = body.find(b'"')
    for _ in range(_MAX_STRINGS):
        closing = body.find(b'"', opening + 1)
        if closing < 0 or body.find(b"\\", opening, closing) >= 0:
            return None
        opening = body.find(b'"', closing + 1)
        end = len(body) if opening < 0 else opening
        if end - closing >= MIN_BYTES:
            match = _member_list_start(body, closing + 1)
            if match is not None:
                start = match.end()
                stop = _list_end(body, start, end)
                dense = _read_list(body, start, stop)
                if dense is None:
                    return None
                before.append(body[copied:start])
                lists.append(dense)
                copied = stop
        if opening < 0:
            break
    else:
        return None
    if not lists:
        return None
    pieces = [b'%b"\\u0001%d"' % (text, index) for index, text in enumerate(before)]
    return b"".join(pieces) + body[copied:], lists


def _list_end(body: bytes, start: int, end: int) -> int:
    """Return where the list at *start* ends, if only a little that closes objects follows up to *end*."""
    brace = body.find(b"}", max(start, end - _TAIL), end)
    return body.rfind(b"]", start, end if brace < 0 else brace) + 1


def _read_list(
    body: bytes, start: int, stop: int, key: str | None = None, shape: tuple[int, ...] | None = None
) -> DenseList | None:
    """Return the list of numbers that ``body[start:stop]`` is; None where it is no such list.

    With a *key*, the whole *body* is an object that has the list under it. Where the list is known to be
    rectangular, *shape* says its shape.
    """
    text: bytes | memoryview = body if key is not None else memoryview(body)[start:stop]
    if len(text) > _MAX_KEPT_PARSER_BYTES:
        parser = simdjson.Parser()
    else:
        try:
            parser = _thread.parser
        except AttributeError:
            parser = _thread.parser = simdjson.Parser()
    try:
        # No reference to a part of the document may outlive this call: the parser would refuse the next.
        outermost: Any = parser.parse(text)
        if key is not None:
            outermost = outermost[key]
        if not isinstance(outermost, simdjson.Array):
            return None
        if shape is not None:
            values = _numbers(outermost, _first_is_integer(body, start) is not None)
            return DenseList(values, shape) if math.prod(shape) == len(values) else None
        shape, are_integers = _first_element(outermost)
        values = _numbers(outermost, are_integers)
        if len(shape) > MAX_DIMENSIONS or math.prod(shape) != len(values):
            return None
        return DenseList(values, shape) if is_rectangular(outermost, shape, body, start, stop) else None
    except (ValueError, TypeError, RuntimeError):
        return None


def _first_element(outermost: simdjson.Array) -> tuple[tuple[int, ...], bool]:
    """Return the shape of the list as its first elements tell it, and whether the first is an integer."""
    shape = []
    value: Any = outermost
    while isinstance(value, simdjson.Array):
        size = len(value)
        if size >= _MAX_SIMDJSON_LENGTH:
            raise ValueError(size)
        shape.append(size)
        value = value[0] if size else None
    return tuple(shape), isinstance(value, int)


def _numbers(outermost: simdjson.Array, try_integers: bool) -> NDArray[Any]:
    if try_integers:
        try:
            return np.frombuffer(outermost.as_buffer(of_type="i"), np.int64)
        except (ValueError, TypeError):
            pass
    return np.frombuffer(outermost.as_buffer(of_type="d"), np.float64)
