"""``tensorflow.ProfilerService``: what TensorBoard's capture asks, answered by TensorFlow's own profiler.

The profiler is C++ inside the TensorFlow library, and its gRPC service is reached only through the Python
package: so this is the one place that imports it, by name and at the first call, because the import takes
seconds and hundreds of megabytes that nobody else pays for. The package and this process share one runtime,
so what models served here do is what gets profiled.

TensorFlow's service listens on a port of its own and on every interface. That port is kept to the loopback
interface, and calls are passed on to it as bytes; requests, answers and errors are TensorFlow's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import struct
import sys
import threading
from typing import Any, Protocol

import grpc

from inserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    MissingExtraError,
    UnavailableError,
    error_from_code,
)
from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable
from inserve.handlers.placement import WouldBlock

__all__ = ["TENSORFLOW_PROFILER", "Profiler", "TensorFlowProfiler", "profiler_service_methods"]

_SERVICE = "/tensorflow.ProfilerService/"
_METHODS = (
    "Profile",
    "Monitor",
    "Terminate",
    "StartContinuousProfiling",
    "StopContinuousProfiling",
    "GetSnapshot",
)

_LOOK_EVERY_S = 0.1
"""How soon a capture ends after its caller has left."""

_PORTS_TRIED = 5
_DESCRIPTORS = "/dev/fd"
"""The open files of this process, on Linux and macOS."""

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)

_SO_BINDTODEVICE = 25
_IP_BOUND_IF = 25
_IPV6_BOUND_IF = 125


class Profiler(Protocol):
    """Where profiling calls are answered."""

    def channel(self, timeout_s: float | None) -> grpc.Channel:
        """Return the channel to it, started where need be; at most about *timeout_s* seconds of waiting.

        Raises:
            InserveError: There is none.
        """
        ...


def profiler_service_methods(profiler: Profiler) -> MethodTable:
    """Return the service's methods by path; each may take as long as the capture it asks for."""
    return {_SERVICE + name: _passed_on(profiler, _SERVICE + name) for name in _METHODS}


def _passed_on(profiler: Profiler, path: str) -> Method:
    def method(request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        timeout_s = None if context.deadline is None else context.remaining_s()
        stub: Any = profiler.channel(timeout_s).unary_unary(path, None, None)
        call = stub.future(request, timeout=context.remaining_s())
        ended = threading.Event()
        call.add_done_callback(lambda _: ended.set())
        while not ended.wait(_LOOK_EVERY_S):
            if context.cancelled:
                call.cancel()
        code = call.code()
        if code is not grpc.StatusCode.OK:
            raise error_from_code(code.value[0], call.details() or "")
        return bytes(call.result())

    return method


class TensorFlowProfiler:
    """The profiler of the TensorFlow library of this process; ``TENSORFLOW_PROFILER`` is the only one.

    Its service starts at the first call, once, and stays until the process ends: TensorFlow cannot stop it.
    """

    def __init__(self, package: str = "tensorflow") -> None:
        self._package = package
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._refusal: str | None = None

    def channel(self, timeout_s: float | None) -> grpc.Channel:
        """Return the channel to the service; see ``Profiler.channel``.

        The first call imports TensorFlow's package, which takes seconds that no timeout ends; others wait.

        Raises:
            MissingExtraError: The package is not installed.
            FailedPreconditionError: It cannot be imported, or its port not be kept to this machine.
            UnavailableError: The service did not start.
            DeadlineExceededError: *timeout_s* has passed.
        """
        if self._channel is None:
            if not self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
                raise DeadlineExceededError("Deadline Exceeded")
            try:
                if self._channel is None:
                    self._channel = self._start()
                return self._channel
            finally:
                self._lock.release()
        return self._channel

    def _start(self) -> grpc.Channel:
        if self._refusal is not None:
            raise FailedPreconditionError(self._refusal)
        if not os.path.isdir(_DESCRIPTORS):
            raise FailedPreconditionError(f"profiling needs {_DESCRIPTORS}, which this system does not have")
        server = self._profiler_server()
        for _ in range(_PORTS_TRIED):
            port = _free_port()
            server.start(port)
            try:
                is_up = _keep_to_loopback(port)
            except FailedPreconditionError as error:
                self._refusal = error.message  # another attempt would leave another server behind
                raise
            # A start that finds the port taken says so in TensorFlow's log only.
            if is_up:
                return grpc.insecure_channel(f"127.0.0.1:{port}", _CHANNEL_OPTIONS)
        raise UnavailableError(f"TensorFlow's profiler did not start on any of {_PORTS_TRIED} free ports")

    def _profiler_server(self) -> Any:
        try:
            return importlib.import_module(self._package).profiler.experimental.server
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"profiling needs the Python package {error.name}, which is not installed: "
                "pip install 'inserve[cpu]'"
            ) from error
        except Exception as error:
            raise FailedPreconditionError(
                f"profiling needs the Python package {self._package}, which cannot be imported: {error}"
            ) from error


def _free_port() -> int:
    with contextlib.ExitStack() as opened:
        try:
            probe = opened.enter_context(socket.socket(socket.AF_INET6))
            probe.bind(("::", 0))
        except OSError:  # no IPv6 here
            probe = opened.enter_context(socket.socket(socket.AF_INET))
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _keep_to_loopback(port: int) -> bool:
    """Let the sockets of this process that listen on *port* take connections of this machine only.

    Returns whether there is any.

    Raises:
        FailedPreconditionError: The system does not allow it. The sockets are shut then.
    """
    found = False
    for name in os.listdir(_DESCRIPTORS):
        listener = _listener(int(name), port)
        if listener is None:
            continue
        with listener:
            found = True
            try:
                _bind_to_loopback_interface(listener)
            except OSError as error:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                raise FailedPreconditionError(
                    "TensorFlow's profiler listens on every interface and cannot be kept to this machine: "
                    f"{error}"
                ) from error
    return found


def _listener(descriptor: int, port: int) -> socket.socket | None:
    """Return a second descriptor of the socket in *descriptor*, None if it does not listen on *port*."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None  # closed by now
    try:
        listener = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    try:
        if (
            listener.family in (socket.AF_INET, socket.AF_INET6)
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and listener.getsockname()[1] == port
        ):
            return listener
    except OSError:
        pass
    listener.close()
    return None


def _bind_to_loopback_interface(listener: socket.socket) -> None:
    """Needs no privilege (Linux since 5.7); for sockets that listen already, too."""
    if sys.platform == "darwin":
        index = struct.pack("i", socket.if_nametoindex("lo0"))
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_BOUND_IF, index)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_BOUND_IF, index)
    else:
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"lo\0")


TENSORFLOW_PROFILER = TensorFlowProfiler()
"""TensorFlow has one profiler for each process, whatever the number of servers in it."""
