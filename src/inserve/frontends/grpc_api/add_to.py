"""Puts a ``MethodTable`` on a gRPC server that the host application owns."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from inserve.frontends.grpc_api.byte_handlers import (
    byte_handler,
    call_context,
    methods_by_service,
    not_bytes,
)
from inserve.frontends.grpc_api.method import Method, MethodTable
from inserve.frontends.grpc_api.status_codes import GRPC_STATUS_BY_CODE, status_of
from inserve.frontends.grpc_api.worker_pool import WorkerPool
from inserve.handlers.placement import WouldBlock

__all__ = ["add_methods_to"]


def add_methods_to(server: grpc.Server | grpc.aio.Server, methods: MethodTable, pool: WorkerPool) -> None:
    """Register *methods* on *server*, as the ``add_..._to_server`` functions of generated code do.

    A ``grpc.Server`` runs them on its own threads. On a ``grpc.aio.Server`` short work runs on the event
    loop and long work in *pool*, which the caller owns and stops. To be called before the server starts;
    its message size limits and what it says of unknown methods stay its own.

    Raises:
        TypeError: *server* is neither.
        ValueError: a path is not ``/package.Service/Method``.
    """
    if not isinstance(server, (grpc.Server, grpc.aio.Server)):
        raise TypeError(f"expected a grpc.Server or a grpc.aio.Server, got {type(server).__name__}")
    asynchronous = isinstance(server, grpc.aio.Server)
    target: Any = server
    for service, by_name in methods_by_service(methods).items():
        handlers = {}
        for name, method in by_name.items():
            path = f"/{service}/{name}"
            handlers[name] = _aio_handler(path, method, pool) if asynchronous else byte_handler(path, method)
        target.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        target.add_registered_method_handlers(service, handlers)


def _aio_handler(path: str, method: Method, pool: WorkerPool) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def handle(request: bytes, servicer_context: Any) -> bytes:
        context = call_context(servicer_context, may_block=False)
        try:
            try:
                response: object = method(request, context)
            except WouldBlock:
                context.may_block = True
                response = await asyncio.wrap_future(pool.submit(method, request, context))
        except asyncio.CancelledError:
            context.cancelled = True
            raise
        except Exception as error:
            code, message = status_of(error, path)
        else:
            if isinstance(response, bytes):
                return response
            code, message = status_of(not_bytes(response), path)
        await servicer_context.abort(GRPC_STATUS_BY_CODE[code], message)
        raise AssertionError("abort returned")

    return grpc.unary_unary_rpc_method_handler(handle)
