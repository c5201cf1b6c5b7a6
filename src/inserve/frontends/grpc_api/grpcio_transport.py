"""gRPC over grpcio: TLS, streaming methods, and platforms without the native front."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

from inserve.errors import UnavailableError
from inserve.frontends.grpc_api.byte_handlers import UnknownMethodHandler, byte_handler, methods_by_service
from inserve.frontends.grpc_api.listen_address import (
    ListenAddress,
    clear_socket_path,
    remove_socket,
    why_unbindable,
)
from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN, STOP_LIMIT_S, TransportOptions
from inserve.frontends.grpc_api.worker_pool import WorkerPool

__all__ = ["GrpcioTransport"]

_DEFAULT_ARGUMENTS: dict[str, int | str] = {
    "grpc.max_receive_message_length": 2147483647,
    "grpc.max_send_message_length": -1,
}


class GrpcioTransport:
    """A ``grpc.server`` whose threads call the methods with ``may_block=True``.

    *generic_handlers* are asked for every path that *methods* lacks, in order; what nobody knows is
    answered UNIMPLEMENTED with an empty text.
    """

    name = "grpcio"

    def __init__(
        self,
        methods: MethodTable,
        addresses: Sequence[ListenAddress],
        options: TransportOptions,
        generic_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
    ) -> None:
        self._gate = _Gate()
        self._services = methods_by_service(
            {path: self._gate.around(method) for path, method in methods.items()}
        )
        self._addresses = tuple(addresses)
        self._options = options
        self._generic_handlers = tuple(generic_handlers)
        self._server: Any = None
        self._pool: WorkerPool | None = None
        self._sockets: dict[str, int] = {}

    def start(self) -> tuple[ListenAddress, ...]:
        options = self._options
        running = options.max_workers + options.max_queued
        # grpcio counts a call as ended slightly before its thread is free: hence the extra places.
        pool = WorkerPool("inserve-grpc-grpcio", options.max_workers, running)
        server = grpc.server(
            pool,  # type: ignore[arg-type]
            options=tuple(
                {
                    **_DEFAULT_ARGUMENTS,
                    "grpc.so_reuseport": int(options.reuse_port),
                    **dict(options.channel_arguments),
                }.items()
            ),
            maximum_concurrent_rpcs=running,
        )
        self._add_handlers(server)
        try:
            bound = tuple(self._bind(server, address) for address in self._addresses)
        except BaseException:
            server.stop(None).wait(STOP_LIMIT_S)
            self._remove_sockets()
            raise
        server.start()
        self._server, self._pool = server, pool
        return bound

    def stop(self, grace_s: float) -> None:
        if self._server is None or self._pool is None:
            return
        deadline = time.monotonic() + grace_s
        self._gate.shut(grace_s)
        streams_s = max(0.0, deadline - time.monotonic())
        self._server.stop(streams_s).wait(streams_s + STOP_LIMIT_S / 2)
        self._pool.stop(STOP_LIMIT_S / 2)
        self._remove_sockets()

    def _add_handlers(self, server: Any) -> None:
        for service, methods in self._services.items():
            handlers = {name: byte_handler(f"/{service}/{name}", method) for name, method in methods.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
            server.add_registered_method_handlers(service, handlers)
        server.add_generic_rpc_handlers((*self._generic_handlers, UnknownMethodHandler()))

    def _bind(self, server: Any, address: ListenAddress) -> ListenAddress:
        if address.path is not None:
            clear_socket_path(address.path)
        credentials = self._options.credentials
        try:
            if credentials is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            reason = why_unbindable(address) or str(error)
            raise UnavailableError(f"cannot listen on {address}: {reason}") from error
        if address.path is not None:
            self._sockets[address.path] = os.lstat(address.path).st_ino
            return address
        return ListenAddress(address.host, port)

    def _remove_sockets(self) -> None:
        for path, inode in self._sockets.items():
            remove_socket(path, inode)
        self._sockets.clear()


class _Gate:
    """Counts the calls inside methods, and refuses new ones once shut.

    A stopping ``grpc.server`` ends calls that arrive on open connections as CANCELLED; clients retry on
    UNAVAILABLE.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False

    def around(self, method: Method) -> Method:
        def gated(request: bytes, context: CallContext) -> bytes:
            with self._changed:
                if self._shut:
                    raise UnavailableError(SHUTTING_DOWN)
                self._inside += 1
            try:
                return method(request, context)
            finally:
                self._leave()

        return gated

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._shut:
                self._changed.notify_all()

    def shut(self, timeout_s: float) -> None:
        """Refuse new calls and wait at most *timeout_s* seconds for those inside."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: not self._inside, timeout_s)
