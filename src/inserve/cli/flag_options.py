"""Click options made from the table of flags, and a command whose help shows them by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from inserve.cli.flag_parser import parse_value
from inserve.cli.flags import FlagInfo, Flags, flag_table

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic from click 8.3 on

__all__ = ["FlagCommand", "flags_of"]

_GROUPS = ("Models", "Network", "Loading", "Batching", "Runtime", "Diagnostics")
_NEGATED = "check_input_shapes"
"""This switch has a second spelling, ``--nocheck_input_shapes``."""


class _FlagType(_ParamType):
    """Reads a value as ``tensorflow_model_server`` does, and says what was expected otherwise."""

    def __init__(self, info: FlagInfo) -> None:
        self._info = info
        self.name = "text" if info.kind == "string" else info.kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what stands for the value in the help."""
        del param, ctx
        info = self._info
        if info.choices:
            return f"[{'|'.join(info.choices)}]"
        if info.name.endswith(("_file", "_path")):
            return "PATH"
        return {"int32": "INTEGER", "int64": "INTEGER", "float": "NUMBER", "bool": "[true|false]"}.get(
            info.kind, "TEXT"
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that a text spells; others are values already."""
        info = self._info
        if not isinstance(value, str):
            return value
        parsed = parse_value(info, value)
        if parsed is None:
            expected = " or ".join(info.choices) or {"bool": "true or false"}.get(info.kind, info.kind)
            self.fail(f"{value!r} is not {expected}", param, ctx)
        if not isinstance(parsed, str):
            if info.minimum is not None and parsed < info.minimum:
                self.fail(f"{value} is below {info.minimum}", param, ctx)
            if info.maximum is not None and parsed > info.maximum:
                self.fail(f"{value} is above {info.maximum}", param, ctx)
        return parsed


class FlagCommand(click.Command):
    """A command that takes every flag of the table, as ``--name=value`` and ``--name value``."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params.extend(_option(info) for info in flag_table())
        self.params.append(
            click.Option([f"--no{_NEGATED}", f"no{_NEGATED}"], is_flag=True, hidden=True, expose_value=True)
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group, those without effect in the last."""
        infos = {info.name: info for info in flag_table()}
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            info = infos.get(param.name or "")
            group = "Other" if info is None else info.group
            if info is not None and info.no_effect:
                group = "Accepted without effect"
            sections.setdefault(group, []).append(record)
        for title in (*_GROUPS, "Accepted without effect", "Other"):
            if sections.get(title):
                with formatter.section(title):
                    formatter.write_dl(sections[title])


def flags_of(ctx: click.Context) -> tuple[Flags, frozenset[str]]:
    """Return the flags of the command that runs, and the names of those that were given."""
    values = dict(ctx.params)
    given = frozenset(
        name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
    if values.pop(f"no{_NEGATED}"):
        if _NEGATED in given and values[_NEGATED]:
            raise click.UsageError(f"expected either --{_NEGATED} or --no{_NEGATED}")
        values[_NEGATED] = False
        given = given - {f"no{_NEGATED}"} | {_NEGATED}
    for info in flag_table():
        if info.is_repeatable:
            values[info.name] = ",".join(values[info.name])
    return Flags(**values), given


def _option(info: FlagInfo) -> click.Option:
    """Return the option of a flag; a switch may also be given without a value."""
    shown = str(info.library_default)
    if info.kind == "bool":
        shown = shown.lower()
    text = f"{info.help}  [default: {shown}]" if shown else info.help
    options: dict[str, Any] = {"help": text, "type": _FlagType(info), "default": info.library_default}
    if info.kind == "bool":
        options.update(is_flag=False, flag_value="true")
    if info.is_repeatable:
        options.update(multiple=True, default=())
    return click.Option([f"--{info.name}", info.name], **options)
