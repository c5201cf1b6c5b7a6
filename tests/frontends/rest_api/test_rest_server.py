from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inserve.errors import UnavailableError
from inserve.frontends.rest_api.app import RestOptions
from inserve.frontends.rest_api.rest_server import RestServer

BODY = b'{"instances": [1.0]}'
LIMIT_S = 30.0


def ask(port: int | None, body: bytes = BODY) -> tuple[int, Any]:
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("POST", "/v1/models/m:predict", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def server(bench: Any) -> Iterator[RestServer]:
    server = RestServer(bench.app(), ["127.0.0.1:0"])
    server.start()
    yield server
    server.stop()


def test_a_started_server_answers_at_its_address(server: RestServer) -> None:
    assert server.addresses == (f"127.0.0.1:{server.port}",)
    assert ask(server.port) == (200, {"predictions": [2.0]})


def test_several_servers_share_a_process_and_an_application(bench: Any) -> None:
    app = bench.app()
    servers = [RestServer(app, ["127.0.0.1:0", "127.0.0.1:0"]) for _ in range(3)]
    try:
        for server in servers:
            server.start()
        ports = [int(address.rpartition(":")[2]) for server in servers for address in server.addresses]
        assert len(set(ports)) == 6
        assert [ask(port)[0] for port in ports] == [200] * 6
    finally:
        for server in servers:
            server.stop()


def test_a_server_may_be_started_and_stopped_by_other_threads(bench: Any) -> None:
    server = RestServer(bench.app(), ["127.0.0.1:0"])
    for action in (server.start, server.stop):
        thread = threading.Thread(target=action)
        thread.start()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(server.port)


def test_a_stopped_server_leaves_no_thread_and_its_port_can_be_taken_again(bench: Any) -> None:
    first = RestServer(bench.app(), ["127.0.0.1:0"])
    first.start()
    assert "inserve-rest" in {thread.name for thread in threading.enumerate()}
    with socket.create_connection(("127.0.0.1", first.port or 0), LIMIT_S):
        first.stop()
    assert "inserve-rest" not in {thread.name for thread in threading.enumerate()}
    second = RestServer(bench.app(), [f"127.0.0.1:{first.port}"])
    second.start()
    second.stop()


def test_connections_that_come_while_a_server_stops_do_not_hold_it_up(bench: Any) -> None:
    app = bench.app()
    for _ in range(50):
        server = RestServer(app, ["127.0.0.1:0"])
        server.start()
        connections = [socket.socket() for _ in range(5)]
        for connection in connections:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", server.port))
        stopping = threading.Thread(target=server.stop, daemon=True)
        stopping.start()
        stopping.join(LIMIT_S)
        for connection in connections:
            connection.close()
        assert not stopping.is_alive()


def test_a_server_starts_once_and_stops_often(bench: Any) -> None:
    server = RestServer(bench.app(), ["127.0.0.1:0"])
    server.start()
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()
    server.stop()
    server.stop(1.0)
    with pytest.raises(RuntimeError, match="starts once"):
        server.start()


def test_a_server_that_was_never_started_can_be_stopped(bench: Any) -> None:
    server = RestServer(bench.app(), ["127.0.0.1:0"])
    assert (server.port, server.addresses) == (None, ())
    server.stop()


def test_an_address_that_is_taken_leaves_none_bound(bench: Any, server: RestServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    other = RestServer(bench.app(), [f"127.0.0.1:{free}", f"127.0.0.1:{server.port}"])
    with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        other.start()
    socket.create_server(("127.0.0.1", free)).close()


def test_addresses_are_checked_when_a_server_is_made(bench: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        RestServer(bench.app(), [])
    with pytest.raises(ValueError, match="host:port"):
        RestServer(bench.app(), ["nonsense"])
    with pytest.raises(ValueError, match="grace_s"):
        RestServer(bench.app(), ["127.0.0.1:0"]).stop(-1)


def test_a_run_may_end_within_the_grace_period(bench: Any, server: RestServer) -> None:
    bench.is_long = True
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server.port)))
    asking.start()
    assert bench.pool.was_given.wait(LIMIT_S)
    stopping = threading.Thread(target=server.stop, args=(LIMIT_S,))
    stopping.start()
    bench.pool.run_all()
    asking.join(LIMIT_S)
    stopping.join(LIMIT_S)
    assert answers == [(200, {"predictions": [2.0]})]
    assert not stopping.is_alive()


def test_a_run_beyond_the_grace_period_is_refused(bench: Any, server: RestServer) -> None:
    bench.is_long = True
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server.port)))
    asking.start()
    assert bench.pool.was_given.wait(LIMIT_S)
    server.stop()
    asking.join(LIMIT_S)
    assert answers == [(503, {"error": "server is shutting down"})]
    assert bench.pool.run_all() == 0


def test_a_large_answer_leaves_before_the_server_does(bench: Any) -> None:
    server = RestServer(bench.app(RestOptions(), metrics_page=lambda: b""), ["127.0.0.1:0"])
    server.start()
    body = json.dumps({"instances": [0.5] * 200_000}).encode()
    bench.is_long = True
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server.port, body)))
    asking.start()
    assert bench.pool.was_given.wait(LIMIT_S)
    stopping = threading.Thread(target=server.stop, args=(LIMIT_S,))
    stopping.start()
    bench.pool.run_all()
    asking.join(LIMIT_S)
    stopping.join(LIMIT_S)
    assert answers == [(200, {"predictions": [1.5] * 200_000})]


def test_a_server_left_running_does_not_keep_the_interpreter() -> None:
    program = (
        "from inserve.frontends.rest_api.app import RestApp, RestHandlers\n"
        "from inserve.frontends.rest_api.rest_server import RestServer\n"
        "app = RestApp(RestHandlers(*[type('H', (), {'predict_bound': 1})()] * 6), None)\n"
        "RestServer(app, ['127.0.0.1:0']).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
