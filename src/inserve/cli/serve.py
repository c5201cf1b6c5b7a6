"""``inserve serve``: serve models until a signal comes. Flags have TensorFlow Serving's names."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from inserve.server.model_server import Server

__all__ = ["serve"]

_MICROS_PER_S = 1e6

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


def _switch(name: str, default: bool, help: str) -> Callable[[_CommandT], _CommandT]:
    """Return an option that is given as ``--name``, ``--name=true`` or ``--name=false``."""
    return click.option(
        name, type=click.BOOL, is_flag=False, flag_value="true", default=default, show_default=True, help=help
    )


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
@_switch("--check_complete", True, "Wait until the files of a version are complete and no longer change.")
@click.option(
    "--model_config_file_poll_wait_seconds",
    type=int,
    default=0,
    show_default=True,
    help="How often to apply --model_config_file if it has changed; 0 or less never.",
)
@_switch("--allow_remote_reload", False, "Let remote callers replace the models (HandleReloadConfigRequest).")
@_switch(
    "--allow_version_labels_for_unavailable_models",
    True,
    "Let a new label name a version that is not available yet.",
)
@_switch("--enable_grpc_healthcheck_service", False, "Answer grpc.health.v1.Health.")
@click.option(
    "--initial_wait",
    type=click.Choice(["available", "settled"]),
    default="available",
    show_default=True,
    help="When to open the ports. available: each model answers; none may be missing. settled, as TensorFlow "
    "Serving: however long a model is missing, and no version found may still be loading.",
)
@click.option(
    "--num_load_threads",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Versions that may load at once; 0 is one. 4 per processor during the start.",
)
@click.option(
    "--num_unload_threads",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Versions that may unload at once; 0 is one.",
)
@click.option(
    "--max_num_load_retries",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How often a failed load is repeated before the version has failed.",
)
@click.option(
    "--load_retry_interval_micros",
    type=int,
    default=60_000_000,
    show_default=True,
    help="Pause before each of these repetitions; negative for none.",
)
@click.option(
    "--reload_failed_after_seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Load a failed version that is still there anew after this, then after twice that, up to an hour; "
    "0 never.",
)
@_switch("--enable_model_warmup", True, "Run each version before it is available, on its recorded requests.")
@click.option(
    "--num_request_iterations_for_warmup",
    type=int,
    default=0,
    show_default=True,
    help="How often each recorded request is run; 0 or less is once.",
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
    check_complete: bool,
    model_config_file_poll_wait_seconds: int,
    allow_remote_reload: bool,
    allow_version_labels_for_unavailable_models: bool,
    enable_grpc_healthcheck_service: bool,
    initial_wait: Literal["available", "settled"],
    num_load_threads: int,
    num_unload_threads: int,
    max_num_load_retries: int,
    load_retry_interval_micros: int,
    reload_failed_after_seconds: float,
    enable_model_warmup: bool,
    num_request_iterations_for_warmup: int,
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

    polls_config = model_config_file and model_config_file_poll_wait_seconds > 0

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
                check_complete=check_complete,
                config_poll_interval=model_config_file_poll_wait_seconds if polls_config else None,
                allow_remote_reload=allow_remote_reload,
                enable_grpc_healthcheck_service=enable_grpc_healthcheck_service,
                initial_wait=initial_wait,
                num_load_threads=num_load_threads,
                num_unload_threads=num_unload_threads,
                max_num_load_retries=max_num_load_retries,
                load_retry_interval=load_retry_interval_micros / _MICROS_PER_S,
                reload_failed_after=reload_failed_after_seconds or None,
                enable_model_warmup=enable_model_warmup,
                num_request_iterations_for_warmup=max(1, num_request_iterations_for_warmup),
                allow_version_labels_for_unavailable_models=allow_version_labels_for_unavailable_models,
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
