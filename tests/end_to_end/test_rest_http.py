"""The REST API over real models and real sockets: how clients behave, and what the C++ server has not."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import inserve
from inserve.frontends.rest_api.http_front import HttpLimits
from inserve.frontends.rest_api.rest_server import RestServer
from inserve.protos import messages

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
PREDICT = "/v1/models/half_plus_two:predict"
BODY = b'{"instances": [1.0, 2.0]}'
RIGHT = {"predictions": [3.5, 4.0]}
LIMIT_S = 60.0
MAX_BODY_BYTES = 8 << 20
ASKS_TO_CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[inserve.Server]:
    names = ("half_plus_two", "cnn", "lookup", "slow", "multi", "types")
    models = {name: MODELS / name for name in names}
    with inserve.Server(models=models, rest="127.0.0.1:0", rest_max_body_bytes=MAX_BODY_BYTES) as server:
        yield server


@pytest.fixture
def port(server: inserve.Server) -> int:
    assert server.rest_port is not None
    return server.rest_port


@pytest.fixture
def http_client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client:
        yield client


@pytest.fixture
def wire(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as connection:
        yield connection


def request(body: bytes = BODY, headers: bytes = b"", path: str = PREDICT) -> bytes:
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), headers, body)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def read_answer(connection: socket.socket) -> tuple[int, Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    body = answer.read()
    return answer.status, json.loads(body) if body.startswith(b"{") else body


# --- how clients behave ---------------------------------------------------------------------------


def test_a_client_with_a_pool_of_connections_is_served(http_client: httpx.Client) -> None:
    for _ in range(20):
        assert http_client.post(PREDICT, content=BODY).json() == RIGHT


def test_pipelined_requests_are_answered_in_order(wire: socket.socket) -> None:
    bodies = [b'{"inputs": [%d]}' % number for number in range(500)]
    wire.sendall(b"".join(map(request, bodies[:-1])) + request(bodies[-1], ASKS_TO_CLOSE))
    answers = read_all(wire).split(b"HTTP/1.1 ")[1:]
    values = [json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"] for answer in answers]
    assert values == [[number / 2 + 3] for number in range(500)]


def test_a_long_run_holds_up_its_own_connection_only(port: int, wire: socket.socket) -> None:
    wire.sendall(request(path="/v1/models/slow:predict") + request())
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as other:
        other.sendall(request())
        assert read_answer(other) == (200, RIGHT)
        wire.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.recv(1, socket.MSG_PEEK)
    wire.settimeout(LIMIT_S)
    assert read_answer(wire)[0] == 200


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/slow:predict"])
def test_a_client_that_has_finished_writing_is_answered(wire: socket.socket, path: str) -> None:
    wire.sendall(request(b'{"instances": [1.0]}', path=path))
    wire.shutdown(socket.SHUT_WR)
    assert b"200 OK" in read_all(wire)


def test_a_client_that_resets_its_connection_harms_nobody(port: int, http_client: httpx.Client) -> None:
    for data in (request()[:30], request(), request(path="/v1/models/slow:predict")):
        connection = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(data)
        connection.close()
    assert http_client.post(PREDICT, content=BODY).json() == RIGHT


def test_a_request_that_comes_byte_by_byte_is_answered(wire: socket.socket) -> None:
    for byte in request(BODY, ASKS_TO_CLOSE):
        wire.sendall(bytes([byte]))
    assert read_answer(wire) == (200, RIGHT)


def test_a_chunked_body_is_answered(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        for _ in range(2):
            connection.request("POST", PREDICT, iter([BODY[:7], BODY[7:]]), encode_chunked=True)
            assert json.loads(connection.getresponse().read()) == RIGHT
    finally:
        connection.close()


def test_a_large_body_and_a_large_answer_pass(http_client: httpx.Client) -> None:
    values = [number / 4 for number in range(300_000)]
    answer = http_client.post(PREDICT, json={"instances": values})
    assert answer.json() == {"predictions": [value / 2 + 3 for value in values]}


def test_an_answer_arrives_though_the_body_is_refused(wire: socket.socket) -> None:
    wire.sendall(request(bytes(MAX_BODY_BYTES + 1)))
    status, body = read_answer(wire)
    assert (status, list(body)) == (413, ["error"])


def test_a_slow_client_is_given_up_and_others_are_not(server: inserve.Server) -> None:
    rest = RestServer(server.asgi, ["127.0.0.1:0"], HttpLimits(request_timeout_s=0.5, idle_timeout_s=LIMIT_S))
    rest.start()
    try:
        assert rest.port is not None
        with (
            socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as slow,
            socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as body_less,
            socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as idle,
        ):
            slow.sendall(b"POST / HTTP/1.1\r\nX: ")
            body_less.sendall(request()[:-1])
            assert read_answer(slow)[0] == 408
            assert read_answer(body_less)[0] == 408
            idle.sendall(request())
            assert read_answer(idle) == (200, RIGHT)
    finally:
        rest.stop()


def test_connections_too_many_are_refused_until_others_end(server: inserve.Server) -> None:
    rest = RestServer(server.asgi, ["127.0.0.1:0"], HttpLimits(max_connections=2))
    rest.start()
    try:
        assert rest.port is not None
        with socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as kept:
            with socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as second:
                for connection in (kept, second):
                    connection.sendall(request())
                    assert read_answer(connection) == (200, RIGHT)
                with socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as third:
                    assert read_answer(third)[0] == 503
            deadline = time.monotonic() + LIMIT_S
            status = 503
            while status == 503 and time.monotonic() < deadline:
                with socket.create_connection(("127.0.0.1", rest.port), LIMIT_S) as again:
                    again.sendall(request())
                    status = read_answer(again)[0]
            assert status == 200
    finally:
        rest.stop()


def test_many_threads_may_ask_at_once(port: int) -> None:
    def ask(results: list[Any]) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S) as client:
            results.extend(client.post(PREDICT, content=BODY).json() for _ in range(20))

    results: list[Any] = []
    threads = [threading.Thread(target=ask, args=(results,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert results == [RIGHT] * 160


def test_requests_that_come_together_get_their_own_answers(server: inserve.Server, port: int) -> None:
    rounds, clients = 30, 12
    wires = [socket.create_connection(("127.0.0.1", port), LIMIT_S) for _ in range(clients)]
    before = total_of_requests(server)
    try:
        for number in range(rounds):
            for client, wire in enumerate(wires):
                values = [number, client] if client % 3 else [number]
                body = b'{"instances": %b}' % json.dumps(values).encode()
                wire.sendall(request(b'{"instances": ["a"]}' if client == number % clients else body))
            for client, wire in enumerate(wires):
                status, answer = read_answer(wire)
                if client == number % clients:
                    assert (status, list(answer)) == (400, ["error"])
                else:
                    values = [number, client] if client % 3 else [number]
                    assert (status, answer) == (200, {"predictions": [value / 2 + 3 for value in values]})
    finally:
        for wire in wires:
            wire.close()
    after = total_of_requests(server)
    assert after["OK"] - before["OK"] == rounds * (clients - 1)
    assert after["INVALID_ARGUMENT"] - before["INVALID_ARGUMENT"] == rounds


def test_images_that_come_together_have_the_answers_that_they_have_alone(port: int) -> None:
    rounds, clients = 20, 12
    images = np.random.default_rng(3).standard_normal((clients, 1, 28, 28, 1)).astype(np.float32)
    asked = [
        request(b'{"instances": %b}' % json.dumps(image.tolist()).encode(), path="/v1/models/cnn:predict")
        for image in images
    ]
    wires = [socket.create_connection(("127.0.0.1", port), LIMIT_S) for _ in range(clients)]
    try:
        alone = []
        for wire, one in zip(wires, asked, strict=True):
            wire.sendall(one)
            alone.append(read_answer(wire))
        assert [status for status, _ in alone] == [200] * clients
        for _ in range(rounds):
            for wire, one in zip(wires, asked, strict=True):
                wire.sendall(one)
            assert [read_answer(wire) for wire in wires] == alone
    finally:
        for wire in wires:
            wire.close()


def total_of_requests(server: inserve.Server) -> Counter[str]:
    """Return how many requests were counted, by their status."""
    counted: Counter[str] = Counter()
    for metric in server.metrics.registry.snapshot():
        if metric.name == "/tensorflow/serving/request_count":
            for (_, status), count in metric.cells.items():
                assert isinstance(count, int)
                counted[status] += count
    return counted


# --- memory ---------------------------------------------------------------------------------------


def peak_growth(act: Callable[[], object]) -> int:
    """Return by how many bytes this process was larger than before while *act* ran."""
    process, start, over = psutil.Process(), 0, threading.Event()
    peaks = [start := process.memory_info().rss]

    def watch() -> None:
        while not over.wait(0.002):
            peaks.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        act()
    finally:
        over.set()
        watcher.join()
    return max(peaks) - start


def test_a_gzip_bomb_takes_no_memory(http_client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(400 << 20), 9)
    assert len(bomb) < MAX_BODY_BYTES
    lies = bomb[:-4] + (1000).to_bytes(4, "little")

    def send() -> None:
        for body in (bomb, lies):
            answer = http_client.post(PREDICT, content=body, headers={"Content-Encoding": "gzip"})
            assert answer.json()["error"] == "JSON Parse error: The document is empty"

    assert peak_growth(send) < 100 << 20


def test_a_length_that_is_only_announced_takes_no_memory(port: int) -> None:
    connections = []

    def announce() -> None:
        for _ in range(50):
            connection = socket.create_connection(("127.0.0.1", port), LIMIT_S)
            connections.append(connection)
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n{" % MAX_BODY_BYTES)

    try:
        assert peak_growth(announce) < 50 << 20
    finally:
        for connection in connections:
            connection.close()


# --- beyond the C++ server ------------------------------------------------------------------------


def test_models_are_listed_with_their_versions(http_client: httpx.Client) -> None:
    models = {model["name"]: model["versions"] for model in http_client.get("/v1/models").json()["models"]}
    assert models.keys() == {"half_plus_two", "cnn", "lookup", "slow", "multi", "types"}
    assert models["half_plus_two"][0] == {
        "version": "2",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


@pytest.mark.parametrize("model", ["half_plus_two", "cnn", "lookup", "slow", "types", "multi"])
def test_the_examples_of_a_description_work_as_they_are(http_client: httpx.Client, model: str) -> None:
    document = http_client.get(f"/v1/models/{model}/openapi.json").json()
    content = document["paths"][f"/v1/models/{model}:predict"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    examples.pop("unequal_instances", None)  # its outputs have unequal first sizes, which no signature states
    statuses = {
        name: http_client.post(f"/v1/models/{model}:predict", json=example["value"]).status_code
        for name, example in examples.items()
    }
    assert statuses
    assert statuses == dict.fromkeys(statuses, 200)


def test_a_description_of_one_version_calls_that_version(http_client: httpx.Client) -> None:
    document = http_client.get("/v1/models/half_plus_two/versions/2/openapi.json").json()
    assert document["info"]["version"] == "2"
    assert "/v1/models/half_plus_two/versions/2:predict" in document["paths"]
    assert http_client.get("/v1/models/half_plus_two/versions/77/openapi.json").status_code == 404


def test_an_array_goes_in_and_out_as_npy(http_client: httpx.Client) -> None:
    array = np.linspace(-1, 1, 100_001)
    stream = io.BytesIO()
    np.save(stream, array)
    kind = "application/x-npy"
    answer = http_client.post(
        PREDICT, content=stream.getvalue(), headers={"Content-Type": kind, "Accept": kind}
    )
    assert answer.headers["content-type"] == kind
    outputs = np.load(io.BytesIO(answer.content), allow_pickle=False)
    np.testing.assert_array_equal(outputs, array.astype(np.float32) / 2 + 3)


def test_several_outputs_of_an_array_are_json(http_client: httpx.Client) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 28, 28, 1), np.float32))
    kind = "application/x-npy"
    answer = http_client.post(
        "/v1/models/cnn:predict", content=stream.getvalue(), headers={"Content-Type": kind, "Accept": kind}
    )
    assert {alias: len(rows) for alias, rows in answer.json()["outputs"].items()} == {
        "classes": 2,
        "probabilities": 2,
    }


def test_a_message_goes_in_and_out_serialized(http_client: httpx.Client) -> None:
    message = messages.PredictRequest()
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_shape.dim.add(size=2)
    message.inputs["x"].float_val.extend([1.0, 2.0])
    answer = http_client.post(
        PREDICT, content=message.SerializeToString(), headers={"Content-Type": "application/x-protobuf"}
    )
    response = messages.PredictResponse.FromString(answer.content)
    assert (response.model_spec.name, response.model_spec.version.value) == ("half_plus_two", 2)
    assert list(response.outputs["y"].float_val) == [3.5, 4.0]


async def test_the_application_runs_below_another_one(server: inserve.Server) -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        """Mount the API at /tf the way frameworks do."""
        await server.asgi({**scope, "root_path": "/tf"}, receive, send)

    transport = httpx.ASGITransport(host)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post("/tf" + PREDICT, content=BODY)).json() == RIGHT
        slow = await client.post("/tf/v1/models/slow:predict", content=b'{"instances": [1.0]}')
        assert slow.status_code == 200
        document = (await client.get("/tf/v1/models/cnn/openapi.json")).json()
        assert document["servers"] == [{"url": "/tf"}]
        assert (await client.get("/tf/elsewhere")).status_code == 404
