"""A JSON document of the REST API as Python values, read as TensorFlow Serving's parser reads it.

That parser is RapidJSON 1.1.0, iterative, with ``NaN`` and ``Infinity`` allowed, and it stops behind
the first value. ``load_document`` asks orjson first, which is as fast as it gets and never differs on
what both accept, except that of repeated names the last wins; ``parse_document`` follows the rules
to the letter and words all errors.

Values are those of the ``json`` module: ``dict``, ``list``, ``str``, ``int`` (a number written
without fraction and exponent that fits 64 bits), ``float``, ``bool`` and None. Strings hold bytes that
are not UTF-8 as surrogates (``surrogateescape``), so encoding them that way gives the bytes back. A
number is correctly rounded, where RapidJSON may be a few units in the last place off.

Sources: RapidJSON ``reader.h``; TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import orjson

from inserve.errors import InvalidArgumentError

__all__ = ["TOO_DEEP", "RepeatingObject", "load_document", "members", "parse_document"]

_MAX_KEPT_DEPTH = 1000
"""Containers nested deeper are checked but not kept. A tensor has 254 dimensions."""


class _TooDeep:
    """Stands for a container that is nested too deep to be kept."""

    def __repr__(self) -> str:
        return "TOO_DEEP"


TOO_DEEP: Final = _TooDeep()


class RepeatingObject(dict[str, Any]):
    """An object in which a name occurs more than once: the first value of each, and all *pairs*."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        self.pairs = pairs


