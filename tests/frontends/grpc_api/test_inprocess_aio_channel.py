from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from inserve.errors import NotFoundError
from inserve.frontends.grpc_api.inprocess_aio_channel import InprocessAioChannel
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import CallContext
from inserve.frontends.grpc_api.transport import TransportOptions
from inserve.handlers.placement import WouldBlock

LIMIT_S = 30.0
ECHO = "/test.Service/Echo"
LONG = "/test.Service/Long"
FAIL = "/test.Service/Fail"


class Methods:
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.contexts: list[CallContext] = []

    def echo(self, request: bytes, context: CallContext) -> bytes:
        return request

    def fail(self, request: bytes, context: CallContext) -> bytes:
        raise NotFoundError("no such model")

    def long(self, request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        self.contexts.append(context)
        self.entered.set()
        assert self.release.wait(LIMIT_S)
        return request

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, LIMIT_S)


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
def target(methods: Methods) -> Iterator[InprocessTarget]:
    table = {ECHO: methods.echo, LONG: methods.long, FAIL: methods.fail}
    made = InprocessTarget(table, TransportOptions(max_workers=1, max_queued=0))
    yield made
    methods.release.set()
    made.stop()


async def test_a_call_is_awaited_for_its_response(target: InprocessTarget) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(ECHO)(b"x", timeout=100.0)
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert await call == b"x"
        assert await call == b"x"
        assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert list(await call.initial_metadata()) == list(await call.trailing_metadata()) == []
        remaining_s = call.time_remaining()
        assert remaining_s is not None
        assert 0.0 < remaining_s <= 100.0
        await call.wait_for_connection()


async def test_a_failed_call_raises_an_aio_rpc_error(target: InprocessTarget) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(FAIL)(b"x")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such model")
        assert await call.debug_error_string() == "NOT_FOUND:no such model"
        with pytest.raises(grpc.aio.AioRpcError):
            await call.wait_for_connection()


async def test_the_loop_turns_while_a_long_call_runs(target: InprocessTarget, methods: Methods) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(LONG)(b"long")
        await methods.until_entered()
        assert await channel.unary_unary(ECHO)(b"short") == b"short"
        assert not call.done()
        told: list[Any] = []
        call.add_done_callback(told.append)
        methods.release.set()
        assert await call == b"long"
        await asyncio.sleep(0)
        assert told == [call]


async def test_cancelling_the_call_raises_cancelled_error(target: InprocessTarget, methods: Methods) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(LONG)(b"x")
        await methods.until_entered()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        assert methods.contexts[0].cancelled
        methods.release.set()


async def test_cancelling_the_awaiting_task_cancels_the_call(
    target: InprocessTarget, methods: Methods
) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(LONG)(b"x")

        async def wait() -> Any:
            return await call

        task = asyncio.create_task(wait())
        await methods.until_entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        assert methods.contexts[0].cancelled
        methods.release.set()


async def test_asking_for_the_code_and_giving_up_leaves_the_call_alone(
    target: InprocessTarget, methods: Methods
) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(LONG)(b"x")
        asking = asyncio.create_task(call.code())
        await methods.until_entered()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        methods.release.set()
        assert await call == b"x"


async def test_a_full_pool_is_resource_exhausted(target: InprocessTarget, methods: Methods) -> None:
    async with InprocessAioChannel(target) as channel:
        running = channel.unary_unary(LONG)(b"x")
        assert await channel.unary_unary(LONG)(b"x").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        methods.release.set()
        assert await running == b"x"


async def test_awaiting_short_calls_in_a_row_lets_other_tasks_run(target: InprocessTarget) -> None:
    async with InprocessAioChannel(target) as channel:
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await channel.unary_unary(ECHO)(b"x")
        assert turned.is_set()


@pytest.mark.parametrize(
    ("options", "details"),
    [
        ({"request_serializer": lambda _: 1 // 0}, "Exception serializing request!"),
        ({"response_deserializer": lambda _: 1 // 0}, "Exception deserializing response!"),
    ],
)
async def test_a_failing_serializer_is_internal(
    target: InprocessTarget, options: dict[str, Any], details: str
) -> None:
    async with InprocessAioChannel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(ECHO, **options)(b"x")
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, details)


async def test_close_lets_calls_end_within_the_grace_period_and_takes_no_more(
    target: InprocessTarget, methods: Methods
) -> None:
    channel = InprocessAioChannel(target)
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
    call = channel.unary_unary(LONG)(b"x")
    await methods.until_entered()
    methods.release.set()
    await channel.close(grace=LIMIT_S)
    assert await call == b"x"
    await changed
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
        channel.unary_unary(ECHO)(b"x")


async def test_close_without_grace_cancels_calls(target: InprocessTarget, methods: Methods) -> None:
    channel = InprocessAioChannel(target)
    call = channel.unary_unary(LONG)(b"x")
    await methods.until_entered()
    await channel.close()
    assert call.cancelled()
    methods.release.set()


async def test_a_stopped_target_is_unavailable(target: InprocessTarget, methods: Methods) -> None:
    async with InprocessAioChannel(target) as channel:
        call = channel.unary_unary(LONG)(b"x")
        await methods.until_entered()
        stopping = asyncio.create_task(asyncio.to_thread(target.stop))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(ECHO)(b"x")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        methods.release.set()
        await stopping


async def test_streaming_calls_are_unimplemented(target: InprocessTarget) -> None:
    async with InprocessAioChannel(target) as channel:
        for make in (channel.unary_stream, channel.stream_unary, channel.stream_stream):
            call = make("/s/M")(b"x")
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
