"""``inserve serve``: serve models until a signal comes. Flags have TensorFlow Serving's names."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from inserve.server.model_server import Server

__all__ = ["serve"]


@click.command(context_settings={"max_content_width": 100})
@click.option("--model_name", default="default", show_default=True, help="Name of the one model.")
@click.option(
    "--model_base_path", metavar="PATH", help="Folder, or URL of a store, that holds its version folders."
)
@click.option(
    "--model_config_file",
    type=click.Path(),
    help="Text ModelServerConfig that lists the models instead.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8500,
    show_default=True,
    help="gRPC port; 0 for none, then --grpc_socket_path is needed.",
)
@click.option("--grpc_socket_path", type=click.Path(), help="Also listen on this Unix socket.")
@click.option(
    "--grpc_transport",
    type=click.Choice(["auto", "native", "grpcio"]),
    default="auto",
    show_default=True,
    help="What carries gRPC; auto takes native where it can serve.",
)
@click.option(
    "--grpc_max_threads", type=click.IntRange(1), help="Threads for calls that take long.  [default: by CPUs]"
)
@click.option(
    "--check_input_shapes/--nocheck_input_shapes",
    default=True,
    show_default=True,
    help="Refuse inputs whose shape differs from the signature.",
)
@click.option(
    "--saved_model_tags",
    default="serve",
    show_default=True,
    help="Comma-separated tags of the graph to load.",
)
@click.option(
    "--file_system_poll_wait_seconds",
    type=int,
    default=1,
    show_default=True,
    help="How often to look for new versions; 0 once, negative never.",
)
@click.option(
    "--num_load_threads",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Versions that may load at once.",
)
@click.option(
    "--enable_serialization_as_tensor_content",
    is_flag=True,
    help="Send the values of responses in tensor_content.",
)
@click.option(
    "--drain_seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long running requests may take after SIGTERM or SIGINT.",
)
def serve(
    model_name: str,
    model_base_path: str | None,
    model_config_file: str | None,
    host: str,
    port: int,
    grpc_socket_path: str | None,
    grpc_transport: Literal["auto", "native", "grpcio"],
    grpc_max_threads: int | None,
    check_input_shapes: bool,
    saved_model_tags: str,
    file_system_poll_wait_seconds: int,
    num_load_threads: int,
    enable_serialization_as_tensor_content: bool,
    drain_seconds: float,
) -> None:
    """Serve models over gRPC, as TensorFlow Serving does.

    SIGTERM and SIGINT (Ctrl-C) let running requests finish and end with exit status 0; a second one
    ends at once.
    """
    if bool(model_base_path) == bool(model_config_file):
        raise click.UsageError("expected either --model_base_path or --model_config_file")
    addresses = _addresses(host, port, grpc_socket_path)
    if not addresses:
        raise click.UsageError("expected a --port above 0 or --grpc_socket_path")

    _set_up_logging()
    from inserve.server.model_server import ModelsArgument, Server
    from inserve.server.options import ServerOptions

    models: ModelsArgument = model_config_file or {model_name: model_base_path or ""}
    with _signals_interrupt():
        try:
            server = Server(
                models=models,
                grpc=addresses,
                grpc_transport=grpc_transport,
                max_workers=grpc_max_threads or ServerOptions.max_workers,
                check_shapes=check_input_shapes,
                serialize_as_tensor_content=enable_serialization_as_tensor_content,
                tags=[tag for tag in saved_model_tags.split(",") if tag],
                poll_interval=None if file_system_poll_wait_seconds < 0 else file_system_poll_wait_seconds,
                num_load_threads=num_load_threads,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        try:
            server.start()
            _print_ready(server)
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopping")
        finally:
            _restore_default_signals()
            server.stop(drain_seconds)
    click.echo("stopped")


def _set_up_logging() -> None:
    """Send the library's log to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt in a block; give the handlers back after it."""
    before = [signal.signal(number, signal.default_int_handler) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _restore_default_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _addresses(host: str, port: int, socket_path: str | None) -> Sequence[str]:
    addresses = []
    if port:
        addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if socket_path:
        addresses.append(f"unix:{socket_path}")
    return addresses


def _print_ready(server: Server) -> None:
    for config in server.models.list():
        versions = ", ".join(map(str, server.models.status(config.name).available_versions))
        click.echo(f"model {config.name}: version {versions} of {config.base_path}")
    click.echo(f"gRPC ({server.grpc_transport}) on {' and '.join(server.grpc_addresses)}")
    click.echo("ready; Ctrl-C or SIGTERM stops it")
