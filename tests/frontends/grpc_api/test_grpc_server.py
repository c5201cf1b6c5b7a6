from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest

from inserve.errors import UnavailableError
from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.method import CallContext
from inserve.frontends.grpc_api.transport import TransportOptions
from inserve.handlers.placement import WouldBlock

LIMIT_S = 30.0
ECHO = "/test.Service/Echo"
LONG = "/test.Service/Long"
Transport = Literal["native", "grpcio"]
both_transports = pytest.mark.parametrize("transport", ["native", "grpcio"])


def echo(request: bytes, context: CallContext) -> bytes:
    return request


class Long:
    """A method that runs until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.contexts: list[CallContext] = []

    def __call__(self, request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        self.contexts.append(context)
        self.entered.set()
        self.release.wait(LIMIT_S)
        return request


@pytest.fixture
def long() -> Iterator[Long]:
    method = Long()
    yield method
    method.release.set()


@pytest.fixture
def start(long: Long) -> Iterator[Callable[..., GrpcServer]]:
    servers: list[GrpcServer] = []

    def start_server(*addresses: str, **options: Any) -> GrpcServer:
        server = GrpcServer({ECHO: echo, LONG: long}, addresses or ["127.0.0.1:0"], **options)
        servers.append(server)
        server.start()
        return server

    yield start_server
    long.release.set()
    for server in servers:
        server.stop()


def connect(address: str) -> Any:
    return grpc.insecure_channel(address)


def call(address: str, path: str, request: bytes, **options: Any) -> bytes:
    with connect(address) as channel:
        response: bytes = channel.unary_unary(path)(request, **options)
        return response


def failure(future: Any) -> tuple[grpc.StatusCode, str]:
    error = future.exception(LIMIT_S)
    assert isinstance(error, grpc.RpcError)
    return error.code(), error.details() or ""


Starter = Callable[..., GrpcServer]


@both_transports
def test_all_addresses_are_served_at_once(start: Starter, transport: Transport, tmp_path: Path) -> None:
    server = start("127.0.0.1:0", f"unix:{tmp_path}/grpc", "127.0.0.1:0", transport=transport)
    assert server.transport == transport
    assert server.addresses[0] == f"127.0.0.1:{server.port}"
    assert len(set(server.addresses)) == 3
    for address in server.addresses:
        assert call(address, ECHO, address.encode()) == address.encode()


@both_transports
def test_a_taken_port_is_an_error_that_names_the_address(start: Starter, transport: Transport) -> None:
    first = start(transport=transport)
    (address,) = first.addresses
    with pytest.raises(UnavailableError) as raised:
        start(address, transport=transport)
    assert str(raised.value) == f"cannot listen on {address}: Address already in use"
    assert call(address, ECHO, b"x") == b"x"


@both_transports
def test_a_failed_start_leaves_nothing_behind(start: Starter, transport: Transport, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    threads = set(threading.enumerate())
    with pytest.raises(UnavailableError, match="not a socket"):
        start("127.0.0.1:0", f"unix:{tmp_path}/grpc", f"unix:{file}", transport=transport)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "precious"
    assert [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("inserve")] == []


@both_transports
def test_a_unix_socket_in_use_is_not_taken_over(start: Starter, transport: Transport, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/grpc"
    start(address, transport=transport)
    with pytest.raises(UnavailableError, match="another server listens there"):
        start(address, transport=transport)
    assert call(address, ECHO, b"x") == b"x"


@both_transports
def test_a_stale_unix_socket_is_replaced_and_stop_removes_ours(
    start: Starter, transport: Transport, tmp_path: Path
) -> None:
    path = tmp_path / "grpc"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = start(f"unix:{path}", transport=transport)
    assert call(f"unix:{path}", ECHO, b"x") == b"x"
    server.stop()
    assert not path.exists()


@both_transports
def test_stop_lets_running_calls_finish_and_refuses_new_ones(
    start: Starter, transport: Transport, long: Long
) -> None:
    server = start(transport=transport)
    with connect(server.addresses[0]) as channel, ThreadPoolExecutor(1) as stopper:
        running = channel.unary_unary(LONG).future(b"x")
        assert long.entered.wait(LIMIT_S)
        stopping = stopper.submit(server.stop, LIMIT_S)
        refused = channel.unary_unary(ECHO).future(b"y")
        while refused.exception(LIMIT_S) is None:
            refused = channel.unary_unary(ECHO).future(b"y")
        assert failure(refused)[0] is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        long.release.set()
        assert running.result(LIMIT_S) == b"x"
        stopping.result(LIMIT_S)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("inserve-grpc")]


@both_transports
def test_stop_cancels_what_the_grace_period_does_not_suffice_for(
    start: Starter, transport: Transport, long: Long
) -> None:
    server = start(transport=transport)
    with connect(server.addresses[0]) as channel, ThreadPoolExecutor(1) as stopper:
        running = channel.unary_unary(LONG).future(b"x")
        assert long.entered.wait(LIMIT_S)
        stopping = stopper.submit(server.stop, 0.01)
        assert failure(running)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        # The client may learn of the end before the method does.
        deadline = time.monotonic() + LIMIT_S
        while not long.contexts[0].cancelled and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        assert long.contexts[0].cancelled
        long.release.set()
        stopping.result(LIMIT_S)


def test_a_call_beyond_the_pool_and_its_queue_is_refused_at_once(start: Starter, long: Long) -> None:
    server = start(transport="native", options=TransportOptions(max_workers=1, max_queued=0))
    with connect(server.addresses[0]) as channel:
        running = channel.unary_unary(LONG).future(b"x")
        assert long.entered.wait(LIMIT_S)
        code, details = failure(channel.unary_unary(LONG).future(b"y"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == "too many calls: 1 are running and 0 are waiting"
        long.release.set()
        assert running.result(LIMIT_S) == b"x"


def test_grpcio_refuses_calls_beyond_the_pool_and_its_queue(start: Starter, long: Long) -> None:
    server = start(transport="grpcio", options=TransportOptions(max_workers=1, max_queued=0))
    with connect(server.addresses[0]) as channel:
        running = channel.unary_unary(LONG).future(b"x")
        assert long.entered.wait(LIMIT_S)
        assert failure(channel.unary_unary(LONG).future(b"y"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        long.release.set()
        assert running.result(LIMIT_S) == b"x"


@both_transports
def test_a_call_given_up_by_its_client_is_marked_cancelled(
    start: Starter, transport: Transport, long: Long
) -> None:
    server = start(transport=transport)
    with connect(server.addresses[0]) as channel:
        running = channel.unary_unary(LONG).future(b"x")
        assert long.entered.wait(LIMIT_S)
        running.cancel()
        # The cancellation travels ahead of this call on the one connection, but on another thread.
        for _ in range(1000):
            channel.unary_unary(ECHO)(b"")
            if long.contexts[0].cancelled:
                break
        assert long.contexts[0].cancelled


def test_a_queued_call_whose_client_has_left_is_not_run(start: Starter, long: Long) -> None:
    server = start(transport="native", options=TransportOptions(max_workers=1, max_queued=2))
    with connect(server.addresses[0]) as channel:
        running = channel.unary_unary(LONG).future(b"first")
        assert long.entered.wait(LIMIT_S)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(LONG)(b"expired", timeout=0.05)
        last = channel.unary_unary(LONG).future(b"last")
        long.release.set()
        assert running.result(LIMIT_S) == b"first"
        assert last.result(LIMIT_S) == b"last"
    assert len(long.contexts) == 2


class _Counting(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A server-streaming and a bidirectional method."""

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == "/test.Stream/Count":
            return grpc.unary_stream_rpc_method_handler(lambda request, _: iter([b"1", b"2", request]))
        if handler_call_details.method == "/test.Stream/Chat":
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, _: (b"<" + request for request in requests)
            )
        return None


