"""The command-line syntax of ``tensorflow_model_server``, and its usage text.

Rules: TensorFlow, ``core/util/command_line_flags.cc``. Only ``--name=value``; a switch may also be
``--name``; the last of two counts; what is not understood is left over and stops nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inserve.cli.flags import FlagInfo, FlagKind, Flags, FlagValue, flag_table

__all__ = ["ParsedFlags", "parse_flags", "parse_value", "usage"]

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_FLOAT = re.compile(
    r"\s*[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf|nan)\s*", re.ASCII
)
_BITS = {"int32": 31, "int64": 63}
_FLOAT32_MAX = 3.4028234663852886e38
_NAME_COLUMNS = 33


@dataclass(frozen=True)
class ParsedFlags:
    """What a command line said."""

    flags: Flags
    given: frozenset[str]
    """Names of the flags that it set."""
    left_over: tuple[str, ...]
    """Arguments that are no flags, in their order."""
    errors: tuple[str, ...]
    """One text for each value that cannot be read."""


def parse_flags(arguments: Sequence[str]) -> ParsedFlags:
    """Return the meaning of *arguments*, which do not include the program's name."""
    table = {info.name: info for info in flag_table()}
    values: dict[str, FlagValue] = {}
    left_over: list[str] = []
    errors: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            left_over.extend(arguments[position:])
            break
        name, has_value, text = argument.removeprefix("--").partition("=")
        info = table.get(name) if argument.startswith("--") else None
        if info is None or not (has_value or info.kind == "bool"):
            left_over.append(argument)
            continue
        value = parse_value(info, text) if has_value else True
        if value is None:
            errors.append(f"Couldn't interpret value {text} for flag {name}.")
        elif info.is_repeatable and values.get(name):
            values[name] = f"{values[name]},{value}"
        else:
            values[name] = value
    flags = Flags(**values)  # type: ignore[arg-type]
    return ParsedFlags(flags, frozenset(values), tuple(left_over), tuple(errors))


def parse_value(info: FlagInfo, text: str) -> FlagValue | None:
    """Return the value that *text* spells for a flag; None if it spells none."""
    if info.choices and text not in info.choices:
        return None
    if info.kind == "string":
        return text
    if info.kind == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if info.kind == "float":
        if not _FLOAT.fullmatch(text):
            return None
        number = float(text)
        return None if math.isfinite(number) and abs(number) > _FLOAT32_MAX else number
    if not _INTEGER.fullmatch(text) or len(text) > 64:
        return None
    whole, limit = int(text), 1 << _BITS[info.kind]
    return whole if -limit <= whole < limit else None


def usage(program: str, infos: Iterable[FlagInfo]) -> str:
    """Return the usage text of *program*, a line for each of *infos*, a line break at the end."""
    lines = [f"usage: {program}", "Flags:"]
    for info in infos:
        spelled = f"--{info.name}={_default_text(info.kind, info.default)}"
        lines.append(f"\t{spelled:<{_NAME_COLUMNS}}\t{info.kind}\t{info.help}")
    return "\n".join(lines) + "\n"


def _default_text(kind: FlagKind, default: FlagValue) -> str:
    if kind == "string":
        return f'"{default}"'
    if kind == "float":
        return f"{default:f}"
    return str(default).lower() if kind == "bool" else str(default)
