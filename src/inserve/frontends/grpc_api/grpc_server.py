"""The gRPC server of a ``MethodTable``: chooses a transport, starts it, stops it."""

from __future__ import annotations

import atexit
import importlib.util
import threading
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import grpc

from inserve.errors import UnavailableError
from inserve.frontends.grpc_api.grpcio_transport import GrpcioTransport
from inserve.frontends.grpc_api.listen_address import ListenAddress, parse_address
from inserve.frontends.grpc_api.method import MethodTable, TogetherTable
from inserve.frontends.grpc_api.transport import Transport, TransportOptions

__all__ = ["GrpcServer", "TransportName"]

TransportName: TypeAlias = Literal["auto", "native", "grpcio"]
"""``auto`` is ``native`` where ``pygrpc_native`` is installed and the options allow it, else ``grpcio``."""


class GrpcServer:
    """Serves *methods* on *addresses* (``host:port``, ``unix:path``; port 0 takes a free one).

    *together* has those of *methods* that also take several calls at once, for transports that receive
    several. *generic_handlers* carry what is not bytes in, bytes out, such as streaming methods. Constructing
    does nothing; ``start`` and ``stop`` may be called from any thread, install no signal handlers, and a
    server that is still running when the interpreter exits is stopped then.
    """

    def __init__(
        self,
        methods: MethodTable,
        addresses: Sequence[str],
        *,
        transport: TransportName = "auto",
        options: TransportOptions | None = None,
        generic_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
        together: TogetherTable | None = None,
    ) -> None:
        if transport not in get_args(TransportName):
            raise ValueError(f"transport is {transport!r}, expected 'auto', 'native' or 'grpcio'")
        if not addresses:
            raise ValueError("expected at least one address to listen on")
        self._requested = tuple(parse_address(address) for address in addresses)
        self._transport = _make_transport(
            transport,
            methods,
            self._requested,
            options or TransportOptions(),
            generic_handlers,
            together or {},
        )
        self._lock = threading.Lock()
        self._bound: tuple[ListenAddress, ...] = ()
        self._started = False
        self._stopped = False

    @property
    def transport(self) -> str:
        """The transport in use: ``native`` or ``grpcio``."""
        return self._transport.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses, in the order asked for; empty before ``start``."""
        return tuple(str(address) for address in self._bound)

    @property
    def port(self) -> int | None:
        """The port of the first TCP address once started, else None."""
        return next((address.port for address in self._bound if address.path is None), None)

    def start(self) -> None:
        """Bind every address and serve.

        Raises:
            UnavailableError: an address is taken or cannot be bound; the text names it.
            RuntimeError: the server was started before.
        """
        with self._lock:
            if self._started or self._stopped:
                raise RuntimeError("a gRPC server starts once; make a new one to serve again")
            self._started = True
            try:
                self._bound = self._transport.start()
            except BaseException:
                self._stopped = True
                raise
            atexit.register(self.stop)

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls with UNAVAILABLE, let running ones end for *grace_s* seconds, cancel the rest.

        Returns when all threads have ended and sockets are gone, at most a few seconds after the
        grace period. Further calls wait for the first and then do nothing.
        """
        if grace_s < 0:
            raise ValueError(f"grace_s is {grace_s}, expected at least 0")
        with self._lock:
            if self._started and not self._stopped:
                self._transport.stop(grace_s)
                atexit.unregister(self.stop)
            self._stopped = True


def _make_transport(
    name: TransportName,
    methods: MethodTable,
    addresses: tuple[ListenAddress, ...],
    options: TransportOptions,
    generic_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]],
    together: TogetherTable,
) -> Transport:
    if name != "grpcio":
        reason = _why_not_native(options)
        if reason is None:
            from inserve.frontends.grpc_api.native_transport import NativeTransport

            return NativeTransport(methods, addresses, options, generic_handlers, together)
        if name == "native":
            raise UnavailableError(f"the native gRPC transport cannot be used: {reason}")
    return GrpcioTransport(methods, addresses, options, generic_handlers)


def _why_not_native(options: TransportOptions) -> str | None:
    if options.credentials is not None:
        return "it has no TLS"
    if importlib.util.find_spec("pygrpc_native") is None:
        return "the package pygrpc-native is not installed"
    from inserve.frontends.grpc_api.native_transport import NATIVE_CHANNEL_ARGUMENTS

    for argument, value in options.channel_arguments:
        if argument not in NATIVE_CHANNEL_ARGUMENTS or not isinstance(value, int) or value < 1:
            return f"it does not know the channel argument {argument}={value}"
    return None
