"""What in-process channels call: the methods of one server and the pool for long calls."""

from __future__ import annotations

import threading
from typing import Protocol

from inserve.errors import Code
from inserve.frontends.grpc_api.deadline_watch import DeadlineWatch
from inserve.frontends.grpc_api.method import MethodTable
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN, STOP_LIMIT_S, TransportOptions
from inserve.frontends.grpc_api.worker_pool import WorkerPool

__all__ = ["InprocessTarget", "PendingCall", "checked_metadata"]

Metadata = tuple[tuple[str, str | bytes], ...]


class PendingCall(Protocol):
    """A call that has not ended; its channel, its deadline or its server may end it."""

    def end(self, code: Code, message: str) -> None:
        """End the call with *code*, from any thread, unless it has ended."""
        ...


class InprocessTarget:
    """Shared by any number of channels, from any thread.

    ``stopped`` is read on every call; ``stop`` sets it. Only *max_workers* and *max_queued* of *options*
    matter here. Threads start with the first long call that needs one.
    """

    def __init__(self, methods: MethodTable, options: TransportOptions | None = None) -> None:
        options = options or TransportOptions()
        self.methods = methods
        self.pool = WorkerPool("inserve-grpc-inprocess", options.max_workers, options.max_queued)
        self.deadlines = DeadlineWatch("inserve-grpc-inprocess-deadlines")
        self.stopped = False
        self._lock = threading.Condition()
        self._pending: set[PendingCall] = set()

    def add(self, call: PendingCall) -> None:
        """Let ``stop`` know of *call* until ``discard``."""
        with self._lock:
            self._pending.add(call)
            stopped = self.stopped
        if stopped:
            call.end(Code.UNAVAILABLE, SHUTTING_DOWN)

    def discard(self, call: PendingCall) -> None:
        with self._lock:
            self._pending.discard(call)
            if self.stopped:
                self._lock.notify_all()

    def stop(self, grace_s: float = 0.0) -> None:
        """Answer new calls UNAVAILABLE, let long ones end for *grace_s* seconds, then end them so too.

        Returns at most a few seconds after the grace period; may be called again.
        """
        with self._lock:
            self.stopped = True
            self._lock.wait_for(lambda: not self._pending, grace_s)
            pending = list(self._pending)
        for call in pending:
            call.end(Code.UNAVAILABLE, SHUTTING_DOWN)
        self.pool.stop(STOP_LIMIT_S / 2)
        self.deadlines.stop(STOP_LIMIT_S / 4)


def checked_metadata(metadata: object) -> Metadata:
    """Return the metadata a caller gave (pairs, or None) as a method sees it.

    Raises:
        ValueError: a pair is not what gRPC can carry, as grpcio raises it.
    """
    if metadata is None:
        return ()
    try:
        return tuple([_checked_pair(key, value) for key, value in metadata])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"metadata was invalid: {metadata}") from None


def _checked_pair(key: str, value: str | bytes) -> tuple[str, str | bytes]:
    """Return the pair as it would arrive: bytes for ``-bin`` keys, text for all others."""
    if not key or key != key.lower() or not key.isascii() or any(c.isspace() for c in key):
        raise ValueError(key)
    if key.endswith("-bin"):
        return key, value if isinstance(value, bytes) else value.encode("utf-8")
    text = value.decode("ascii") if isinstance(value, bytes) else value
    if not (text.isascii() and (text.isprintable() or not text)):
        raise ValueError(key)
    return key, text
