"""``grpc.health.v1.Health``: Check as a method, Watch as a handler of grpcio."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from inserve.errors import InserveError
from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.frontends.grpc_api.status_codes import GRPC_STATUS_BY_CODE, status_of
from inserve.handlers.health import HealthHandler

__all__ = ["HealthWatchHandler", "health_service_methods"]

_SERVICE = "/grpc.health.v1.Health/"
_WATCH = _SERVICE + "Watch"


def health_service_methods(health: HealthHandler) -> MethodTable:
    """Return the service's unary method by path."""

    def check_method(request: bytes, context: CallContext) -> bytes:
        del context
        return health.check_message(request)

    return {_SERVICE + "Check": check_method}


class HealthWatchHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Carries Watch. Each call holds a thread; more than *max_watches* at once are refused."""

    def __init__(self, health: HealthHandler, max_watches: int) -> None:
        self._health = health
        self._max_watches = max_watches
        self._places = threading.Semaphore(max_watches)
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._watch)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handler if handler_call_details.method == _WATCH else None

    def _watch(self, request: bytes, servicer_context: grpc.ServicerContext) -> Iterator[bytes]:
        if not self._places.acquire(blocking=False):
            servicer_context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._max_watches} calls watch the health already"
            )
        try:
            is_over = threading.Event()

            def end() -> None:
                is_over.set()
                self._health.changed()

            if servicer_context.add_callback(end):
                yield from self._health.watch_messages(request, is_over)
        except InserveError as error:
            code, message = status_of(error, _WATCH)
            servicer_context.abort(GRPC_STATUS_BY_CODE[code], message)
        finally:
            self._places.release()
