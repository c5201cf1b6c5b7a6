"""Health: does this server take requests? The standard ``grpc.health.v1`` questions.

Names and texts: TensorFlow Serving, ``model_servers/server.cc``, and gRPC's own health service.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.protos import messages

__all__ = ["HealthHandler"]

_SERVICES = frozenset({"", "ModelService", "PredictionService"})
"""The names that TensorFlow Serving sets; they have no package."""

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class HealthHandler:
    """Answers Check and Watch, on any thread; NOT_SERVING before ``open`` and after ``close``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = False
        self._is_closed = False

    def open(self) -> None:
        """Answer SERVING from now on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Answer NOT_SERVING for good; every watch says so and ends."""
        with self._changed:
            self._is_open = False
            self._is_closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have every watch look whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def check_message(self, request: bytes) -> bytes:
        """Return the serialized HealthCheckResponse to a serialized HealthCheckRequest.

        Raises:
            InvalidArgumentError: *request* is not such a message.
            NotFoundError: The service is not one of ours.
        """
        if _service(request) not in _SERVICES:
            raise NotFoundError("service name unknown")
        return _response(self._status(""))

    def watch_messages(self, request: bytes, is_over: threading.Event) -> Iterator[bytes]:
        """Yield the status now and whenever it changes, until ``close`` or *is_over*, and then ``wake``.

        Blocks between two. A service that is not one of ours has the status SERVICE_UNKNOWN.

        Raises:
            InvalidArgumentError: *request* is not such a message.
        """
        service = _service(request)
        told = 0
        while True:
            with self._changed:
                while not (is_over.is_set() or self._is_closed or self._status(service) != told):
                    self._changed.wait()
                status, is_last = self._status(service), self._is_closed
            if is_over.is_set():
                return
            if status != told:
                told = status
                yield _response(status)
            if is_last:
                return

    def _status(self, service: str) -> int:
        if service not in _SERVICES:
            return _SERVICE_UNKNOWN
        return _SERVING if self._is_open else _NOT_SERVING


def _service(request: bytes) -> str:
    try:
        return str(messages.HealthCheckRequest.FromString(request).service)
    except DecodeError as error:
        raise InvalidArgumentError("could not parse request") from error


def _response(status: int) -> bytes:
    response = messages.HealthCheckResponse()
    response.status = status
    return bytes(response.SerializeToString())
