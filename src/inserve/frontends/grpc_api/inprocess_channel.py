"""A ``grpc.Channel`` without a socket: any generated stub calls the methods in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from inserve.errors import Code
from inserve.frontends.grpc_api.inprocess_call import (
    DEADLINE_EXCEEDED,
    EndedCall,
    RunningCall,
    ended_call,
    received,
    serialized,
)
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget, checked_metadata
from inserve.frontends.grpc_api.method import CallContext, Method
from inserve.frontends.grpc_api.status_codes import status_of
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN
from inserve.handlers.placement import WouldBlock

__all__ = ["InprocessChannel"]

_CHANNEL_CLOSED = "Channel closed!"


class InprocessChannel(grpc.Channel):
    """Calls the methods of *target* on the calling thread, or in its pool when they would block.

    Deadlines, metadata, cancellation, status codes and texts are those of a call over a socket. A long
    call without a timeout runs on the calling thread as well and ends when its method does. Credentials,
    compression and ``wait_for_ready`` are accepted and mean nothing here. Streaming methods answer
    UNIMPLEMENTED. May be used from any thread; ``close`` ends the calls in the pool as cancelled.
    """

    def __init__(self, target: InprocessTarget) -> None:
        self._target = target
        self._running: set[RunningCall[Any]] = set()
        self.closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _UnaryUnary:
        return _UnaryUnary(self, self._target, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _ToStream:
        del method, request_serializer, response_deserializer
        return _ToStream(self)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _StreamToOne:
        del method, request_serializer, response_deserializer
        return _StreamToOne(self)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _ToStream:
        del method, request_serializer, response_deserializer
        return _ToStream(self)

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = False,
    ) -> None:
        """Tell *callback* that the channel is READY, on this thread; nothing follows."""
        del try_to_connect
        self.check_open()
        callback(grpc.ChannelConnectivity.READY)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Do nothing: ``subscribe`` keeps no callback."""

    def close(self) -> None:
        self.closed = True
        for call in list(self._running):
            call.end(Code.CANCELLED, _CHANNEL_CLOSED)

    def __enter__(self) -> InprocessChannel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def check_open(self) -> None:
        """Do nothing while the channel is open.

        Raises:
            ValueError: the channel is closed; the text is grpcio's.
        """
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    def start(
        self,
        path: str,
        method: Method,
        payload: bytes,
        context: CallContext,
        deserializer: Callable[[bytes], Any] | None,
    ) -> RunningCall[Any]:
        """Return the call of *method* in the target's pool."""
        call = RunningCall(self._target, path, context, deserializer, self._running.discard)
        self._running.add(call)
        self._target.add(call)
        call.start(method, payload)
        if self.closed:
            call.end(Code.CANCELLED, _CHANNEL_CLOSED)
        return call


class _UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    def __init__(
        self,
        channel: InprocessChannel,
        target: InprocessTarget,
        path: str,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._target = target
        self._path = path
        self._method = target.methods.get(path)
        self._serializer = serializer
        self._deserializer = deserializer

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        del credentials, wait_for_ready, compression
        if self._channel.closed:
            self._channel.check_open()
        payload = serialized(request, self._serializer)
        context, method = self._begin(timeout, metadata)
        try:
            response: object = method(payload, context)
        except WouldBlock:
            return self._call_long(method, payload, context)
        except Exception as error:
            raise EndedCall(*status_of(error, self._path)) from None
        return received(response, self._path, context, self._deserializer)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, EndedCall]:
        deadline = None if timeout is None else time.monotonic() + timeout
        response = self(request, timeout, metadata, credentials, wait_for_ready, compression)
        return response, EndedCall(response=response, deadline=deadline)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """Return a ``grpc.Future`` that is also the call; it has ended already if the method is short.

        Raises:
            grpc.RpcError: the request cannot be serialized, as with grpcio.
        """
        del credentials, wait_for_ready, compression
        self._channel.check_open()
        payload = serialized(request, self._serializer)
        try:
            context, method = self._begin(timeout, metadata)
        except EndedCall as ended:
            return ended
        try:
            response: object = method(payload, context)
        except WouldBlock:
            return self._start_future(method, payload, context)
        except Exception as error:
            return EndedCall(*status_of(error, self._path))
        return ended_call(response, self._path, context, self._deserializer)

    def _begin(self, timeout: float | None, metadata: Any) -> tuple[CallContext, Method]:
        """Return the context of a new call and its method.

        Raises:
            EndedCall: there is no such method, no server or no time left.
            ValueError: *metadata* is not what gRPC can carry.
        """
        pairs = () if metadata is None else checked_metadata(metadata)
        if timeout is None:
            context = CallContext(None, pairs, False)
        elif timeout > 0:
            context = CallContext(time.monotonic() + timeout, pairs, False)
        else:
            raise EndedCall(Code.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED)
        if self._target.stopped:
            raise EndedCall(Code.UNAVAILABLE, SHUTTING_DOWN)
        if self._method is None:
            raise EndedCall(Code.UNIMPLEMENTED)
        return context, self._method

    def _start_future(self, method: Method, payload: bytes, context: CallContext) -> RunningCall[Any]:
        call = self._channel.start(self._path, method, payload, context, self._deserializer)
        if context.deadline is not None:
            self._target.deadlines.add(context.deadline, call.expire)
            if call.done():
                self._target.deadlines.discard(call.expire)
        return call

    def _call_long(self, method: Method, payload: bytes, context: CallContext) -> Any:
        if context.deadline is None:
            context.may_block = True
            try:
                response: object = method(payload, context)
            except Exception as error:
                raise EndedCall(*status_of(error, self._path)) from None
            return received(response, self._path, context, self._deserializer)
        call = self._channel.start(self._path, method, payload, context, self._deserializer)
        try:
            ended = call.wait(context.remaining_s())
        except BaseException:
            call.cancel()
            raise
        while ended is None:
            call.expire()
            ended = call.wait(None)
        return ended.result()


class _StreamToOne(grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A call to a method that takes a stream, of which there is none: always UNIMPLEMENTED."""

    def __init__(self, channel: InprocessChannel) -> None:
        self._channel = channel

    def __call__(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> NoReturn:
        del request_iterator, args, kwargs
        self._channel.check_open()
        raise EndedCall(Code.UNIMPLEMENTED)

    with_call = __call__

    def future(self, request_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        del request_iterator, args, kwargs
        self._channel.check_open()
        return EndedCall(Code.UNIMPLEMENTED)


class _EndedStream(EndedCall):
    """A call that was to return a stream: iterating raises its error."""

    def __iter__(self) -> _EndedStream:
        return self

    def __next__(self) -> NoReturn:
        raise self


class _ToStream(grpc.UnaryStreamMultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """A call to a method that returns a stream, of which there is none: always UNIMPLEMENTED."""

    def __init__(self, channel: InprocessChannel) -> None:
        self._channel = channel

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        del request, args, kwargs
        self._channel.check_open()
        return _EndedStream(Code.UNIMPLEMENTED)
