"""``inserve inspect``: print what lies at a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from inserve.cli.saved_model_summary import MetaGraphSummary, VersionFolder
    from inserve.saved_model.signature import Signature

__all__ = ["inspect", "size_text"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--tags",
    metavar="TAG[,TAG]",
    help="Only the graph with exactly these tags.  [default: every graph]",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Load the newest version and measure anew where its graphs run fastest; later starts use it.",
)
def inspect(path: Path, tags: str | None, tune: bool) -> None:
    """Show the versions, size and signatures of the SavedModel at PATH.

    PATH is the folder of one SavedModel, or a base path with a folder for each version; of several
    versions the newest is shown in full. TensorFlow is not loaded, except with --tune.
    """
    from rich.console import Console

    from inserve.cli.saved_model_summary import choose_meta_graphs, find_versions, read_meta_graphs

    versions = find_versions(path)
    newest = versions[-1]
    wanted = None if tags is None else [tag for tag in tags.split(",") if tag]
    meta_graphs = choose_meta_graphs(read_meta_graphs(newest.path), wanted, newest.path)

    console = Console(highlight=False)
    if newest.path != path:
        _print_line(console, f"Base path {path}")
        console.print(_version_table(versions))
    version = "SavedModel" if newest.version is None else f"Version {newest.version}"
    _print_line(console, f"{version}, {size_text(newest.size_bytes)}, {newest.path}")
    for meta_graph in meta_graphs:
        _print_meta_graph(console, meta_graph)
    if tune:
        _print_tuning(console, newest.path, wanted)


def _print_tuning(console: Console, path: Path, tags: list[str] | None) -> None:
    """Measure the version at *path* and print what was measured, and what was chosen with a star."""
    from rich import box
    from rich.table import Table

    from inserve.handlers.prediction_log import prediction_log_replay
    from inserve.resources.memory_limit import memory_limit_bytes
    from inserve.saved_model.saved_model_loader import (
        SavedModelOptions,
        has_usual_kernels,
        held_twice_bytes,
        tune,
    )
    from inserve.server.options import ServerOptions
    from inserve.tensorflow_c.devices import list_devices
    from inserve.tensorflow_c.interface import Executor

    config = ServerOptions().complete_session_config()
    options = SavedModelOptions(
        session_config=config,
        held_twice_bytes=held_twice_bytes(memory_limit_bytes()),
        merge_row_wise=has_usual_kernels(config),
    )
    options = options.on_devices([device.short_name for device in list_devices(config)])
    if tags is not None:
        options = replace(options, tags=tuple(tags))
    tuning = tune(str(path), options, replay=prediction_log_replay())
    console.print()
    threads = tuning.intra_op_threads or "unknown"
    _print_line(console, f"Tuning: intra-op threads {threads}, measured in {tuning.seconds:.2f} s")
    if tuning.reason:
        _print_line(console, f"Not all was measured: {tuning.reason}")
    if tuning.is_for_two_sessions:
        _print_line(console, f"Held in memory twice: * is for a lone caller, + for {tuning.callers} at once")
    for key, most in tuning.merged_rows:
        _print_line(console, f"Requests that arrive together for {key} are one run of up to {most} rows")
    for size in tuning.sizes:
        rows = "" if size.rows is None else f", {size.rows} row{'' if size.rows == 1 else 's'}"
        _print_line(console, f"Signature {size.signature}{rows}")
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("", "executor", "intra-op threads", "one caller", f"{tuning.callers} callers"):
            table.add_column(title)
        chosen, crowded = size.chosen(tuning.intra_op_threads), size.crowded_figures()
        for option in size.alternatives:
            table.add_row(
                "*" * (option == chosen) + "+" * (option == crowded),
                "calling thread" if option.executor is Executor.CALLING_THREAD else "pool",
                str(option.intra_op_threads),
                _milliseconds(option.alone_s),
                _milliseconds(option.together_s),
            )
        console.print(table)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3g} ms"


def size_text(size_bytes: int) -> str:
    """Return a size as people write it, in units of a thousand: ``156.6 kB``."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    size = size_bytes / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _printable(text: str) -> str:
    """Return *text*, which may come from anybody's file, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _print_line(console: Console, text: str) -> None:
    console.print(_printable(text), markup=False, soft_wrap=True)


def _version_table(versions: list[VersionFolder]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("version", justify="right")
    table.add_column("size", justify="right")
    for folder in versions:
        table.add_row(str(folder.version), size_text(folder.size_bytes))
    return table


def _print_meta_graph(console: Console, meta_graph: MetaGraphSummary) -> None:
    tags = ", ".join(meta_graph.tags) or "(none)"
    writer = (
        f", written by TensorFlow {meta_graph.tensorflow_version}" if meta_graph.tensorflow_version else ""
    )
    _print_line(console, f"Graph with tags {tags}{writer}")
    if not meta_graph.signatures:
        _print_line(console, "It has no signature, so it cannot be served.")
    for signature in meta_graph.signatures.values():
        console.print()
        _print_line(console, f"Signature {signature.key}, method {signature.method_name or '(none)'}")
        console.print(_signature_table(signature))


def _signature_table(signature: Signature) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "name", "dtype", "shape", "tensor"):
        table.add_column(title, overflow="fold")
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs.values():
            default = " (optional)" if kind == "input" and spec.alias in signature.defaults else ""
            cells = (
                kind,
                spec.alias + default,
                spec.type_name(),
                spec.shape_text(),
                spec.tensor_name or "(sparse or composite)",
            )
            table.add_row(*(Text(_printable(cell)) for cell in cells))
    return table
