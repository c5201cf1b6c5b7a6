"""The calls of an in-process asyncio channel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, NoReturn

import grpc
import grpc.aio

from inserve.errors import Code
from inserve.frontends.grpc_api.inprocess_call import (
    CANCELLED_BY_CALLER,
    DEADLINE_EXCEEDED,
    EndedCall,
    ended_call,
)
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import CallContext, Method
from inserve.frontends.grpc_api.status_codes import status_of
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN

__all__ = ["InprocessAioCall", "LoopShare", "UnimplementedAioCall"]

_LOGGER = logging.getLogger("inserve.grpc")
_LOOP_SHARE_S = 0.001


class LoopShare:
    """Decides when awaiting an ended call lets the event loop turn: about once per millisecond.

    Without it, a coroutine that awaits one short call after the other would keep all others from running.
    """

    def __init__(self) -> None:
        self._turned_at = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._turned_at < _LOOP_SHARE_S:
            return False
        self._turned_at = now
        return True


class InprocessAioCall(grpc.aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A call that has ended, or one whose method runs in the target's pool.

    To be used on the event loop it was made on; ``end`` alone may be called from any thread.
    """

    def __init__(self, share: LoopShare, deadline: float | None, ended: EndedCall | None) -> None:
        self._share = share
        self._deadline = deadline
        self._ended = ended
        self._was_cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []
        self._loop: asyncio.AbstractEventLoop
        self._waiter: asyncio.Future[None]
        self._timer: asyncio.TimerHandle | None = None
        self._context: CallContext
        self._forget: Callable[[InprocessAioCall], None]

    def start(
        self,
        target: InprocessTarget,
        path: str,
        method: Method,
        payload: bytes,
        context: CallContext,
        deserializer: Callable[[bytes], Any] | None,
        forget: Callable[[InprocessAioCall], None],
    ) -> None:
        """Queue *method*; *forget* is called with the call when it has ended."""
        self._loop = asyncio.get_running_loop()
        self._waiter = self._loop.create_future()
        self._context = context
        self._forget = forget
        context.may_block = True

        def run() -> None:
            if context.cancelled:
                return
            try:
                response: object = method(payload, context)
            except BaseException as error:
                self.end(*status_of(error, path))
            else:
                self._end_soon(ended_call(response, path, context, deserializer))

        def abandon() -> None:
            self.end(Code.UNAVAILABLE, SHUTTING_DOWN)

        remaining_s = context.remaining_s()
        if remaining_s is not None:
            self._timer = self._loop.call_later(
                remaining_s, self._end, EndedCall(Code.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED)
            )
        try:
            target.pool.execute(run, abandon)
        except Exception as error:
            self._end(EndedCall(*status_of(error, path)))

    def end(self, code: Code, message: str) -> None:
        self._end_soon(EndedCall(code, message))

    def cancel(self) -> bool:
        if self._ended is not None:
            return False
        self._was_cancelled = True
        self._end(EndedCall(Code.CANCELLED, CANCELLED_BY_CALLER))
        return True

    def cancelled(self) -> bool:
        return self._was_cancelled

    def done(self) -> bool:
        return self._ended is not None

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._ended is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    add_callback = add_done_callback

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self._wait()
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._wait()
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return (await self._wait()).code()

    async def details(self) -> str:
        return (await self._wait()).details()

    async def debug_error_string(self) -> str:
        return (await self._wait()).debug_error_string()

    async def wait_for_connection(self) -> None:
        self._result(await self._wait())

    def __await__(self) -> Generator[Any, None, Any]:
        if self._ended is None:
            try:
                yield from self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        elif self._share.is_due():
            yield
        assert self._ended is not None
        return self._result(self._ended)

    async def _wait(self) -> EndedCall:
        if self._ended is None:
            await asyncio.shield(self._waiter)
        assert self._ended is not None
        return self._ended

    def _result(self, ended: EndedCall) -> Any:
        if self._was_cancelled:
            raise asyncio.CancelledError
        if ended.exception() is None:
            return ended.result()
        raise _aio_error(ended)

    def _end_soon(self, ended: EndedCall) -> None:
        """End the call from any thread; nobody is left to tell when its loop has been closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, ended)

    def _end(self, ended: EndedCall) -> None:
        if self._ended is not None:
            return
        self._ended = ended
        if ended.exception() is not None:
            self._context.cancelled = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._waiter.done():
            self._waiter.set_result(None)
        self._forget(self)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback, self)


def _aio_error(ended: EndedCall) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        ended.code(),
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details=ended.details(),
        debug_error_string=ended.debug_error_string(),
    )


class UnimplementedAioCall:
    """A call of a streaming method, of which there is none: awaiting, iterating and reading fail."""

    def __init__(self) -> None:
        self._ended = EndedCall(Code.UNIMPLEMENTED)

    def __await__(self) -> Generator[Any, None, NoReturn]:
        yield
        raise _aio_error(self._ended)

    def __aiter__(self) -> UnimplementedAioCall:
        return self

    async def __anext__(self) -> NoReturn:
        raise _aio_error(self._ended)

    async def read(self) -> NoReturn:
        raise _aio_error(self._ended)

    async def write(self, request: Any) -> NoReturn:
        del request
        raise _aio_error(self._ended)

    async def done_writing(self) -> None:
        """Do nothing: the call is over."""

    async def wait_for_connection(self) -> NoReturn:
        raise _aio_error(self._ended)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return self._ended.code()

    async def details(self) -> str:
        return self._ended.details()

    async def debug_error_string(self) -> str:
        return self._ended.debug_error_string()

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)
