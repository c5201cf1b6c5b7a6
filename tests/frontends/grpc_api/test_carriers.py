"""The same methods answer the same whatever carries the bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import grpc.aio
import pytest

from inserve.errors import error_from_code
from inserve.frontends.grpc_api.add_to import add_methods_to
from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.inprocess_aio_channel import InprocessAioChannel
from inserve.frontends.grpc_api.inprocess_channel import InprocessChannel
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.frontends.grpc_api.worker_pool import WorkerPool
from inserve.handlers.placement import WouldBlock

LIMIT_S = 30.0
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True)
class Answer:
    code: grpc.StatusCode
    details: str | None
    response: bytes | None = None


class Methods:
    """A table whose long methods are steered by events."""

    def __init__(self) -> None:
        self.long_entered = threading.Event()
        self.release = threading.Event()
        self.contexts: list[CallContext] = []

    def table(self) -> MethodTable:
        return {
            "/test.Service/Echo": self.echo,
            "/test.Service/Fail": self.fail,
            "/test.Service/Defect": self.defect,
            "/test.Service/NotBytes": self.not_bytes,
            "/test.Service/Long": self.long,
            "/test.Service/LongFail": self.long_fail,
            "/test.Other/Echo": self.echo,
        }

    def echo(self, request: bytes, context: CallContext) -> bytes:
        self.contexts.append(context)
        return request

    def fail(self, request: bytes, context: CallContext) -> bytes:
        code, _, message = request.partition(b":")
        raise error_from_code(int(code), message.decode())

    def defect(self, request: bytes, context: CallContext) -> bytes:
        raise ZeroDivisionError("never shown to a caller")

    def not_bytes(self, request: bytes, context: CallContext) -> bytes:
        answer: Any = "text"
        return answer  # type: ignore[no-any-return]

    def long(self, request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        self.contexts.append(context)
        self.long_entered.set()
        assert self.release.wait(LIMIT_S)
        return request

    def long_fail(self, request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        return self.fail(request, context)


Call = Callable[..., Answer]
"""``call(path, request, timeout=..., metadata=...)``."""


def _sync_caller(channel: Any) -> Call:
    def call(path: str, request: bytes, **options: Any) -> Answer:
        try:
            response, ended = channel.unary_unary(path).with_call(request, **options)
        except grpc.RpcError as error:
            return Answer(error.code(), error.details())
        return Answer(ended.code(), ended.details(), response)

    return call


@contextmanager
def _loop_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()


def _aio_caller(channel: Any, loop: asyncio.AbstractEventLoop) -> Call:
    async def ask(path: str, request: bytes, **options: Any) -> Answer:
        pending = channel.unary_unary(path)(request, **options)
        try:
            response = await pending
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), error.details())
        return Answer(await pending.code(), await pending.details(), response)

    def call(path: str, request: bytes, **options: Any) -> Answer:
        return asyncio.run_coroutine_threadsafe(ask(path, request, **options), loop).result(LIMIT_S)

    return call


@contextmanager
def _socket_carrier(
    methods: MethodTable, address: str, transport: Literal["native", "grpcio"]
) -> Iterator[Call]:
    server = GrpcServer(methods, [address], transport=transport)
    server.start()
    with grpc.insecure_channel(server.addresses[0], options=UNLIMITED) as channel:
        yield _sync_caller(channel)
    server.stop()


@contextmanager
def _inprocess_carrier(methods: MethodTable) -> Iterator[Call]:
    target = InprocessTarget(methods)
    with InprocessChannel(target) as channel:
        yield _sync_caller(channel)
    target.stop()


@contextmanager
def _inprocess_aio_carrier(methods: MethodTable) -> Iterator[Call]:
    target = InprocessTarget(methods)
    with _loop_thread() as loop:
        yield _aio_caller(InprocessAioChannel(target), loop)
    target.stop()


@contextmanager
def _host_server_carrier(methods: MethodTable) -> Iterator[Call]:
    pool = WorkerPool("test-pool", 4, 4)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=UNLIMITED)
        add_methods_to(server, methods, pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
            yield _sync_caller(channel)
        server.stop(None).wait(LIMIT_S)


@contextmanager
def _host_aio_server_carrier(methods: MethodTable) -> Iterator[Call]:
    pool = WorkerPool("test-pool", 4, 4)

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=UNLIMITED)
        add_methods_to(server, methods, pool)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    with _loop_thread() as loop:
        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(LIMIT_S)
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
            yield _sync_caller(channel)
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(LIMIT_S)
    assert pool.stop(LIMIT_S)


OURS = ["native", "native unix", "grpcio", "grpcio unix", "inprocess", "inprocess aio"]
HOSTS = ["host server", "host aio server"]


@pytest.fixture
def methods() -> Iterator[Methods]:
    made = Methods()
    yield made
    made.release.set()


@pytest.fixture
def call(request: pytest.FixtureRequest, methods: Methods, tmp_path: Path) -> Iterator[Call]:
    table = methods.table()
    unix = f"unix:{tmp_path}/grpc"
    carriers: dict[str, Callable[[], Any]] = {
        "native": lambda: _socket_carrier(table, "127.0.0.1:0", "native"),
        "native unix": lambda: _socket_carrier(table, unix, "native"),
        "grpcio": lambda: _socket_carrier(table, "127.0.0.1:0", "grpcio"),
        "grpcio unix": lambda: _socket_carrier(table, unix, "grpcio"),
        "inprocess": lambda: _inprocess_carrier(table),
        "inprocess aio": lambda: _inprocess_aio_carrier(table),
        "host server": lambda: _host_server_carrier(table),
        "host aio server": lambda: _host_aio_server_carrier(table),
    }
    with ExitStack() as stack:
        made = stack.enter_context(carriers[request.param]())
        stack.callback(methods.release.set)
        yield made


def carried_by(names: Sequence[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", names, indirect=True)


@carried_by(OURS + HOSTS)
def test_bytes_arrive_unchanged(call: Call) -> None:
    for request in (b"", b"\x00\xff" * 1000):
        assert call("/test.Service/Echo", request) == Answer(grpc.StatusCode.OK, "", request)
    assert call("/test.Other/Echo", b"b").response == b"b"


@carried_by(OURS + HOSTS)
def test_messages_of_20_megabytes_pass_in_both_directions(call: Call) -> None:
    request = b"0123456789" * 2_000_000
    assert call("/test.Service/Echo", request).response == request


@carried_by(OURS + HOSTS)
def test_every_failure_code_reaches_the_caller_with_its_text(call: Call) -> None:
    for status in grpc.StatusCode:
        if status is not grpc.StatusCode.OK:
            answer = call("/test.Service/Fail", b"%d:the text" % status.value[0])
            assert answer == Answer(status, "the text")


@carried_by(OURS + HOSTS)
@pytest.mark.parametrize("text", ["", "Größe € 😀", "two\nlines\tand 100 % %41", " spaces ", "x" * 1024])
def test_error_texts_arrive_unchanged(call: Call, text: str) -> None:
    answer = call("/test.Service/Fail", b"3:" + text.encode())
    assert answer == Answer(grpc.StatusCode.INVALID_ARGUMENT, text)


@carried_by(OURS + HOSTS)
def test_error_texts_over_1024_bytes_are_cut_and_marked(call: Call) -> None:
    assert call("/test.Service/Fail", b"5:" + b"x" * 1025).details == "x" * 1024 + "...TRUNCATED"
    assert call("/test.Service/LongFail", b"5:" + b"x" * 1025).details == "x" * 1024 + "...TRUNCATED"


@carried_by(OURS + HOSTS)
def test_a_defect_is_logged_and_shown_as_internal_error(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/test.Service/Defect", "/test.Service/NotBytes"):
        caplog.clear()
        assert call(path, b"") == Answer(grpc.StatusCode.INTERNAL, "internal error")
        assert [record.name for record in caplog.records] == ["inserve.grpc"]


@carried_by(OURS)
def test_unknown_methods_are_unimplemented_without_a_text(call: Call) -> None:
    for path in ("/test.Service/Nothing", "/test.Service/", "/no.Service/Echo"):
        assert call(path, b"x") == Answer(grpc.StatusCode.UNIMPLEMENTED, "")


@carried_by(OURS + HOSTS)
def test_long_work_is_answered_with_its_result_or_its_error(call: Call, methods: Methods) -> None:
    methods.release.set()
    for options in ({}, {"timeout": LIMIT_S}):
        assert call("/test.Service/Long", b"done", **options) == Answer(grpc.StatusCode.OK, "", b"done")
        answer = call("/test.Service/LongFail", b"9:not so", **options)
        assert answer == Answer(grpc.StatusCode.FAILED_PRECONDITION, "not so")


@carried_by(OURS + HOSTS)
def test_a_call_ends_at_its_deadline_while_its_method_runs_on(call: Call, methods: Methods) -> None:
    answer = call("/test.Service/Long", b"x", timeout=0.05)
    assert answer == Answer(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert not methods.release.is_set()


@carried_by(OURS + HOSTS)
def test_methods_see_the_deadline_of_the_call(call: Call, methods: Methods) -> None:
    call("/test.Service/Echo", b"", timeout=1000.0)
    call("/test.Service/Echo", b"")
    remaining_s = methods.contexts[0].remaining_s()
    assert remaining_s is not None
    # On the wire a timeout has at most eight digits and is rounded up to a coarser unit.
    assert 0.0 < remaining_s < 1100.0
    assert methods.contexts[1].deadline is None


@carried_by(OURS + HOSTS)
def test_methods_see_the_metadata_of_the_call(call: Call, methods: Methods) -> None:
    call("/test.Service/Echo", b"", metadata=(("key", "value"), ("some-bin", b"\x00\x01")))
    received = methods.contexts[0].metadata
    assert {("key", "value"), ("some-bin", b"\x00\x01")} <= set(received)
    assert all(type(pair) is tuple for pair in received)


@carried_by(["native", "grpcio", "inprocess aio", "host aio server"])
def test_short_calls_are_answered_while_a_long_one_runs(call: Call, methods: Methods) -> None:
    with ThreadPoolExecutor(1) as caller:
        long = caller.submit(call, "/test.Service/Long", b"long")
        assert methods.long_entered.wait(LIMIT_S)
        assert call("/test.Service/Echo", b"short").response == b"short"
        assert not long.done()
        methods.release.set()
        assert long.result(LIMIT_S).response == b"long"
