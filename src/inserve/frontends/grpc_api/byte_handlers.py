"""grpcio handlers that hand request and response bytes through to a ``MethodTable``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc

from inserve.errors import Code
from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable
from inserve.frontends.grpc_api.status_codes import GRPC_STATUS_BY_CODE, status_of

__all__ = ["UnknownMethodHandler", "byte_handler", "call_context", "methods_by_service", "not_bytes"]

_NO_DEADLINE_S = 1e9
"""grpcio reports calls without a deadline as having thousands of years left."""


def methods_by_service(methods: MethodTable) -> dict[str, dict[str, Method]]:
    """Return *methods* as service name -> method name -> method.

    Raises:
        ValueError: a path is not ``/package.Service/Method``.
    """
    services: dict[str, dict[str, Method]] = {}
    for path, method in methods.items():
        parts = path.split("/")
        if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
            raise ValueError(f"method path {path!r}: expected '/package.Service/Method'")
        services.setdefault(parts[1], {})[parts[2]] = method
    return services


def call_context(servicer_context: Any, may_block: bool) -> CallContext:
    """Return what a method may know of a grpcio call, from its ``ServicerContext`` (sync or aio)."""
    remaining_s = servicer_context.time_remaining()
    no_deadline = remaining_s is None or remaining_s > _NO_DEADLINE_S
    return CallContext(
        None if no_deadline else time.monotonic() + remaining_s,
        tuple((key, value) for key, value in servicer_context.invocation_metadata() or ()),
        may_block,
    )


def not_bytes(response: object) -> TypeError:
    """Return the error of a method that broke its contract by returning *response*."""
    return TypeError(f"a method returned {type(response).__name__}, expected bytes")


def byte_handler(path: str, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return the handler of *method* for a ``grpc.server``; it runs on the server's own threads."""

    def handle(request: bytes, servicer_context: grpc.ServicerContext) -> bytes:
        context = call_context(servicer_context, may_block=True)

        def note_end() -> None:
            context.cancelled = True

        if not servicer_context.add_callback(note_end):
            servicer_context.abort(grpc.StatusCode.CANCELLED, "")
        try:
            response: object = method(request, context)
        except BaseException as error:
            code, message = status_of(error, path)
        else:
            if isinstance(response, bytes):
                return response
            code, message = status_of(not_bytes(response), path)
        servicer_context.abort(GRPC_STATUS_BY_CODE[code], message)

    return grpc.unary_unary_rpc_method_handler(handle)


def _refuse(_requests: Iterator[bytes], servicer_context: grpc.ServicerContext) -> Iterator[bytes]:
    servicer_context.abort(GRPC_STATUS_BY_CODE[Code.UNIMPLEMENTED], "")


class UnknownMethodHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers every method with UNIMPLEMENTED and an empty text, as TensorFlow Serving's server does.

    To be added last. One bidirectional handler serves calls of every kind, since it reads no message.
    """

    _handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_refuse)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        del handler_call_details
        return self._handler
