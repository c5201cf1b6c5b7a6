"""``tensorflow_model_server``: the C++ server's command line, outputs and exit statuses.

Source: TensorFlow Serving, ``model_servers/main.cc`` and ``model_servers/server.cc``. What goes to stdout
is the C++ server's text; the log goes to stderr.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inserve._version import __version__
from inserve.cli.flag_parser import parse_flags, usage
from inserve.cli.flags import Flags, flag_table
from inserve.errors import InserveError, InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from inserve.cli.server_plan import ServerPlan
    from inserve.server.model_server import Server

__all__ = ["main", "run", "version_text"]

_logger = logging.getLogger("inserve.server")

_SUCCESS, _FAILURE = 0, 255
_TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos", "tf-nightly")
_HIGHEST_PORT = 65535


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    sys.exit(run(sys.argv[0], sys.argv[1:]))


def run(program: str, arguments: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit status."""
    from inserve.cli.log_lines import log_to_stderr

    log_to_stderr()
    parsed = parse_flags(arguments)
    usage_text = usage(program, [info for info in flag_table() if not info.is_extra])
    for text in parsed.errors:
        _logger.error("%s", text)
    first = parsed.left_over[0] if parsed.left_over else None
    if first == "--helpfull":
        _print(usage(program, flag_table()))
        return _FAILURE
    if parsed.errors or first == "--help":
        _print(usage_text)
        return _FAILURE
    if parsed.flags.version:
        _print(version_text())
        return _SUCCESS
    if first is not None:
        _print(f"unknown argument: {first}\n{usage_text}")
    try:
        _serve(parsed.flags, parsed.given)
    except InserveError as error:
        _print(f"Failed to start server. Error: {error.code.name}: {error}\n")
        return _FAILURE
    return _SUCCESS


def version_text() -> str:
    """Return what ``--version`` prints; TensorFlow is not imported."""
    import importlib.metadata

    tensorflow = "not installed"
    for package in _TENSORFLOW_PACKAGES:
        try:
            tensorflow = importlib.metadata.version(package)
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"TensorFlow ModelServer: {__version__}\nTensorFlow Library: {tensorflow}\n"


def _serve(flags: Flags, given: frozenset[str]) -> None:
    """Serve until a signal comes.

    Raises:
        InserveError: The server cannot start.
    """
    from inserve.cli.server_plan import flags_without_effect, plan_server
    from inserve.cli.signals import restore_default_signals, signals_interrupt, wait_for_interrupt

    plan = plan_server(flags, given)
    rest = _RestPort.of(flags)
    if rest.problem:
        plan = dataclasses.replace(plan, options=dataclasses.replace(plan.options, rest=()))
    for text in flags_without_effect(flags, given):
        _logger.warning("%s", text)
    if flags.allow_remote_reload and not _is_loopback(flags):
        _logger.warning(
            "Whoever reaches the gRPC port may replace the models; --allow_remote_reload=false refuses that."
        )
    with signals_interrupt():
        server = None
        try:
            server = _started(plan)
            _log_running(server, plan, rest)
            wait_for_interrupt()
        except KeyboardInterrupt:
            restore_default_signals()
            _logger.info("A signal came; running requests may take %g s more", flags.drain_seconds)
        finally:
            restore_default_signals()
            if server is not None:
                server.stop(flags.drain_seconds)


def _started(plan: ServerPlan) -> Server:
    from inserve.cli.server_plan import BIND_FAILED

    if plan.model_names is None:
        _logger.info("Taking no action for empty config.")
    else:
        _logger.info("Adding/updating models.")
        for name in plan.model_names:
            _logger.info(" (Re-)adding model: %s", name)
    try:
        server = plan.make_server()
        server.start()
    except UnavailableError as error:
        _logger.error("%s", error)  # noqa: TRY400 - the traceback says nothing more
        raise InvalidArgumentError(BIND_FAILED) from error
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    return server


def _log_running(server: Server, plan: ServerPlan, rest: _RestPort) -> None:
    options = plan.options
    if plan.model_names is not None:
        _logger.info("Finished adding/updating models")
    kind = "InsecureServerCredentials"
    if options.use_alts_credentials:
        kind = "ALTS credentials"
    elif options.ssl is not None:
        kind = "SSL credentials"
    for _ in server.grpc_addresses:
        _logger.info("Using %s", kind)
    if options.enable_profiler:
        _logger.info("Profiler service is enabled")
    for address in server.grpc_addresses:
        is_socket = address.startswith("unix:")
        where = f"UNIX socket {address.removeprefix('unix:')}" if is_socket else address
        _logger.info("Running gRPC ModelServer at %s ...", where)
    if rest.problem:
        _logger.error("%s", rest.problem)
    elif rest.port:
        _logger.info("Exporting HTTP/REST API at:localhost:%d ...", rest.port)


@dataclass(frozen=True)
class _RestPort:
    """Where REST is served: *port* 0 for nowhere, *problem* why it is not where the flag says."""

    port: int
    problem: str = ""

    @staticmethod
    def of(flags: Flags) -> _RestPort:
        """Return the port if it can be bound now."""
        port = flags.rest_api_port
        if not port:
            return _RestPort(0)
        if port == flags.port:
            return _RestPort(
                0,
                "server_options.http_port cannot be same as grpc_port. Please use a different port for "
                "HTTP/REST API. Skipped exporting HTTP/REST API.",
            )
        reason = _why_unbindable(flags.host or "::", port)
        if reason:
            _logger.info("%s", reason)
            return _RestPort(0, f"Failed to start HTTP Server at localhost:{port}")
        return _RestPort(port)


def _why_unbindable(host: str, port: int) -> str:
    """Return why REST could not be served at *port* now; empty if it could."""
    from inserve.frontends.rest_api.listen_sockets import bind_address

    if not 0 < port <= _HIGHEST_PORT:
        return f"there is no port {port}"
    try:
        sockets = bind_address(host, port)
    except UnavailableError as error:
        return str(error)
    for each in sockets:
        each.close()
    return ""


def _is_loopback(flags: Flags) -> bool:
    """Return whether only this machine reaches the gRPC server."""
    if not flags.port or flags.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(flags.host).is_loopback
    except ValueError:
        return False


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
