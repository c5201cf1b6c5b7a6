"""A REST server over the models of a ``Server``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import inserve
from inserve.frontends.rest_api.app import RestApp, RestHandlers, RestOptions
from inserve.frontends.rest_api.http_front import HttpLimits
from inserve.frontends.rest_api.rest_server import RestServer
from inserve.handlers.model_spec import ModelSpec


class Directory:
    """What the REST API asks about the models of *server*."""

    def __init__(self, server: inserve.Server) -> None:
        self._server = server

    def names(self) -> Sequence[str]:
        return [config.name for config in self._server.models.list()]

    def signatures(self, spec: ModelSpec) -> tuple[int, Mapping[str, Any]]:
        with self._server._finder.find(spec) as handle:
            return handle.id.version, handle.servable.signatures


def rest_app_of(server: inserve.Server, options: RestOptions | None = None, **more: Any) -> RestApp:
    services = server._services
    handlers = RestHandlers(
        services.predict,
        services.classify,
        services.regress,
        services.model_metadata,
        services.model_status,
        Directory(server),
    )
    return RestApp(handlers, server._pool, options, **more)


def rest_server_of(
    server: inserve.Server, options: RestOptions | None = None, limits: HttpLimits | None = None, **more: Any
) -> RestServer:
    """Return a REST server, started, on a free port."""
    rest = RestServer(rest_app_of(server, options, **more), ["127.0.0.1:0"], limits)
    rest.start()
    return rest
