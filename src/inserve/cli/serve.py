"""``inserve serve``: serve models until a signal comes. Flags have TensorFlow Serving's names."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import click

from inserve.cli.flag_options import FlagCommand, flags_of
from inserve.cli.flags import Flags
from inserve.cli.signals import restore_default_signals, signals_interrupt, wait_for_interrupt
from inserve.errors import InserveError

if TYPE_CHECKING:
    from inserve.server.model_server import Server

__all__ = ["serve"]

_logger = logging.getLogger("inserve.server")


@click.command(cls=FlagCommand, context_settings={"max_content_width": 100})
@click.pass_context
def serve(ctx: click.Context, /, **_: object) -> None:
    """Serve models over gRPC and REST, as TensorFlow Serving does.

    SIGTERM and SIGINT (Ctrl-C) let running requests finish and end with exit status 0; a second one
    ends at once. Defaults are the careful ones; the command tensorflow_model_server has those of the
    C++ server.
    """
    flags, given = flags_of(ctx)
    if flags.version:
        from inserve.cli.tensorflow_model_server import version_text

        click.echo(version_text(), nl=False)
        return
    flags = _checked(flags)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from inserve.cli.server_plan import flags_without_effect, plan_server

    plan = plan_server(flags, given)
    for text in flags_without_effect(flags, given):
        _logger.warning("%s", text)
    with signals_interrupt():
        try:
            server = plan.make_server()
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        try:
            server.start()
            _print_ready(server)
            wait_for_interrupt()
        except KeyboardInterrupt:
            restore_default_signals()
            click.echo("stopping")
        finally:
            restore_default_signals()
            server.stop(flags.drain_seconds)
    click.echo("stopped")


def _checked(flags: Flags) -> Flags:
    """Return *flags* with an absolute base path; say what is missing or contradictory."""
    if bool(flags.model_base_path) == bool(flags.model_config_file):
        raise click.UsageError("expected either --model_base_path or --model_config_file")
    if not flags.port and not flags.grpc_socket_path:
        raise click.UsageError("expected a --port above 0 or --grpc_socket_path")
    if not flags.model_name:
        raise click.UsageError("a model needs a name, got an empty --model_name")
    if not flags.host:
        raise click.UsageError("expected an address after --host; 0.0.0.0 for all of this machine's")
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        raise click.UsageError("expected --rest_api_port to differ from --port")
    if not flags.model_base_path:
        return flags
    from inserve.sources.base_path import absolute_base_path

    try:
        return dataclasses.replace(flags, model_base_path=absolute_base_path(flags.model_base_path))
    except (ValueError, InserveError) as error:
        raise click.UsageError(f"--model_base_path: {error}") from error


def _print_ready(server: Server) -> None:
    for config in server.models.list():
        versions = ", ".join(map(str, server.models.status(config.name).available_versions))
        click.echo(f"model {config.name}: version {versions} of {config.base_path}")
    click.echo(f"gRPC ({server.grpc_transport}) on {' and '.join(server.grpc_addresses)}")
    if server.rest_addresses:
        click.echo(f"REST on {' and '.join(server.rest_addresses)}")
    click.echo("ready; Ctrl-C or SIGTERM stops it")
