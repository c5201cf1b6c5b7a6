"""A connection driven by hand: a transport that keeps what is written, a loop whose clock stands still."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inserve.frontends.rest_api.app import RestOptions
from inserve.frontends.rest_api.http_connection import HttpConnection
from inserve.frontends.rest_api.http_front import HttpFront, HttpLimits

BODY = b'{"instances": [1.0]}'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def post(body: bytes = BODY, *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST /v1/models/m:predict HTTP/" + version, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.unsent = 0
        self.is_paused = False
        self.has_written_eof = False
        self.end = ""
        """``close`` or ``abort``."""

    def write(self, data: bytes) -> None:
        assert not self.end
        assert not self.has_written_eof
        self.written += data

    def write_eof(self) -> None:
        self.has_written_eof = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return bool(self.end)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.end = self.end or "close"

    def abort(self) -> None:
        self.end = "abort"


class Loop:
    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[Callable[[], Any]] = []
        self.next_turn: list[Callable[[], Any]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.next_turn.append(call)

    def call_soon_threadsafe(self, call: Callable[..., Any], *args: Any) -> None:
        self.calls.append(lambda: call(*args))

    def turn(self) -> None:
        while self.next_turn:
            self.next_turn.pop(0)()

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        self.turn()


class Wire:
    """One connection to a server, and what came out of it."""

    def __init__(self, bench: Any, limits: HttpLimits, options: RestOptions | None = None) -> None:
        self.bench = bench
        self.loop = Loop()
        self.front = HttpFront(bench.app(options), limits, cast(Any, self.loop))
        self.transport, self.connection = self.open()

    def open(self) -> tuple[Transport, HttpConnection]:
        transport, connection = Transport(), HttpConnection(self.front)
        connection.connection_made(cast(Any, transport))
        return transport, connection

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)
        self.loop.turn()

    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds
        self.front.tick()

    def has_ended(self) -> bool:
        return bool(self.transport.end)

    def run_pool(self) -> int:
        count: int = self.bench.pool.run_all()
        self.loop.run()
        return count

    def answers(self) -> list[tuple[int, Any]]:
        """Return status and body of every answer so far; JSON is parsed."""
        found = []
        rest = self.transport.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            status = int(lines[0].split()[1])
            fields = dict(line.split(b": ", 1) for line in lines[1:])
            length = int(fields.get(b"Content-Length", b"0"))
            body, rest = rest[:length], rest[length:]
            found.append((status, json.loads(body) if body.startswith(b"{") else body))
        return found

    def statuses(self) -> list[int]:
        return [status for status, _ in self.answers()]


@pytest.fixture
def wire(bench: Any) -> Wire:
    return Wire(bench, HttpLimits(request_timeout_s=30, idle_timeout_s=60, write_timeout_s=20))


PIECES = [
    post(),
    post(BODY, b"Expect: 100-continue"),
    b"POST /v1/models/m:predict HTTP/1.1\r\n",
    b"GET /v1/models/m HTTP/1.0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 500\r\n",
    b"Connection: close\r\n",
    b"\r\n",
    b"\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"FFFF\r\n",
    b"hello",
]

ANSWER = (200, {"predictions": [2.0]})


# --- requests in, answers out ---------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 40, 1000])
def test_the_pieces_a_request_comes_in_make_no_difference(wire: Wire, step: int) -> None:
    data = post() + post()
    for start in range(0, len(data), step):
        wire.send(data[start : start + step])
    assert wire.answers() == [ANSWER, ANSWER]
    assert not wire.has_ended()


def test_a_chunked_request_and_one_behind_it_are_answered(wire: Wire) -> None:
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head + b"5\r\n" + BODY[:5])
    wire.send(b"\r\n%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\n\r\n" + post())
    assert wire.answers() == [ANSWER, ANSWER]


def test_an_answer_has_date_type_and_length_and_nothing_else(wire: Wire) -> None:
    wire.send(post())
    head = wire.transport.written.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sorted(names) == [b"Content-Length", b"Content-Type", b"Date"]


def test_empty_lines_before_a_request_are_skipped(wire: Wire) -> None:
    wire.send(b"\r\n\r\n" + post() + b"\r\n" + post())
    assert wire.answers() == [ANSWER, ANSWER]


def test_answers_come_in_the_order_of_the_requests(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post() + b"GET /v1/models/m HTTP/1.1\r\n\r\n")
    wire.send(b"GET /elsewhere HTTP/1.1\r\n\r\n")
    assert wire.answers() == []
    wire.run_pool()
    assert wire.statuses() == [200, 200, 404]


def test_a_connection_closes_after_the_answer_where_the_client_wants_it(wire: Wire) -> None:
    wire.send(post(BODY, b"Connection: close") + post())
    assert wire.answers() == [ANSWER]
    assert b"\r\nConnection: close\r\n" in wire.transport.written
    assert wire.transport.has_written_eof


def test_an_old_client_that_keeps_its_connection_is_told_so(wire: Wire) -> None:
    wire.send(post(BODY, b"Connection: keep-alive", version=b"1.0"))
    assert b"\r\nConnection: keep-alive\r\n" in wire.transport.written
    wire.send(post(BODY, version=b"1.0"))
    assert wire.answers() == [ANSWER, ANSWER]
    assert wire.transport.has_written_eof


def test_head_is_answered_with_a_body_and_the_end(wire: Wire) -> None:
    wire.send(b"HEAD /v1/models/m HTTP/1.1\r\n\r\n")
    assert wire.answers() == [(400, {"error": "Malformed request: HEAD /v1/models/m"})]
    assert wire.transport.has_written_eof


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(wire: Wire) -> None:
    request = post(BODY, b"Expect: 100-continue")
    wire.send(request[: -len(BODY)])
    assert wire.transport.written == CONTINUE
    wire.send(BODY)
    assert wire.statuses() == [100, 200]


def test_a_client_that_does_not_wait_is_not_asked(wire: Wire) -> None:
    wire.send(post(BODY, b"Expect: 100-continue"))
    assert wire.statuses() == [200]


# --- what is malformed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\n\r\n", 501),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 413),
    ],
)
def test_what_cannot_be_read_gets_a_page_and_ends_the_connection(
    wire: Wire, data: bytes, status: int
) -> None:
    wire.send(post() + data + post())
    assert wire.statuses() == [200, status]
    assert wire.transport.has_written_eof


def test_what_comes_after_the_last_answer_is_thrown_away(wire: Wire) -> None:
    wire.send(b"garbage\r\n\r\n")
    wire.send(post())
    wire.send(bytes(1 << 20))
    assert wire.statuses() == [400]
    assert not wire.has_ended()
    wire.pass_time(3)
    assert wire.transport.end == "abort"


def test_a_client_that_never_stops_sending_is_cut_off(wire: Wire) -> None:
    wire.send(b"garbage\r\n\r\n")
    for _ in range(17):
        wire.send(bytes(1 << 20))
    assert wire.transport.end == "abort"


@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_a_head_over_the_limit_is_refused(bench: Any, tail: bytes) -> None:
    wire = Wire(bench, HttpLimits(max_head_bytes=200))
    wire.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 200 + tail)
    assert wire.statuses() == [431]


def test_a_body_over_the_limit_is_refused_before_it_comes(bench: Any) -> None:
    wire = Wire(bench, HttpLimits(), RestOptions(max_body_bytes=len(BODY)))
    wire.send(post())
    wire.send(b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n")
    assert wire.statuses() == [200, 413]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_chunked_body_over_the_limit_is_refused(bench: Any, is_whole: bool) -> None:
    wire = Wire(bench, HttpLimits(), RestOptions(max_body_bytes=4))
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head + (b"5\r\nabcde\r\n0\r\n\r\n" if is_whole else b"FFFFFF\r\n"))
    assert wire.statuses() == [413]


# --- clients that go ------------------------------------------------------------------------------


def test_a_request_that_comes_with_the_end_of_its_client_is_answered(wire: Wire) -> None:
    wire.connection.data_received(post())
    wire.open()[1].data_received(post())
    assert not wire.connection.eof_received()
    assert wire.statuses() == [200]


def test_the_request_of_a_client_that_is_gone_does_not_run(wire: Wire) -> None:
    wire.open()
    wire.connection.data_received(post())
    wire.connection.connection_lost(None)
    wire.loop.turn()
    assert wire.bench.asked == []


def test_a_client_that_has_only_finished_writing_gets_its_answers(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post() + post())
    assert wire.connection.eof_received()
    wire.run_pool()
    assert not wire.has_ended()
    wire.run_pool()
    assert [status for status in wire.statuses() if status != 100] == [200, 200]
    assert wire.transport.end == "close"


def test_a_client_that_ended_is_asked_whether_it_is_still_there(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post())
    wire.connection.eof_received()
    assert wire.transport.written == CONTINUE


def test_a_client_of_http_1_0_is_not_asked(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post(version=b"1.0"))
    assert wire.connection.eof_received()
    assert wire.transport.written == b""


def test_a_client_that_is_gone_is_not_run_for(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post() + post())
    wire.connection.connection_lost(None)
    assert wire.run_pool() == 0
    assert wire.front.connections == set()


def test_a_client_that_ends_within_a_request_is_closed(wire: Wire) -> None:
    wire.send(post()[:-1])
    assert not wire.connection.eof_received()


def test_a_client_that_ends_within_its_second_request_is_closed_after_the_first(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post() + post()[:-1])
    wire.connection.eof_received()
    wire.run_pool()
    assert wire.transport.end == "close"


# --- clients that are slow, or too many -----------------------------------------------------------


def test_a_connection_without_requests_is_closed_after_a_while(wire: Wire) -> None:
    wire.pass_time(50)
    wire.send(post())
    wire.pass_time(59)
    assert not wire.has_ended()
    wire.pass_time(2)
    assert wire.transport.end == "close"
    assert wire.statuses() == [200]


def test_a_head_that_dribbles_in_is_given_up(wire: Wire) -> None:
    for byte in b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaa":
        wire.pass_time(1)
        wire.send(bytes([byte]))
    assert wire.statuses() == [408]


def test_a_body_has_a_second_more_for_each_kibibyte(wire: Wire) -> None:
    body = b'{"instances": [1.0' + b" " * (40 << 10) + b"]}"
    data = post(body)
    wire.send(data[: 20 << 10])
    wire.pass_time(45)
    assert wire.statuses() == []
    wire.pass_time(10)
    assert wire.statuses() == [408]


def test_a_body_in_single_bytes_takes_no_more_memory_than_it_has(wire: Wire) -> None:
    body = b'{"instances": [1.0' + b" " * 100_000 + b"]}"
    wire.send(post(body)[: -len(body)])
    tracemalloc.start()
    try:
        for byte in body[:-1]:
            wire.send(bytes([byte]))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * len(body)
    wire.send(body[-1:])
    assert wire.answers() == [ANSWER]


def test_a_run_is_not_given_up_for_its_client(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post())
    wire.pass_time(3600)
    wire.run_pool()
    assert wire.answers() == [ANSWER]


def test_a_client_that_takes_no_answer_is_cut_off(wire: Wire) -> None:
    wire.send(post())
    wire.transport.unsent = 5000
    wire.pass_time(1)
    wire.transport.unsent = 4000
    wire.pass_time(19)
    wire.pass_time(19)
    assert not wire.has_ended()
    wire.pass_time(2)
    assert wire.transport.end == "abort"


def test_requests_wait_while_the_client_takes_no_answers(wire: Wire) -> None:
    wire.connection.pause_writing()
    wire.send(post() + post())
    assert wire.statuses() == [200]
    wire.send(bytes(70 << 10))
    assert wire.transport.is_paused


def test_requests_go_on_when_the_client_takes_answers_again(wire: Wire) -> None:
    wire.connection.pause_writing()
    wire.send(post() + post())
    wire.connection.resume_writing()
    wire.loop.turn()
    assert wire.statuses() == [200, 200]
    assert not wire.transport.is_paused


def test_a_client_that_sends_ahead_of_a_run_is_not_read_without_end(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post())
    wire.send(post() * 1000)
    assert wire.transport.is_paused
    wire.bench.is_long = False
    wire.run_pool()
    assert len(wire.answers()) == 1001
    assert not wire.transport.is_paused


def test_a_connection_too_many_gets_503(bench: Any) -> None:
    wire = Wire(bench, HttpLimits(max_connections=1))
    transport, _ = wire.open()
    assert transport.written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert transport.has_written_eof
    wire.send(post())
    assert wire.answers() == [ANSWER]


def test_far_too_many_connections_get_nothing(bench: Any) -> None:
    wire = Wire(bench, HttpLimits(max_connections=1))
    ends = [wire.open()[0].end for _ in range(300)]
    assert ends[0] == ""
    assert ends[-1] == "abort"
    assert len(wire.front.connections) < 200


# --- the end of the server ------------------------------------------------------------------------


def test_a_server_that_stops_closes_what_is_idle_and_finishes_what_runs(wire: Wire) -> None:
    idle, idle_connection = wire.open()
    wire.bench.is_long = True
    wire.send(post())
    idle_connection.finish()
    wire.connection.finish()
    assert (idle.end, wire.transport.end) == ("close", "")
    wire.run_pool()
    assert wire.answers() == [ANSWER]
    assert wire.transport.has_written_eof


def test_a_server_that_can_wait_no_longer_refuses_what_runs(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post())
    wire.connection.refuse()
    assert wire.statuses() == [503]
    assert wire.transport.end == "close"
    assert wire.run_pool() == 0


def test_a_pool_that_stops_is_answered_with_503(wire: Wire) -> None:
    wire.bench.is_long = True
    wire.send(post())
    wire.bench.pool.cancel_all()
    wire.loop.run()
    assert wire.statuses() == [503]


def test_remembered_heads_have_a_bound(wire: Wire) -> None:
    first = weakref.ref(wire.front.understand(b"GET /0 HTTP/1.1\r\n\r\n").route)
    for number in range(1, 3000):
        wire.send(b"GET /%d HTTP/1.1\r\n\r\n" % number)
    assert first() is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=30), st.integers(1, 50))
def test_no_bytes_whatever_upset_a_connection(bench: Any, pieces: list[bytes], step: int) -> None:
    wire = Wire(bench, HttpLimits(max_head_bytes=500), RestOptions(max_body_bytes=100))
    data = b"".join(pieces)
    for start in range(0, len(data), step):
        wire.send(data[start : start + step])
        wire.run_pool()
        wire.pass_time(1)
    if not wire.connection.eof_received():
        wire.transport.close()
    assert wire.has_ended()
    assert wire.transport.written == b"" or wire.transport.written.startswith(b"HTTP/1.1 ")


def test_requests_leave_nothing_to_the_garbage_collector(wire: Wire) -> None:
    def ask() -> None:
        for is_long in (False, True):
            wire.bench.is_long = is_long
            for body in (BODY, b"{", b'{"signature_name": "zz", "inputs": 1}'):
                wire.send(post(body))
                wire.run_pool()

    ask()
    gc.collect()
    gc.disable()
    try:
        ask()
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "field", ["max_connections", "max_head_bytes", "request_timeout_s", "idle_timeout_s"]
)
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        HttpLimits(**{field: 0})
