"""Between the REST API and an ASGI server: what came, and how an answer goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any, TypeAlias
from urllib.parse import quote

from inserve.errors import Code
from inserve.frontends.rest_api.response import Response, error_response
from inserve.frontends.rest_api.route import RequestKey

__all__ = [
    "BodyTooLongError",
    "Receive",
    "Scope",
    "Send",
    "answer_lifespan",
    "key_of_scope",
    "read_body",
    "send_response",
    "unless_disconnected",
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADERS = (b"content-type", b"content-encoding", b"accept", b"origin")
"""In the order of the fields of ``RequestKey``."""


class BodyTooLongError(Exception):
    """The body is longer than it may be."""


def key_of_scope(scope: Scope) -> tuple[RequestKey, str]:
    """Return what decides the route of an ASGI request, and where this application is mounted.

    ``path`` holds the mount point or does not, as servers and frameworks like; ``raw_path`` is the target as
    it came, so that it decides where it is given.
    """
    root_path: str = scope.get("root_path", "").rstrip("/")
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:
        raw_path = quote(scope["path"], safe="/:@!$&'()*+,;=-._~").encode()
    if root_path:
        for prefix in (quote(root_path).encode(), root_path.encode()):
            if raw_path.startswith(prefix + b"/"):
                raw_path = raw_path[len(prefix) :]
                break
    query: bytes = scope.get("query_string", b"")
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            found.setdefault(name, value)
    key = RequestKey(
        scope["method"],
        raw_path + b"?" + query if query else raw_path,
        *(found.get(name, b"") for name in _HEADERS),
    )
    return key, root_path


async def read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body, None if the client has gone.

    Raises:
        BodyTooLongError: It has more than *max_bytes*.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLongError
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def unless_disconnected(answer: Future[Response], receive: Receive) -> Response | None:
    """Return the result of *answer*; cancel it and return None when the client goes first."""
    future = asyncio.wrap_future(answer)
    disconnect = asyncio.ensure_future(receive())
    waited_for: set[asyncio.Future[Any]] = {future, disconnect}
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if future.cancelled():
            return error_response(Code.UNAVAILABLE, "server is shutting down")
        return future.result() if future.done() else None
    finally:
        disconnect.cancel()
        answer.cancel()
        future.cancel()


async def send_response(send: Send, response: Response) -> None:
    """Send the whole of *response*."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", b"%d" % len(response.body)),
        *((name.lower(), value) for name, value in response.headers),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Agree to every start and stop of the server."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
