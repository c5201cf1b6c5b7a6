"""What the connections of one HTTP server share: the application, limits, clock, and remembered requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol

from inserve.errors import Code
from inserve.frontends.rest_api.app import RestApp
from inserve.frontends.rest_api.request_head import RequestHead, parse_head
from inserve.frontends.rest_api.response import Response, error_response
from inserve.frontends.rest_api.route import RequestKey, Route
from inserve.frontends.rest_api.status_codes import reason_phrase
from inserve.frontends.rest_api.turn_queue import Receiver, TurnQueue

__all__ = ["CLOSE", "Connection", "HttpFront", "HttpLimits", "KnownRequest", "busy_response"]

CLOSE = b"Connection: close\r\n"
"""The line of an answer that is the last of its connection."""

_KEEP_ALIVE = b"Connection: keep-alive\r\n"

_MAX_KNOWN_HEADS = 1024
_LONGEST_KNOWN_HEAD = 2048
_MAX_PREFIXES = 256


@dataclass(frozen=True)
class HttpLimits:
    """What one HTTP server puts up with. Durations are seconds.

    Raises:
        ValueError: A value is out of its range.
    """

    max_connections: int = 4096
    """More are answered with 503 and closed."""
    max_head_bytes: int = 64 << 10
    """Request line and headers of one request."""
    request_timeout_s: float = 30.0
    """How long the head of a request may take, and its body beyond one second for each KiB that came."""
    idle_timeout_s: float = 75.0
    """How long a connection stays open without a request."""
    write_timeout_s: float = 30.0
    """How long a client may take no byte of its answer."""

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_head_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("request_timeout_s", "idle_timeout_s", "write_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")


class Connection(Receiver, Protocol):
    """What the server needs of a connection; called on its event loop."""

    def check_time(self, now: float) -> None:
        """End the connection if its client has had its time; *now* is monotonic seconds."""
        ...

    def finish(self) -> None:
        """End the connection once what it is at has been answered."""
        ...

    def refuse(self) -> None:
        """Answer what is running with 503 and end the connection."""
        ...


class KnownRequest:
    """What the *head* of a request says, and the *route* that answers it."""

    __slots__ = ("connection", "head", "is_last", "route")

    def __init__(self, head: RequestHead, route: Route) -> None:
        self.head = head
        self.route = route
        # As libevent does, HEAD is answered with a body; nothing that follows can be taken for it.
        self.is_last = not head.keep_alive or head.method == "HEAD"
        """Whether the connection ends with the answer."""
        self.connection = CLOSE if self.is_last else _KEEP_ALIVE if head.is_http_1_0 else b""
        """The line about the connection in the answer, perhaps empty."""


class HttpFront:
    """The shared part of the connections of one server; used on its event loop only.

    Clients repeat themselves: the heads of recent requests are remembered with what they mean, so that a
    repeated one costs a look into a dictionary.
    """

    def __init__(self, app: RestApp, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.loop = loop
        self.turns = TurnQueue(loop, app.begin, app.begin_together)
        self.too_large = app.too_large
        self.max_body_bytes = app.options.max_body_bytes
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self.now = loop.time()
        """Monotonic seconds, as of the last ``tick``."""
        self.all_gone = asyncio.Event()
        """Set when the last connection ends."""
        self._app = app
        self.known: dict[bytes, KnownRequest] = {}
        """Recent heads, all their bytes, and what they mean; ``understand`` knows the others."""
        self._prefixes: dict[tuple[int, bytes, tuple[tuple[bytes, bytes], ...], bytes], bytes] = {}
        self._date = b""
        self.tick()

    def tick(self) -> None:
        """Look at the clock, and end what has taken too long; called every second."""
        self.turns.drain()
        self.now = self.loop.time()
        self._date = f"Date: {formatdate(usegmt=True)}\r\nContent-Length: ".encode()
        for connection in tuple(self.connections):
            connection.check_time(self.now)

    def understand(self, data: bytes) -> KnownRequest:
        """Return what the bytes of a head mean, and remember it.

        Raises:
            BadRequestError: They are malformed.
        """
        head = parse_head(data)
        key = RequestKey(
            head.method, head.target, head.content_type, head.content_encoding, head.accept, head.origin
        )
        request = KnownRequest(head, self._app.route(key))
        if len(data) <= _LONGEST_KNOWN_HEAD:
            if len(self.known) >= _MAX_KNOWN_HEADS:
                self.known.clear()
            self.known[data] = request
        return request

    def head_of(self, response: Response, connection: bytes) -> bytes:
        """Return status line and headers; *connection* is the line about the connection, perhaps empty."""
        key = (response.status, response.content_type, response.headers, connection)
        prefix = self._prefixes.get(key)
        if prefix is None:
            if len(self._prefixes) >= _MAX_PREFIXES:
                self._prefixes.clear()
            lines = [
                f"HTTP/1.1 {response.status} {reason_phrase(response.status)}\r\n".encode(),
                b"Content-Type: " + response.content_type + b"\r\n",
                *(name + b": " + value + b"\r\n" for name, value in response.headers),
                connection,
            ]
            prefix = self._prefixes[key] = b"".join(lines)
        return b"%b%b%d\r\n\r\n" % (prefix, self._date, len(response.body))

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self.all_gone.set()


def busy_response() -> Response:
    """Return what a connection too many gets."""
    return error_response(Code.UNAVAILABLE, "too many connections")
