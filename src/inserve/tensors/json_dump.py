"""JSON values as they stand in TensorFlow Serving's error texts.

The layout is RapidJSON's pretty printer with lists on one line. The text stops behind the first token
that ends at or past 256 bytes, and before a number that is not finite.

Sources: RapidJSON ``prettywriter.h`` and ``internal/dtoa.h``; TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from inserve.tensors.json_document import TOO_DEEP, members

__all__ = ["dump", "quoted", "type_name"]

_MAX_BYTES = 256
_INDENT = "    "
_NOTHING = object()

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_substitute = re.compile(r'["\\\x00-\x1f]').sub


def quoted(text: str) -> str:
    """Return *text* as a JSON string; only what must be escaped is."""
    return '"' + _substitute(lambda found: _ESCAPED.get(found[0], f"\\u{ord(found[0]):04X}"), text) + '"'


def type_name(value: Any) -> str:
    """Return RapidJSON's name for the type of *value*."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return "Number"
    if isinstance(value, str):
        return "String"
    return "Object" if isinstance(value, dict) else "Array"


def dump(value: Any) -> str:
    """Return the text of *value* for an error message; bytes that are not UTF-8 are surrogates."""
    pieces = []
    size = 0
    for token in _tokens(value):
        pieces.append(token)
        size += len(token) if token.isascii() else len(token.encode("utf-8", "surrogateescape"))
        if size >= _MAX_BYTES:
            break
    return "".join(pieces)


def _tokens(value: Any) -> Iterator[str]:
    """Yield the tokens of *value*, each with what is printed before it."""
    containers: list[tuple[Iterator[Any], bool]] = []  # that are open: what is left, and whether an object
    before = ""
    while True:
        first = True
        if isinstance(value, dict):
            yield before + "{"
            containers.append((iter(members(value)), True))
        elif isinstance(value, list):
            yield before + "["
            containers.append((iter(value), False))
        elif value is TOO_DEEP or (isinstance(value, float) and not math.isfinite(value)):
            yield before
            return
        else:
            yield before + _scalar(value)
            first = False
        while containers:
            left, is_object = containers[-1]
            indent = "\n" + _INDENT * len(containers)
            item: Any = next(left, _NOTHING)
            if item is not _NOTHING:
                break
            containers.pop()
            yield ("}" if first else indent[: -len(_INDENT)] + "}") if is_object else "]"
            first = False
        else:
            return
        if is_object:
            name, value = item
            yield ("" if first else ",") + indent + quoted(name)
            before = ": "
        else:
            value = item
            before = "" if first else ", "


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _decimal(value) if isinstance(value, float) else str(value)


def _decimal(value: float) -> str:
    """Return the shortest text of a finite *value* in the form that RapidJSON gives it."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if value == 0:
        return sign + "0.0"
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}.0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' + digits[1:] if len(digits) > 1 else ''}e{point - 1}"
