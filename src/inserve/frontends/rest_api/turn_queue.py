"""What the connections of one server have received in one turn of its event loop, and the requests in it.

Requests are answered one behind the other, not each between two visits to the system, which leave little of
what a processor has learned of this code.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from inserve.frontends.rest_api.response import Response
from inserve.frontends.rest_api.route import LONGEST_UNSENT_S, Route

__all__ = ["Answer", "Receiver", "TurnQueue"]

_MOST_IN_A_TURN = 16
"""So many requests, at the most, are answered before the answers are sent."""

_LINGER_S = 20e-6
_LONGEST_GAP_S = 200e-6
"""A lone client that has its answer often asks again at once, and falling asleep and waking up takes longer
than its next request. If the last one came so soon after an answer, the loop stays awake for a moment."""

_MOST_GATHERS = 3
"""After requests that were answered together the loop asks the system again, at most so often, until their
connections have the next ones there: in one run each costs less than half."""

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

    *begin* gets the route and the body of a request, *begin_together* those of all that have come in a turn,
    and returns None for each that *begin* shall answer; neither raises. *now* is the time in seconds; that of
    the loop stands still within a turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[Route, bytes], Answer],
        begin_together: Callable[[Sequence[tuple[Route, bytes]]], Sequence[Answer | None]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._begin_together = begin_together
        self._now = now
        self._arrivals: list[tuple[Receiver, bytes]] = []
        self._requests: list[tuple[Receiver, Route, bytes]] = []
        self._is_scheduled = False
        self._is_lingering = False
        self._ended = -math.inf
        """When the last answers were sent, to the only receiver or together."""
        self._company: frozenset[Receiver] = frozenset()
        """Who was answered together in the last turn, and may soon be back."""
        self._num_gathers = 0

    def arrived(self, receiver: Receiver, data: bytes, is_only: bool = False) -> None:
        """Have *receiver* read *data* in its turn, which is now if it is the only one there is."""
        self._arrivals.append((receiver, data))
        if is_only:
            gap_s = self._now() - self._ended
            self.drain()
            self._ended = self._now()
            if gap_s < _LONGEST_GAP_S and not self._is_lingering:
                self._is_lingering = True
                self._loop.call_soon(self._linger)
        elif len(data) >= _LARGE_PIECE_BYTES:
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
        if self._company and self._is_worth_gathering():
            self._num_gathers += 1
            self._loop.call_soon(self._turn)
            return
        self._num_gathers = 0
        self._work()
        self._is_scheduled = False
        if self._arrivals or self._requests:
            self._schedule()

    def _is_worth_gathering(self) -> bool:
        """Return whether some of those who were answered together are likely to be back in a moment."""
        if self._num_gathers == _MOST_GATHERS or self._now() - self._ended > _LONGEST_GAP_S:
            return False
        there = {receiver for receiver, _ in self._arrivals}
        return len(there) < _MOST_IN_A_TURN and not self._company <= there

    def _linger(self) -> None:
        """Have the loop ask the system again at once, instead of going to sleep."""
        if self._now() - self._ended < _LINGER_S:
            self._loop.call_soon(self._linger)
        else:
            self._is_lingering = False

    def _work(self) -> None:
        arrivals, self._arrivals = self._arrivals[:_MOST_IN_A_TURN], self._arrivals[_MOST_IN_A_TURN:]
        for receiver, data in arrivals:
            try:
                receiver.read(data)
            except Exception:  # noqa: PERF203 - one connection fails, not the others
                _fail(receiver)
        requests, self._requests = self._requests, []
        until = self._now() + LONGEST_UNSENT_S
        together: Sequence[Answer | None] = ()
        if len(requests) > 1:
            together = self._begin_together([request[1:] for request in requests])
        is_together = len(requests) > 1
        answers: list[tuple[Receiver, Answer]] = []
        for number, (receiver, route, body) in enumerate(requests):
            answer = together[number] if together else None
            if answer is None:
                is_together = False
                if answers and self._now() > until:
                    self._requests.append((receiver, route, body))
                    continue
                answer = self._begin(route, body)
            answers.append((receiver, answer))
        for receiver, answer in answers:
            try:
                receiver.take(answer)
            except Exception:  # noqa: PERF203 - one connection fails, not the others
                _fail(receiver)
        if is_together:
            self._company = frozenset(receiver for receiver, _ in answers)
            self._ended = self._now()
        else:
            self._company = frozenset()


def _fail(receiver: Receiver) -> None:
    _LOGGER.exception("A connection has failed")
    receiver.abort()
