"""The HTTP server that carries the REST API: sockets, one event loop on one thread, start and stop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import socket
import threading
from collections.abc import Sequence

from inserve.errors import UnavailableError
from inserve.frontends.rest_api.app import RestApp
from inserve.frontends.rest_api.http_connection import HttpConnection
from inserve.frontends.rest_api.http_front import HttpFront, HttpLimits
from inserve.frontends.rest_api.listen_sockets import BACKLOG, bind_address, check_address

__all__ = ["RestServer"]

_TICK_S = 1.0
_FLUSH_S = 1.0
"""How long answers that are written may take to leave when the server stops."""

_LOGGER = logging.getLogger("inserve.rest")


class RestServer:
    """Serves *app* on *addresses* (``host:port``; port 0 takes a free one) over HTTP/1.1.

    Constructing does nothing; ``start`` and ``stop`` may be called from any thread, install no signal
    handlers, and a server that is still running when the interpreter exits is stopped then. With
    *reuse_port* other processes may listen on the same ports.
    """

    def __init__(
        self,
        app: RestApp,
        addresses: Sequence[str],
        limits: HttpLimits | None = None,
        reuse_port: bool = False,
    ) -> None:
        if not addresses:
            raise ValueError("expected at least one address to listen on")
        self._requested = tuple(check_address(address) for address in addresses)
        self._app = app
        self._limits = limits or HttpLimits()
        self._reuse_port = reuse_port
        self._lock = threading.Lock()
        self._bound: tuple[tuple[str, int], ...] = ()
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop_asked: asyncio.Event | None = None
        self._grace_s = 0.0
        self._is_over = False
        self._failure: Exception | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses, in the order asked for; empty before ``start``."""
        return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._bound)

    @property
    def port(self) -> int | None:
        """The port of the first address once started, else None."""
        return self._bound[0][1] if self._bound else None

    def start(self) -> None:
        """Bind every address and serve.

        Raises:
            UnavailableError: An address is taken or cannot be bound; the text names it.
            RuntimeError: The server was started before.
        """
        with self._lock:
            if self._thread is not None or self._is_over:
                raise RuntimeError("a REST server starts once; make a new one to serve again")
            bound = []
            try:
                for host, port in self._requested:
                    sockets = bind_address(host, port, self._reuse_port)
                    self._sockets += sockets
                    bound.append((host, sockets[0].getsockname()[1]))
            except BaseException:
                self._is_over = True
                self._close_sockets()
                raise
            self._bound = tuple(bound)
            self._loop = _new_event_loop()
            is_ready = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._loop, is_ready), name="inserve-rest", daemon=True
            )
            self._thread.start()
            is_ready.wait()
            if self._failure is not None:
                self._is_over = True
                self._thread.join()
                raise UnavailableError(f"the REST server cannot serve: {self._failure}") from self._failure
            atexit.register(self.stop)

    def stop(self, grace_s: float = 0.0) -> None:
        """Take no more connections, let running requests end for *grace_s* seconds, refuse the rest.

        Returns when the thread has ended and the sockets are gone, at most a few seconds after the grace
        period. Further calls wait for the first and then do nothing.
        """
        if grace_s < 0:
            raise ValueError(f"grace_s is {grace_s}, expected at least 0")
        with self._lock:
            if not self._is_over and self._loop is not None and self._thread is not None:
                self._grace_s = grace_s
                with contextlib.suppress(RuntimeError):  # the loop has failed and is closed
                    self._loop.call_soon_threadsafe(self._ask_to_stop)
                self._thread.join()
                atexit.unregister(self.stop)
            self._is_over = True

    def _ask_to_stop(self) -> None:
        if self._stop_asked is not None:
            self._stop_asked.set()

    def _run(self, loop: asyncio.AbstractEventLoop, is_ready: threading.Event) -> None:
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._serve(loop, is_ready))
        except Exception as error:
            self._failure = error
            _LOGGER.exception("The REST server has failed")
        finally:
            is_ready.set()
            self._close_sockets()
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop, is_ready: threading.Event) -> None:
        self._stop_asked = asyncio.Event()
        front = HttpFront(self._app, self._limits, loop)
        servers = [
            await loop.create_server(lambda: HttpConnection(front), sock=listener, backlog=BACKLOG)
            for listener in self._sockets
        ]
        is_ready.set()
        ticking = loop.create_task(_tick(front))
        try:
            await self._stop_asked.wait()
            await self._finish(front, servers)
        finally:
            ticking.cancel()
            for server in servers:
                server.close()
            for connection in tuple(front.connections):
                connection.abort()
            await asyncio.sleep(0)

    async def _finish(self, front: HttpFront, servers: Sequence[asyncio.AbstractServer]) -> None:
        """Take no more connections, let what is running end, then refuse what is left."""
        front.is_stopping = True
        for server in servers:
            server.close()
        # A connection that was just accepted is told so in the next turn of the loop, and then ended:
        # uvloop waits, when it is closed, for each that is open.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        front.turns.drain()
        for connection in tuple(front.connections):
            connection.finish()
        await _until_all_gone(front, self._grace_s)
        for connection in tuple(front.connections):
            connection.refuse()
        await _until_all_gone(front, _FLUSH_S)

    def _close_sockets(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._sockets = []


async def _tick(front: HttpFront) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        front.tick()


async def _until_all_gone(front: HttpFront, timeout_s: float) -> None:
    front.all_gone.clear()
    if front.connections:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(front.all_gone.wait(), timeout_s)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