@both_transports
def test_generic_handlers_carry_streaming_methods(start: Starter, transport: Transport) -> None:
    server = start(transport=transport, generic_handlers=[_Counting()])
    with connect(server.addresses[0]) as channel:
        assert list(channel.unary_stream("/test.Stream/Count")(b"3")) == [b"1", b"2", b"3"]
        chat = channel.stream_stream("/test.Stream/Chat")(iter([b"a", b"b"]))
        assert list(chat) == [b"<a", b"<b"]
        code, details = failure(channel.unary_unary("/test.Stream/Else").future(b""))
        assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "")


def test_auto_takes_the_native_transport_and_its_channel_arguments(start: Starter) -> None:
    options = TransportOptions(channel_arguments=(("grpc.max_concurrent_streams", 7),))
    assert start(options=options).transport == "native"


def test_auto_takes_grpcio_for_arguments_the_native_transport_lacks(start: Starter) -> None:
    options = TransportOptions(channel_arguments=(("grpc.max_connection_age_ms", 60000),))
    server = start(options=options)
    assert server.transport == "grpcio"
    assert call(server.addresses[0], ECHO, b"x") == b"x"


def test_native_by_name_says_why_it_cannot_serve_tls() -> None:
    options = TransportOptions(credentials=grpc.ssl_server_credentials([(b"key", b"certificate")]))
    assert GrpcServer({ECHO: echo}, ["127.0.0.1:0"], options=options).transport == "grpcio"
    with pytest.raises(UnavailableError, match="it has no TLS"):
        GrpcServer({ECHO: echo}, ["127.0.0.1:0"], transport="native", options=options)


@both_transports
def test_stop_may_come_before_start_and_more_than_once(transport: Transport) -> None:
    server = GrpcServer({ECHO: echo}, ["127.0.0.1:0"], transport=transport)
    server.stop()
    server.stop()
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()


def test_several_servers_share_a_process(start: Starter) -> None:
    first, second = start(), start()
    first.stop()
    assert call(second.addresses[0], ECHO, b"x") == b"x"


@both_transports
def test_a_server_nobody_stops_does_not_hold_the_interpreter(transport: Transport) -> None:
    script = (
        "from inserve.frontends.grpc_api.grpc_server import GrpcServer\n"
        f"GrpcServer({{}}, ['127.0.0.1:0'], transport={transport!r}).start()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], timeout=LIMIT_S, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("methods", [{"no-slash": echo}, {"/only-service": echo}, {"//x": echo}])
def test_a_path_that_is_no_method_path_is_refused(methods: Any) -> None:
    with pytest.raises(ValueError, match=r"expected '/package\.Service/Method'"):
        GrpcServer(methods, ["127.0.0.1:0"])


def test_a_server_without_addresses_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one address"):
        GrpcServer({}, [])