def members(json_object: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return names and values as they were written, repeated names included."""
    return json_object.pairs if isinstance(json_object, RepeatingObject) else json_object.items()


def load_document(body: bytes) -> Any:
    """Return the value of a document.

    Raises:
        InvalidArgumentError: It is no JSON.
    """
    try:
        document = _loads(body)
    except orjson.JSONDecodeError:
        return parse_document(body)
    colons = body.count(b":")
    if (type(document) is dict and len(document) == colons) or _has_no_repeated_name(body, document, colons):
        return document
    return parse_document(body)


_loads = orjson.loads
_NAME_END = re.compile(rb'"[ \t\r\n]*:')


def _has_no_repeated_name(body: bytes, document: Any, colons: int) -> bool:
    """Return whether all names of *body*, which has so many *colons*, are in *document*.

    False also where that is not cheap to say.
    """
    names = _count_names(document)
    return names == colons or names == len(_NAME_END.findall(body))


def _count_names(document: Any) -> int:
    count = 0
    containers = [document]
    while containers:
        objects = [value for value in containers if type(value) is dict]
        lists = [value for value in containers if type(value) is list]
        count += sum(map(len, objects))
        inner = itertools.chain(itertools.chain.from_iterable(map(dict.values, objects)), *lists)
        containers = [value for value in inner if type(value) is dict or type(value) is list]
    return count


# --- the parser -----------------------------------------------------------------------------------

_QUOTE, _COMMA, _COLON, _BACKSLASH = b'",:\\'
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = b"[]{}"
_NO_VALUE = frozenset(b"]},:\0")
"""Bytes no value starts with. Any other byte starts one, if only to be no number."""

_LIST, _OBJECT = 0, 1

_skip_blanks = re.compile(rb"[ \t\r\n]*").match

# So many digits and no more: the search gives them back one by one where what follows does not fit.
_NUMBER = rb"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,400})?"
_match_number = re.compile(rb"(-?(?:0|[1-9][0-9]*))(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?").match
# Bounded, because each repetition of a group takes memory.
_match_numbers = re.compile(
    rb"N(?:[ \t\r\n]*,[ \t\r\n]*N){1,4095}(?=[ \t\r\n]*[,\]])".replace(
        b"N", rb"(?:" + _NUMBER + rb"|NaN|-?Infinity)"
    )
).match
_match_plain_string = re.compile(rb'"([^"\\\x00-\x1f]*)"').match
_match_string_part = re.compile(rb'[^"\\\x00-\x1f]*').match
_match_hex = re.compile(rb"[0-9a-fA-F]{4}").match
_search_other_than_integers = re.compile(rb"[.eENI]").search
_search_integer = re.compile(rb"(?:^|,)[ \t\r\n]*-?[0-9]+[ \t\r\n]*(?:,|$)").search

_LITERALS: dict[int, tuple[bytes, bool | None]] = {
    ord("n"): (b"null", None),
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
}
_ESCAPES = {ord(key): value for key, value in zip('"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True)}

_LARGEST_TENTH = 1.7976931348623157e307
_MAX_EXPONENT = 308
_SURE_INTEGER_DIGITS = 18
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def _fail(problem: str, offset: int) -> NoReturn:
    raise InvalidArgumentError(f"JSON Parse error: {problem} at offset: {offset}")


def parse_document(body: bytes) -> Any:
    """Return the value of a document; time and memory grow with its length only, however it is nested.

    Raises:
        InvalidArgumentError: It is no JSON. The text has the offset in bytes.
    """
    if not body:
        raise InvalidArgumentError("JSON Parse error: The document is empty")
    data = body + b"\0"
    position = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    position = _skip_blanks(data, position).end()  # type: ignore[union-attr]
    if data[position] in _NO_VALUE:
        _fail("The document is empty.", position)
    return _Parser(data).value(position)


class _Parser:
    """Reads one document; *data* is its bytes and a NUL, which no document goes beyond."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def value(self, position: int) -> Any:
        """Return the value that starts at *position*."""
        data = self._data
        kinds = bytearray()  # of the open containers
        kept: list[tuple[Any, Any]] = []  # values and names of the open containers around the innermost
        values: Any = []  # of the innermost
        names: Any = None
        while True:
            byte = data[position]
            opened = -1
            if byte in (_OPEN_LIST, _OPEN_OBJECT):
                opened = _LIST if byte == _OPEN_LIST else _OBJECT
                kinds.append(opened)
                depth = len(kinds)
                if depth <= _MAX_KEPT_DEPTH:
                    kept.append((values, names))
                    values, names = [], []
                elif depth == _MAX_KEPT_DEPTH + 1:
                    values.append(TOO_DEEP)
                    kept.append((values, names))
                    values, names = deque(maxlen=0), deque(maxlen=0)
                position = self._after_blanks(position + 1)
                byte = data[position]
                if byte != (_CLOSE_LIST if opened == _LIST else _CLOSE_OBJECT):
                    position = self._next_item(opened, position, names)
                    continue
            elif byte == _QUOTE:
                text, position = self._string(position)
                values.append(text)
            elif byte in _LITERALS:
                literal, constant = _LITERALS[byte]
                position = self._literal(literal, position)
                values.append(constant)
            else:
                run = _match_numbers(data, position) if kinds and kinds[-1] == _LIST else None
                if run is not None:
                    values.extend(self._numbers(run.group(), position))
                    position = run.end()
                else:
                    number, position = self._number(position)
                    values.append(number)
            # behind a value, or at the end of an empty container
            while kinds:
                if opened < 0:
                    position = self._after_blanks(position)
                opened = -1
                byte = data[position]
                kind = kinds[-1]
                if byte == _COMMA:
                    position = self._next_item(kind, self._after_blanks(position + 1), names)
                    break
                if kind == _LIST:
                    if byte != _CLOSE_LIST:
                        _fail("Missing a comma or ']' after an array element.", position)
                elif byte != _CLOSE_OBJECT:
                    _fail("Missing a comma or '}' after an object member.", position)
                position += 1
                if len(kinds) <= _MAX_KEPT_DEPTH:
                    closed = values if kind == _LIST else _make_object(names, values)
                    values, names = kept.pop()
                    values.append(closed)
                elif len(kinds) == _MAX_KEPT_DEPTH + 1:
                    values, names = kept.pop()
                kinds.pop()
            else:
                return values[0]

    def _after_blanks(self, position: int) -> int:
        if self._data[position] > 32:
            return position
        return _skip_blanks(self._data, position).end()  # type: ignore[union-attr]

    def _next_item(self, kind: int, position: int, names: Any) -> int:
        """Return where the value of the next item starts; *position* is where the item does."""
        data = self._data
        if kind == _OBJECT:
            if data[position] != _QUOTE:
                _fail("Missing a name for object member.", position)
            name, position = self._string(position)
            names.append(name)
            position = self._after_blanks(position)
            if data[position] != _COLON:
                _fail("Missing a colon after a name of object member.", position)
            position = self._after_blanks(position + 1)
        if data[position] in _NO_VALUE:
            _fail("Invalid value.", position)
        return position

    def _literal(self, literal: bytes, position: int) -> int:
        for expected in literal:
            if self._data[position] != expected:
                _fail("Invalid value.", position)
            position += 1
        return position

    def _string(self, position: int) -> tuple[str, int]:
        """Return the string whose quotation mark is at *position*, and the position behind it."""
        data = self._data
        plain = _match_plain_string(data, position)
        if plain is not None:
            return plain.group(1).decode("utf-8", "surrogateescape"), plain.end()
        position += 1
        parts = []
        while True:
            end = _match_string_part(data, position).end()  # type: ignore[union-attr]
            parts.append(data[position:end])
            position = end
            byte = data[position]
            if byte == _QUOTE:
                return b"".join(parts).decode("utf-8", "surrogateescape"), position + 1
            if byte != _BACKSLASH:
                if byte == 0:
                    _fail("Missing a closing quotation mark in string.", position)
                _fail("Invalid escape character in string.", position)
            part, position = self._escape(position)
            parts.append(part)

    def _escape(self, position: int) -> tuple[bytes, int]:
        start = position
        data = self._data
        byte = data[start + 1]
        if byte in _ESCAPES:
            return bytes([_ESCAPES[byte]]), start + 2
        if byte != ord("u"):
            _fail("Invalid escape character in string.", start)
        code = self._hex(start + 2, start)
        position = start + 6
        if 0xD800 <= code <= 0xDBFF:
            if data[position : position + 2] != b"\\u":
                _fail("The surrogate pair in string is invalid.", start)
            low = self._hex(position + 2, start)
            if not 0xDC00 <= low <= 0xDFFF:
                _fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10 | low - 0xDC00)
            position += 6
        return chr(code).encode("utf-8", "surrogatepass"), position

    def _hex(self, position: int, start: int) -> int:
        digits = _match_hex(self._data, position)
        if digits is None:
            _fail("Incorrect hex digit after \\u escape in string.", start)
        return int(digits.group(), 16)

    def _numbers(self, text: bytes, position: int) -> list[int | float]:
        """Return the numbers of *text*, which commas part and which starts at *position*."""
        items = text.split(b",")
        longest = max(map(len, items))
        if longest <= _SURE_INTEGER_DIGITS and _search_other_than_integers(text) is None:
            return list(map(int, items))
        if _search_integer(text) is None:
            floats = list(map(float, items))
            if longest <= _MAX_EXPONENT and math.inf not in floats and -math.inf not in floats:
                return floats
        numbers: list[int | float] = []
        for item in items:
            numbers.append(self._number(self._after_blanks(position))[0])
            position += len(item) + 1
        return numbers

    def _number(self, position: int) -> tuple[int | float, int]:
        """Return the number that starts at *position*, and the position behind it."""
        data = self._data
        match = _match_number(data, position)
        if match is None:
            return self._no_finite_number(position)
        end = match.end()
        whole, fraction, exponent = match.groups()
        digits = len(whole) - (whole[0] == ord("-"))
        if digits > _MAX_EXPONENT and (
            digits > _MAX_EXPONENT + 1 or abs(float(whole[:-1])) >= _LARGEST_TENTH
        ):
            _fail("Number too big to be stored in double.", position)
        if exponent is None:
            byte = data[end]
            if byte in b"eE":
                _fail("Miss exponent in number.", end + (2 if data[end + 1] in b"+-" else 1))
            if byte == ord(".") and fraction is None:
                _fail("Miss fraction part in number.", end + 1)
        if fraction is None and exponent is None:
            if digits <= 20:
                number = int(whole)
                if _INT64_MIN <= number <= _UINT64_MAX:
                    return number, end
            return float(whole), end
        value = float(match.group())
        if value and exponent is not None and exponent[0] != ord("-"):
            power = exponent.lstrip(b"+0")
            if len(power) > 2 and (
                len(power) > 9 or int(power) > _MAX_EXPONENT + _counted_digits(whole.lstrip(b"-"), fraction)
            ):
                _fail("Number too big to be stored in double.", position)
        return value, end

    def _no_finite_number(self, position: int) -> tuple[float, int]:
        data = self._data
        negative = data[position] == ord("-")
        position += negative
        if data[position] == ord("N"):
            return math.nan, self._literal(b"NaN", position)
        end = self._literal(b"Inf", position)
        if data[end] == ord("i"):
            end = self._literal(b"inity", end)
        return (-math.inf if negative else math.inf), end


def _counted_digits(whole: bytes, fraction: bytes | None) -> int:
    """Return how many digits behind the point the parser takes into the significand.

    Each allows an exponent that is greater by one.
    """
    if fraction is None or (len(whole) > 19 and int(whole[:21]) > _UINT64_MAX):
        return 0
    significand = int(whole)
    significant = len(whole) - 1
    zeros = len(fraction) - len(fraction.lstrip(b"0")) if significand == 0 else 0
    counted = zeros
    for digit in fraction[zeros : zeros + 40]:
        if significand > 2**53 - 1:
            if significant >= 17:
                break
        else:
            significand = significand * 10 + digit - ord("0")
        counted += 1
        significant += 1
    return counted


def _make_object(names: list[str], values: list[Any]) -> dict[str, Any]:
    result = dict(zip(names, values, strict=True))
    if len(result) == len(names):
        return result
    return RepeatingObject(list(zip(names, values, strict=True)))
