"""JSON values as they stand in TensorFlow Serving's error texts.

The layout is RapidJSON's pretty printer with lists on one line. The text stops behind the first token
that ends at or past 256 bytes, and before a number that is not finite.

Sources: RapidJSON ``prettywriter.h`` and ``internal/dtoa.h``; TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

import math
import re
from typing import Any

from inserve.tensors.json_document import TOO_DEEP, members

__all__ = ["dump", "quoted", "type_name"]

_MAX_BYTES = 256
_INDENT = "    "

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
    dumper = _Dumper()
    dumper.write(value, 0, "")
    return "".join(dumper.pieces)


class _Dumper:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._bytes = 0

    def write(self, value: Any, depth: int, before: str) -> bool:
        """Add *value* behind the text *before*; return False where the text stops."""
        if isinstance(value, dict):
            return self._write_object(value, depth, before)
        if isinstance(value, list):
            return self._write_list(value, depth, before)
        if value is TOO_DEEP:
            self._add(before + "[")
            return False
        if isinstance(value, float) and not math.isfinite(value):
            self._add(before)
            return False
        return self._add(before + _scalar(value))

    def _write_object(self, value: dict[str, Any], depth: int, before: str) -> bool:
        if not self._add(before + "{"):
            return False
        separator = "\n" + _INDENT * (depth + 1)
        for name, member in members(value):
            if not self._add(separator + quoted(name)) or not self.write(member, depth + 1, ": "):
                return False
            separator = ",\n" + _INDENT * (depth + 1)
        return self._add("\n" + _INDENT * depth + "}" if value else "}")

    def _write_list(self, value: list[Any], depth: int, before: str) -> bool:
        if not self._add(before + "["):
            return False
        separator = ""
        for item in value:
            if not self.write(item, depth + 1, separator):
                return False
            separator = ", "
        return self._add("]")

    def _add(self, text: str) -> bool:
        self.pieces.append(text)
        self._bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
        return self._bytes < _MAX_BYTES


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
