"""What the connections of one server have received in one turn of its event loop, and the requests in it.

Requests are answered one behind the other, not each between two visits to the system, which leave little of
what a processor has learned of this code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from inserve.frontends.rest_api.response import Response
from inserve.frontends.rest_api.route import Route

__all__ = ["Answer", "Receiver", "TurnQueue"]

_MOST_IN_A_TURN = 16
"""So many requests, at the most, are answered before the answers are sent."""

_LONGEST_UNSENT_S = 0.5e-3
"""For so long answers are kept until they are sent together."""

_LARGE_PIECE_BYTES = 64 << 10
"""What is as large as this is not kept until anything else has arrived."""

_LOGGER = logging.getLogger("inserve.rest")

Answer: TypeAlias = "Response | Future[Response]"


class Receiver(Protocol):
    """What is needed of a connection; called on the event loop."""

    def read(self, data: bytes) -> None:
        """Take in what has arrived."""
        ...

    def take(self, answer: Answer) -> None:
        """Take the answer to the request that was submitted."""
        ...

    def abort(self) -> None:
        """End the connection at once."""
        ...


class TurnQueue:
    """Collects until the loop has asked the system for all that is there; lives on *loop*.

    *begin* gets the route and the body of a request, and never raises.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[Route, bytes], Answer],
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._arrivals: list[tuple[Receiver, bytes]] = []
        self._requests: list[tuple[Receiver, Route, bytes]] = []
        self._is_scheduled = False

    def arrived(self, receiver: Receiver, data: bytes, is_only: bool = False) -> None:
        """Have *receiver* read *data* in its turn, which is now if it is the only one there is."""
        self._arrivals.append((receiver, data))
        if is_only or len(data) >= _LARGE_PIECE_BYTES:
            self.drain()
        elif not self._is_scheduled:
            self._schedule()

    def submit(self, receiver: Receiver, route: Route, body: bytes) -> None:
        """Have *receiver* take the answer to a request, of which each has one at a time."""
        self._requests.append((receiver, route, body))
        if not self._is_scheduled:
            self._schedule()

    def drain(self) -> None:
        """Let everything that has arrived be read, and answered."""
        is_scheduled, self._is_scheduled = self._is_scheduled, True
        while self._arrivals or self._requests:
            self._work()
        self._is_scheduled = is_scheduled

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._work()
        self._is_scheduled = False
        if self._arrivals or self._requests:
            self._schedule()

    def _work(self) -> None:
        arrivals, self._arrivals = self._arrivals[:_MOST_IN_A_TURN], self._arrivals[_MOST_IN_A_TURN:]
        for receiver, data in arrivals:
            self._have_read(receiver, data)
        requests, self._requests = self._requests, []
        answers = []
        until = self._loop.time() + _LONGEST_UNSENT_S
        for receiver, route, body in requests:
            answers.append((receiver, self._begin(route, body)))
            if self._loop.time() > until:
                break
        self._requests = requests[len(answers) :]
        for receiver, answer in answers:
            self._have_taken(receiver, answer)

    # One connection fails, not the others.

    def _have_read(self, receiver: Receiver, data: bytes) -> None:
        try:
            receiver.read(data)
        except Exception:
            _LOGGER.exception("A connection has failed")
            receiver.abort()

    def _have_taken(self, receiver: Receiver, answer: Answer) -> None:
        try:
            receiver.take(answer)
        except Exception:
            _LOGGER.exception("A connection has failed")
            receiver.abort()
