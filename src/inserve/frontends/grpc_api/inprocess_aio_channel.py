"""A ``grpc.aio.Channel`` without a socket: any generated stub calls the methods in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from inserve.errors import Code
from inserve.frontends.grpc_api.inprocess_aio_call import InprocessAioCall, LoopShare, UnimplementedAioCall
from inserve.frontends.grpc_api.inprocess_call import (
    DEADLINE_EXCEEDED,
    EndedCall,
    ended_call,
    serialized,
)
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget, checked_metadata
from inserve.frontends.grpc_api.method import CallContext, Method
from inserve.frontends.grpc_api.status_codes import status_of
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN
from inserve.handlers.placement import WouldBlock

__all__ = ["InprocessAioChannel"]


class InprocessAioChannel(grpc.aio.Channel):
    """Calls the methods of *target* on the event loop, or in the target's pool when they would block.

    Status codes and texts are those of a call over a socket; a failing serializer or deserializer is
    INTERNAL, and a timeout of 0 has passed, as on the synchronous channel (``grpc.aio`` sends an empty
    request, returns None and waits for ever). Streaming methods answer UNIMPLEMENTED.
    """

    def __init__(self, target: InprocessTarget) -> None:
        self._target = target
        self._share = LoopShare()
        self._running: set[InprocessAioCall] = set()
        self._closed = False
        self._closing = asyncio.Event()

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _UnaryUnary:
        return _UnaryUnary(self, method, request_serializer, response_deserializer)

    def unary_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., UnimplementedAioCall]:
        del method, request_serializer, response_deserializer
        return self._unimplemented

    def stream_unary(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., UnimplementedAioCall]:
        del method, request_serializer, response_deserializer
        return self._unimplemented

    def stream_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., UnimplementedAioCall]:
        del method, request_serializer, response_deserializer
        return self._unimplemented

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return READY, or SHUTDOWN once closed."""
        del try_to_connect
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state differs from *last_observed_state*: at once or when the channel closes."""
        while self.get_state() is last_observed_state:
            await self._closing.wait()

    async def channel_ready(self) -> None:
        self.check_open()

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, let those in the pool end for *grace* seconds, then cancel them."""
        self._closed = True
        self._closing.set()
        running = [asyncio.ensure_future(call.code()) for call in self._running]
        if running and grace:
            await asyncio.wait(running, timeout=grace)
        for call in list(self._running):
            call.cancel()
        await asyncio.gather(*running)

    async def __aenter__(self) -> InprocessAioChannel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def check_open(self) -> None:
        """Do nothing while the channel is open.

        Raises:
            grpc.aio.UsageError: the channel is closed, as ``grpc.aio`` says it.
        """
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")

    def call(
        self,
        path: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> InprocessAioCall:
        """Return the call of the method *path*; it has ended already if the method is short."""
        self.check_open()
        pairs = () if metadata is None else checked_metadata(metadata)
        deadline = None if timeout is None else time.monotonic() + timeout
        context = CallContext(deadline, pairs, False)
        method = self._target.methods.get(path)
        try:
            payload = serialized(request, serializer)
        except EndedCall as failed:
            return InprocessAioCall(self._share, deadline, failed)
        if timeout is not None and timeout <= 0:
            ended = EndedCall(Code.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED)
        elif self._target.stopped:
            ended = EndedCall(Code.UNAVAILABLE, SHUTTING_DOWN)
        elif method is None:
            ended = EndedCall(Code.UNIMPLEMENTED)
        else:
            try:
                response: object = method(payload, context)
            except WouldBlock:
                return self._start(path, method, payload, context, deserializer)
            except Exception as error:
                ended = EndedCall(*status_of(error, path))
            else:
                ended = ended_call(response, path, context, deserializer)
        return InprocessAioCall(self._share, deadline, ended)

    def _start(
        self,
        path: str,
        method: Method,
        payload: bytes,
        context: CallContext,
        deserializer: Callable[[bytes], Any] | None,
    ) -> InprocessAioCall:
        call = InprocessAioCall(self._share, context.deadline, None)
        self._running.add(call)
        call.start(self._target, path, method, payload, context, deserializer, self._forget)
        if not call.done():
            self._target.add(call)
        return call

    def _forget(self, call: InprocessAioCall) -> None:
        self._running.discard(call)
        self._target.discard(call)

    def _unimplemented(self, *args: Any, **kwargs: Any) -> UnimplementedAioCall:
        del args, kwargs
        self.check_open()
        return UnimplementedAioCall()


class _UnaryUnary(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    def __init__(
        self,
        channel: InprocessAioChannel,
        path: str,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._path = path
        self._serializer = serializer
        self._deserializer = deserializer

    def __call__(  # type: ignore[override]
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> InprocessAioCall:
        del credentials, wait_for_ready, compression
        return self._channel.call(
            self._path, request, timeout, metadata, self._serializer, self._deserializer
        )
