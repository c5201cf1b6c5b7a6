"""Publishes events to whoever subscribed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["EventBus"]

EventT = TypeVar("EventT")

_logger = logging.getLogger("inserve.lifecycle")


class EventBus(Generic[EventT]):
    """Calls every subscriber with every event, in the order of publication.

    Subscribers are called on the publishing thread, in the order they subscribed. They must be
    quick and must not wait for what the publisher does next. A subscriber that raises is a defect:
    it is logged, and the others are still called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[_Subscription[EventT], ...] = ()

    def subscribe(self, subscriber: Callable[[EventT], None]) -> Callable[[], None]:
        """Call *subscriber* with every event from now on; return the function that ends this.

        Once the returned function is back, no publication that starts later calls *subscriber*.
        """
        entry = _Subscription(subscriber)
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not entry)

        return unsubscribe

    def publish(self, event: EventT) -> None:
        """Call every subscriber with *event*."""
        for subscriber in self._subscribers:
            subscriber(event)


class _Subscription(Generic[EventT]):
    """One call of ``subscribe``, so that the same function may be subscribed twice; never raises."""

    __slots__ = ("_subscriber",)

    def __init__(self, subscriber: Callable[[EventT], None]) -> None:
        self._subscriber = subscriber

    def __call__(self, event: EventT) -> None:
        try:
            self._subscriber(event)
        except Exception:
            _logger.exception("A subscriber failed on %r", event)
