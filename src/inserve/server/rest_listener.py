"""The REST API of a ``Server``: the application, which also mounts elsewhere, and what carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from inserve.frontends.grpc_api.worker_pool import WorkerPool
from inserve.frontends.rest_api.app import RestApp, RestHandlers, RestOptions
from inserve.frontends.rest_api.rest_server import RestServer
from inserve.handlers.model_spec import ModelSpec, ServableFinder
from inserve.metrics.serving_metrics import REST
from inserve.saved_model.signature import Signature
from inserve.server.models import Models
from inserve.server.options import ServerOptions
from inserve.server.services import Services

__all__ = ["RestListener"]

_STOP_LIMIT_S = 2.5


class RestListener:
    """Answers REST requests, at the addresses of *options* if there are any, and through ``app``.

    *metrics_page* returns the page for Prometheus.
    """

    def __init__(
        self,
        services: Services,
        finder: ServableFinder,
        options: ServerOptions,
        metrics_page: Callable[[], bytes],
    ) -> None:
        self._pool = WorkerPool("inserve-rest-worker", options.max_workers, options.max_queued)
        answered = services.metrics.answered
        self.app = RestApp(
            RestHandlers(
                services.predict,
                services.classify,
                services.regress,
                services.model_metadata,
                services.model_status,
                _Directory(services.models, finder),
                services.predict_together,
            ),
            self._pool,
            RestOptions(
                options.rest_timeout,
                options.rest_cors,
                options.rest_max_body_bytes,
                options.prometheus_path,
            ),
            metrics_page,
            lambda record, api, code, seconds: answered(record, api, REST, code, seconds),
        )
        self._server: RestServer | None = None
        if options.rest:
            self._server = RestServer(
                self.app, options.rest, reuse_port=options.reuse_port or options.workers > 1
            )

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses, in the order asked for; empty without any, or before the start."""
        return () if self._server is None else self._server.addresses

    @property
    def port(self) -> int | None:
        """The port of the first address, None without one or before the start."""
        return None if self._server is None else self._server.port

    def start(self) -> None:
        """Bind the addresses and serve.

        Raises:
            UnavailableError: An address cannot be bound.
        """
        if self._server is not None:
            self._server.start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests at the addresses, and let running ones end for *grace_s* seconds."""
        if self._server is not None:
            self._server.stop(grace_s)
        self._pool.stop(_STOP_LIMIT_S)


class _Directory:
    """The models and signatures there are."""

    def __init__(self, models: Models, finder: ServableFinder) -> None:
        self._models = models
        self._finder = finder

    def names(self) -> Sequence[str]:
        return [config.name for config in self._models.list()]

    def signatures(self, spec: ModelSpec) -> tuple[int, Mapping[str, Signature]]:
        with self._finder.find(spec) as handle:
            return handle.id.version, handle.servable.signatures
