"""The gRPC server of a ``Server``: which methods it has, and how it is reached."""

from __future__ import annotations

from inserve.frontends.grpc_api.credentials import server_credentials
from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.health_service import HealthWatchHandler, health_service_methods
from inserve.frontends.grpc_api.reflection_service import ReflectionHandler
from inserve.frontends.grpc_api.transport import TransportOptions
from inserve.server.options import ServerOptions
from inserve.server.services import Services

__all__ = ["grpc_transport_options", "make_grpc_server"]


def grpc_transport_options(options: ServerOptions) -> TransportOptions:
    """Return how calls are carried and where long ones run."""
    return TransportOptions(
        options.max_workers,
        options.max_queued,
        credentials=server_credentials(options.ssl, options.use_alts_credentials),
        channel_arguments=options.grpc_channel_arguments,
        reuse_port=options.reuse_port or options.workers > 1,
    )


def make_grpc_server(
    services: Services, options: ServerOptions, transport_options: TransportOptions
) -> GrpcServer | None:
    """Return the gRPC server of *services*, not started; None if *options* give it no address."""
    if not options.grpc:
        return None
    methods = dict(services.grpc_methods(options.allow_remote_reload))
    generic_handlers: list[HealthWatchHandler | ReflectionHandler] = []
    streams = max(1, options.max_workers // 4)
    if options.enable_grpc_healthcheck_service:
        methods.update(health_service_methods(services.health))
        generic_handlers.append(HealthWatchHandler(services.health, streams))
    if options.enable_reflection:
        generic_handlers.append(ReflectionHandler.of_methods(methods, streams))
    return GrpcServer(
        methods,
        options.grpc,
        transport=options.grpc_transport,
        options=transport_options,
        generic_handlers=generic_handlers,
        together=services.together_methods(),
    )
