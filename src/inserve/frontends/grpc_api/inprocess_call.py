"""The calls of an in-process channel: ended ones, and those still running in the pool."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc

from inserve.errors import Code
from inserve.frontends.grpc_api.byte_handlers import not_bytes
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import CallContext, Method
from inserve.frontends.grpc_api.status_codes import GRPC_STATUS_BY_CODE, status_of
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN

__all__ = [
    "CANCELLED_BY_CALLER",
    "DEADLINE_EXCEEDED",
    "EndedCall",
    "RunningCall",
    "ended_call",
    "received",
    "serialized",
]

CANCELLED_BY_CALLER = "Locally cancelled by application!"
DEADLINE_EXCEEDED = "Deadline Exceeded"

_LOGGER = logging.getLogger("inserve.grpc")


class EndedCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that is over: what ``with_call`` and ``future`` return, and what a failed call raises."""

    def __init__(
        self, code: Code = Code.OK, details: str = "", response: Any = None, deadline: float | None = None
    ) -> None:
        super().__init__(code, details)
        self._code = GRPC_STATUS_BY_CODE[code]
        self._details = details
        self._response = response
        self._deadline = deadline

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def debug_error_string(self) -> str:
        return f"{self._code.name}:{self._details}" if self._code is not grpc.StatusCode.OK else ""

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        del callback
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        del timeout
        if self._code is grpc.StatusCode.OK:
            return self._response
        raise self

    def exception(self, timeout: float | None = None) -> Exception | None:
        del timeout
        return None if self._code is grpc.StatusCode.OK else self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        del timeout
        return None if self._code is grpc.StatusCode.OK else _traceback_of(self)

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __str__(self) -> str:
        return (
            f"<in-process RPC that ended with:\n\tstatus = {self._code}\n\tdetails = {self._details!r}\n"
            f"\tdebug_error_string = {self.debug_error_string()!r}\n>"
        )

    __repr__ = __str__


def _traceback_of(error: grpc.RpcError) -> TracebackType | None:
    try:
        raise error
    except grpc.RpcError as raised:
        return raised.__traceback__


def serialized(request: Any, serializer: Callable[[Any], bytes] | None) -> bytes:
    """Return the bytes of *request*.

    Raises:
        EndedCall: *serializer* failed; INTERNAL and the text are grpcio's.
    """
    try:
        payload: object = request if serializer is None else serializer(request)
        if isinstance(payload, bytes):
            return payload
    except Exception:
        _LOGGER.exception("Exception serializing message!")
    raise EndedCall(Code.INTERNAL, "Exception serializing request!")


def received(
    response: object, path: str, context: CallContext, deserializer: Callable[[bytes], Any] | None
) -> Any:
    """Return the message in what the method *path* returned.

    Raises:
        EndedCall: the deadline has passed; *response* is not bytes, a defect; or *deserializer* failed,
            where INTERNAL and the text are grpcio's.
    """
    if context.deadline is not None and time.monotonic() > context.deadline:
        raise EndedCall(Code.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED)
    if not isinstance(response, bytes):
        raise EndedCall(*status_of(not_bytes(response), path))
    if deserializer is None:
        return response
    try:
        return deserializer(response)
    except Exception:
        _LOGGER.exception("Exception deserializing message!")
    raise EndedCall(Code.INTERNAL, "Exception deserializing response!")


def ended_call(
    response: object, path: str, context: CallContext, deserializer: Callable[[bytes], Any] | None
) -> EndedCall:
    """Return the call that ended with what ``received`` returns or raises."""
    try:
        message = received(response, path, context, deserializer)
    except EndedCall as ended:
        return ended
    return EndedCall(response=message, deadline=context.deadline)


_Response = TypeVar("_Response")


class RunningCall(grpc.Call, grpc.Future, Generic[_Response]):  # type: ignore[type-arg]
    """A call whose method runs in the target's pool; may be asked and ended from any thread.

    The first of its method, its caller, its deadline, its channel and its server to end it wins.
    """

    def __init__(
        self,
        target: InprocessTarget,
        path: str,
        context: CallContext,
        deserializer: Callable[[bytes], _Response] | None,
        forget: Callable[[RunningCall[_Response]], None],
    ) -> None:
        self._target = target
        self._path = path
        self._context = context
        self._deserializer = deserializer
        self._forget = forget
        self._changed = threading.Condition()
        self._ended: EndedCall | None = None
        self._was_cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def start(self, method: Method, payload: bytes) -> None:
        """Queue the method; a full or stopped pool ends the call at once."""
        self._context.may_block = True
        try:
            self._target.pool.execute(lambda: self._run(method, payload), self._abandon)
        except Exception as error:
            self.end(*status_of(error, self._path))

    def expire(self) -> None:
        """End the call because its deadline has passed."""
        self.end(Code.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED)

    def end(self, code: Code, message: str) -> None:
        self._end(EndedCall(code, message, deadline=self._context.deadline))

    def wait(self, timeout_s: float | None) -> EndedCall | None:
        """Return the outcome once there is one, or None after *timeout_s* seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None, timeout_s)
            return self._ended

    def code(self) -> grpc.StatusCode:
        return self._outcome().code()

    def details(self) -> str:
        return self._outcome().details()

    def debug_error_string(self) -> str:
        return self._outcome().debug_error_string()

    def initial_metadata(self) -> tuple[()]:
        return self._outcome().initial_metadata()

    def trailing_metadata(self) -> tuple[()]:
        return self._outcome().trailing_metadata()

    def is_active(self) -> bool:
        return self._ended is None

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._context.remaining_s()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have *callback* called when the call ends; return False, without calling it, if it has."""
        with self._changed:
            if self._ended is not None:
                return False
            self._callbacks.append(callback)
        return True

    def cancel(self) -> bool:
        ended = EndedCall(Code.CANCELLED, CANCELLED_BY_CALLER, deadline=self._context.deadline)
        return self._end(ended, cancelled=True)

    def cancelled(self) -> bool:
        return self._was_cancelled

    def running(self) -> bool:
        return self._ended is None

    def done(self) -> bool:
        return self._ended is not None

    def result(self, timeout: float | None = None) -> _Response:
        result: _Response = self._outcome(timeout, for_result=True).result()
        return result

    def exception(self, timeout: float | None = None) -> Exception | None:
        return self._outcome(timeout, for_result=True).exception()

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        return self._outcome(timeout, for_result=True).traceback()

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    def _outcome(self, timeout: float | None = None, *, for_result: bool = False) -> EndedCall:
        ended = self.wait(timeout)
        if ended is None:
            raise grpc.FutureTimeoutError
        if for_result and self._was_cancelled:
            raise grpc.FutureCancelledError
        return ended

    def _run(self, method: Method, payload: bytes) -> None:
        if self._ended is not None:
            return
        try:
            response: object = method(payload, self._context)
        except BaseException as error:
            self.end(*status_of(error, self._path))
            return
        self._end(ended_call(response, self._path, self._context, self._deserializer))

    def _abandon(self) -> None:
        self.end(Code.UNAVAILABLE, SHUTTING_DOWN)

    def _end(self, ended: EndedCall, *, cancelled: bool = False) -> bool:
        with self._changed:
            if self._ended is not None:
                return False
            self._ended = ended
            self._was_cancelled = cancelled
            self._context.cancelled = ended.code() is not grpc.StatusCode.OK
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        self._target.discard(self)
        self._target.deadlines.discard(self.expire)
        self._forget(self)
        for callback in callbacks:
            _call_back(callback)
        return True


def _call_back(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        _LOGGER.exception("Exception in a callback of an ended call")
