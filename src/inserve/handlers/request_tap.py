"""Where requests that were answered can be listened to: recording and logging of live traffic.

Nobody listens as a rule; a handler then pays one look at an empty tuple.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from inserve.lifecycle.servable_id import ServableId

__all__ = ["LogType", "RequestListener", "RequestTap", "ServedRequest"]

_LOGGER = logging.getLogger("inserve.request_tap")


class LogType(enum.IntEnum):
    """What was asked; the numbers are the fields of ``tensorflow.serving.PredictionLog``."""

    CLASSIFY = 2
    REGRESS = 3
    MULTI_INFERENCE = 4
    PREDICT = 6


class ServedRequest(NamedTuple):
    """A request that was answered without an error.

    *request* and *response* return the serialized messages; what came or goes as arrays is
    serialized by the call. They may be called only until the listener returns.
    """

    log_type: LogType
    id: ServableId
    """Who answered."""
    request: Callable[[], bytes]
    response: Callable[[], bytes]


class RequestListener(Protocol):
    """Hears of requests, on the threads that serve them, by many at once."""

    def hear(self, served: ServedRequest) -> None:
        """Take what is wanted of *served*, quickly: the answer waits for the return."""
        ...


class RequestTap:
    """The listeners of one server; any thread may call any method.

    ``listeners`` is for handlers: they call ``tell`` only where it is not empty.
    """

    def __init__(self) -> None:
        self.listeners: tuple[RequestListener, ...] = ()
        self._lock = threading.Lock()

    def add(self, listener: RequestListener) -> None:
        """Let *listener* hear of requests from now on."""
        with self._lock:
            self.listeners = (*self.listeners, listener)

    def remove(self, listener: RequestListener) -> None:
        """Let it hear of no more; of requests being answered now it may still. More calls do nothing."""
        with self._lock:
            self.listeners = tuple(other for other in self.listeners if other is not listener)

    def tell(
        self,
        log_type: LogType,
        servable_id: ServableId,
        request: Callable[[], bytes],
        response: Callable[[], bytes],
    ) -> None:
        """Tell every listener; one that raises is logged, and no request fails over it."""
        served = ServedRequest(log_type, servable_id, request, response)
        for listener in self.listeners:
            _tell_one(listener, served)


def _tell_one(listener: RequestListener, served: ServedRequest) -> None:
    try:
        listener.hear(served)
    except Exception:
        _LOGGER.exception("%r failed; the request is answered all the same", listener)
