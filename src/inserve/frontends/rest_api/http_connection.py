"""One HTTP/1.1 connection: requests in, one after another, answers out in the same order.

A request that takes long runs elsewhere meanwhile; the next one of the connection waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
from concurrent.futures import CancelledError, Future
from typing import cast

from inserve.errors import Code
from inserve.frontends.rest_api.chunked_body import ChunkedBody, MalformedChunkError, TooLargeError
from inserve.frontends.rest_api.http_front import CLOSE, HttpFront, KnownRequest, busy_response
from inserve.frontends.rest_api.request_head import BadRequestError
from inserve.frontends.rest_api.response import Response, error_response, html_page
from inserve.frontends.rest_api.turn_queue import Answer

__all__ = ["HttpConnection"]

_match_empty_lines = re.compile(rb"(?:\r\n)+").match

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_MAX_READ_AHEAD = 64 << 10
"""What a client may send beyond the request that is running before its next bytes are left unread."""

_SMALL_PIECE_BYTES = 4096

_JOINED_BYTES = 64 << 10
"""Up to this the head of an answer and its body are sent as one piece."""

_MAX_DISCARDED_BYTES = 16 << 20
_DISCARD_S = 2.0
_SLOWEST_BYTES_PER_S = 1024
_SPARE_CONNECTIONS = 128


class _State(enum.Enum):
    HEAD = enum.auto()
    """Nothing of a request has come, or a part of its head."""
    BODY = enum.auto()
    CHUNKS = enum.auto()
    WAITING = enum.auto()
    """A request is complete and waits for its turn."""
    RUNNING = enum.auto()
    """A request runs elsewhere, or its answer is not taken from us."""
    DISCARDING = enum.auto()
    """The last answer is written. What the client still sends is thrown away until it stops: closing
    with unread bytes would make the system take the answer back."""


# Finding a member in its class takes longer than all that is decided by it.
_HEAD, _BODY, _CHUNKS, _WAITING, _RUNNING, _DISCARDING = _State


class HttpConnection(asyncio.Protocol):
    """Reads requests, has *front* answer them; lives on the event loop."""

    def __init__(self, front: HttpFront) -> None:
        self._front = front
        self._turns = front.turns
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._state = _HEAD
        self._buffer = b""
        self._request: KnownRequest | None = None
        self._pieces: list[bytes | bytearray] = []
        self._missing = 0
        self._chunks: ChunkedBody | None = None
        self._future: Future[Response] | None = None
        self._since = front.now
        """When the present state, or the wait for the first byte of a request, began."""
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._is_last = False
        """Whether the connection ends with the answer to the present request."""
        self._has_ended = False
        """Whether the client will send no more."""
        self._unwritten = (0, front.now)
        """Bytes in the transport's buffer when last looked at, and since when there are as many."""

    # --- called by the event loop -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        front = self._front
        too_many = len(front.connections) - front.limits.max_connections
        if too_many >= _SPARE_CONNECTIONS or front.is_stopping:
            self._transport.abort()
            return
        front.connections.add(self)
        if too_many >= 0:
            self._fail(busy_response())

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._future is not None:
            self._future.cancel()
        self._state = _DISCARDING
        self._front.discard(self)

    def data_received(self, data: bytes) -> None:
        self._turns.arrived(self, data, len(self._front.connections) == 1)

    def eof_received(self) -> bool:
        self._turns.drain()
        self._has_ended = True
        if self._state is not _RUNNING:
            return False
        # The client is gone, or has only finished writing. The system of one that is gone answers this
        # with a reset, and then its request need not run.
        if self._request is not None and not self._request.head.is_http_1_0 and not self._is_writing_paused:
            self._transport.write(_CONTINUE)
        return True

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._state is _RUNNING and self._future is None:
            self._go_on()

    # --- called by the front ----------------------------------------------------------------------

    def read(self, data: bytes) -> None:
        """Take in what has arrived."""
        state = self._state
        if state is _HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            else:
                self._since = self._front.now
            self._read_request(data)
        elif state is _BODY:
            self._add_piece(data)
            self._missing -= len(data)
            if self._missing <= 0:
                data = b"".join(self._pieces)
                stop = len(data) + self._missing
                self._pieces, self._missing = [], 0
                self._hand_over(data[:stop], data[stop:])
        elif state is _CHUNKS:
            self._read_chunks(data)
        elif state is _DISCARDING:
            self._missing += len(data)
            if self._missing > _MAX_DISCARDED_BYTES:
                self._transport.abort()
        else:
            self._buffer += data
            if len(self._buffer) > _MAX_READ_AHEAD:
                self._pause_reading()

    def take(self, answer: Answer) -> None:
        """Send an answer, or await it."""
        if self._state is not _WAITING:
            return  # the client is gone
        self._state = _RUNNING
        if type(answer) is Response:
            self._finish_request(answer)
        else:
            assert isinstance(answer, Future)
            self._future = answer
            answer.add_done_callback(self._tell_loop)

    def check_time(self, now: float) -> None:
        """End the connection if its client has had its time."""
        limits = self._front.limits
        unwritten = self._transport.get_write_buffer_size()
        if unwritten != self._unwritten[0]:
            self._unwritten = (unwritten, now)
        elif unwritten and now - self._unwritten[1] >= limits.write_timeout_s:
            self._transport.abort()
            return
        waited_s = now - self._since
        state = self._state
        if state is _HEAD:
            if self._buffer:
                if waited_s >= limits.request_timeout_s:
                    self._fail(_took_too_long())
            elif waited_s >= limits.idle_timeout_s and not unwritten:
                self._transport.close()
        elif state in (_BODY, _CHUNKS):
            if waited_s >= limits.request_timeout_s + self._received_bytes() / _SLOWEST_BYTES_PER_S:
                self._fail(_took_too_long())
        elif state is _DISCARDING and waited_s >= _DISCARD_S and not unwritten:
            self._transport.abort()

    def finish(self) -> None:
        """End the connection once what it is at has been answered."""
        self._is_last = True
        if self._state is _HEAD and not self._buffer:
            self._transport.close()

    def refuse(self) -> None:
        """Answer what is running with 503 and end the connection."""
        future, self._future = self._future, None
        if future is not None:
            future.cancel()
            self._fail(_shutting_down())
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    # --- reading ----------------------------------------------------------------------------------

    def _read_request(self, data: bytes) -> None:
        """Hand over the request that *data* starts with, or keep what there is of it."""
        front = self._front
        end = data.find(b"\r\n\r\n") + 4
        request = front.known.get(data[:end])
        if request is None:
            empty_lines = _match_empty_lines(data)
            if empty_lines:  # in front of a request they mean nothing
                data = data[empty_lines.end() :]
                end = data.find(b"\r\n\r\n") + 4
            is_whole = end > 3
            if (end if is_whole else len(data)) > front.limits.max_head_bytes:
                self._fail(_head_too_long())
                return
            if not is_whole:
                self._buffer = data
                return
            try:
                request = front.known.get(data[:end]) or front.understand(data[:end])
            except BadRequestError as error:
                self._fail(error.response)
                return
        self._request = request
        head = request.head
        if head.is_chunked:
            self._chunks = ChunkedBody(front.max_body_bytes)
            self._await_body(_CHUNKS)
            self._read_chunks(data[end:])
            return
        if head.content_length > front.max_body_bytes:
            self._fail(front.too_large())
            return
        stop = end + head.content_length
        if stop > len(data):
            self._pieces = [data[end:]]
            self._missing = stop - len(data)
            self._await_body(_BODY)
            return
        self._hand_over(data[end:stop], data[stop:])

    def _hand_over(self, body: bytes, beyond: bytes) -> None:
        """Have the request, which is complete with *body*, answered in its turn; keep what is *beyond* it."""
        assert self._request is not None
        self._state = _WAITING
        self._buffer = beyond
        self._turns.submit(self, self._request.route, body)

    def _add_piece(self, data: bytes) -> None:
        """Keep a piece of a body; small ones are put together, so that they take no more than they hold."""
        pieces = self._pieces
        if len(data) >= _SMALL_PIECE_BYTES:
            pieces.append(data)
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += data
        else:
            pieces.append(bytearray(data))

    def _await_body(self, state: _State) -> None:
        self._state = state
        self._since = self._front.now
        if self._request is not None and self._request.head.expects_continue:
            self._transport.write(_CONTINUE)

    def _read_chunks(self, data: bytes) -> None:
        """Take more of a chunked body."""
        assert self._chunks is not None
        try:
            rest = self._chunks.feed(data)
        except MalformedChunkError:
            self._fail(html_page(413, Code.INVALID_ARGUMENT))
            return
        except TooLargeError:
            self._fail(self._front.too_large())
            return
        if rest is not None:
            body, self._chunks = self._chunks.content(), None
            self._hand_over(body, rest)

    def _received_bytes(self) -> int:
        if self._chunks is not None:
            return self._chunks.received_bytes()
        return 0 if self._request is None else self._request.head.content_length - self._missing

    def _pause_reading(self) -> None:
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # --- answering --------------------------------------------------------------------------------

    def _tell_loop(self, future: Future[Response]) -> None:
        """Have the loop write the result of *future*; called on the thread that ran it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            self._front.loop.call_soon_threadsafe(self._end_run, future)

    def _end_run(self, future: Future[Response]) -> None:
        if future is not self._future or self._transport.is_closing():
            return
        self._future = None
        try:
            response = future.result()
        except CancelledError:
            response = _shutting_down()
        self._finish_request(response)

    def _go_on(self) -> None:
        """Read what has come while a request was running, or an answer waited to be sent."""
        self._state = _HEAD
        self._since = self._front.now
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._read_request(data)
        if self._has_ended and self._state not in (_WAITING, _RUNNING):
            self._transport.close()

    def _finish_request(self, response: Response) -> None:
        """Send *response*, and go on to the next request where there is one and the client takes answers."""
        request = self._request
        assert request is not None
        if self._is_last or request.is_last:
            self._send(self._front.head_of(response, CLOSE), response.body)
            self._end()
            return
        self._send(self._front.head_of(response, request.connection), response.body)
        if self._buffer or self._is_reading_paused or self._has_ended or self._is_writing_paused:
            if not self._is_writing_paused:
                self._go_on()
        else:
            self._state = _HEAD
            self._since = self._front.now

    def _send(self, head: bytes, body: bytes) -> None:
        if len(body) <= _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def _fail(self, response: Response) -> None:
        """Send *response* as the last one: what the client sends further cannot be understood."""
        self._send(self._front.head_of(response, CLOSE), response.body)
        self._end()

    def _end(self) -> None:
        self._buffer = b""
        self._pieces = []
        self._chunks = None
        self._missing = 0
        if self._has_ended or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._state = _DISCARDING
        self._since = self._front.now
        self._transport.write_eof()
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()


def _head_too_long() -> Response:
    return error_response(Code.INVALID_ARGUMENT, "the head of the request is too long", status=431)


def _took_too_long() -> Response:
    return error_response(Code.DEADLINE_EXCEEDED, "the request took too long to arrive", status=408)


def _shutting_down() -> Response:
    return error_response(Code.UNAVAILABLE, "server is shutting down")
