"""Health: does this server, and does this model, take requests? The ``grpc.health.v1`` questions.

Names and texts: TensorFlow Serving, ``model_servers/server.cc``, and gRPC's own health service. That
the name of a model may be asked for is ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.protos import messages

__all__ = ["HealthHandler"]

_SERVICES = frozenset({"", "ModelService", "PredictionService"})
"""The names that TensorFlow Serving sets; they have no package."""

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


def _no_model(name: str) -> bool | None:
    del name
    return None


class HealthHandler:
    """Answers Check and Watch, on any thread; NOT_SERVING before ``open`` and after ``close``.

    A service name is one of TensorFlow Serving's, else the name of a model: that is SERVING while a
    version of it is available. *model_state* tells: None for a name that is no model's, else whether a
    version is available now. It is called on the threads of callers, under no lock of this object;
    whoever knows of a change calls ``changed`` after it.
    """

    def __init__(self, model_state: Callable[[str], bool | None] = _no_model) -> None:
        self._model_state = model_state
        self._changed = threading.Condition()
        self._num_changes = 0
        self._is_open = False
        self._is_closed = False

    def open(self) -> None:
        """Answer SERVING from now on."""
        with self._changed:
            self._is_open = True
        self.changed()

    def close(self) -> None:
        """Answer NOT_SERVING for good; every watch says so and ends."""
        with self._changed:
            self._is_open = False
            self._is_closed = True
        self.changed()

    def changed(self) -> None:
        """Have every watch ask for the state of its model, and look whether it is over."""
        with self._changed:
            self._num_changes += 1
            self._changed.notify_all()

    def check_message(self, request: bytes) -> bytes:
        """Return the serialized HealthCheckResponse to a serialized HealthCheckRequest.

        Raises:
            InvalidArgumentError: *request* is not such a message.
            NotFoundError: The name is neither a service of ours nor a model's.
        """
        status = self._status(_service(request))
        if status == _SERVICE_UNKNOWN:
            raise NotFoundError("service name unknown")
        return _response(status)

    def watch_messages(self, request: bytes, is_over: threading.Event) -> Iterator[bytes]:
        """Yield the status now and whenever it changes, until ``close`` or *is_over*, and then ``changed``.

        Blocks between two. A name that is neither a service of ours nor a model's has the status
        SERVICE_UNKNOWN, until a model is given it.

        Raises:
            InvalidArgumentError: *request* is not such a message.
        """
        service = _service(request)
        told = 0
        while True:
            with self._changed:
                seen, is_last = self._num_changes, self._is_closed
            if is_over.is_set():
                return
            status = self._status(service)
            if status != told:
                told = status
                yield _response(status)
            if is_last:
                return
            with self._changed:
                while self._num_changes == seen and not is_over.is_set():
                    self._changed.wait()

    def _status(self, service: str) -> int:
        if service in _SERVICES:
            return _SERVING if self._is_open else _NOT_SERVING
        state = self._model_state(service)
        if state is None:
            return _SERVICE_UNKNOWN
        return _SERVING if state and self._is_open else _NOT_SERVING


def _service(request: bytes) -> str:
    try:
        return str(messages.HealthCheckRequest.FromString(request).service)
    except DecodeError as error:
        raise InvalidArgumentError("could not parse request") from error


def _response(status: int) -> bytes:
    response = messages.HealthCheckResponse()
    response.status = status
    return bytes(response.SerializeToString())
