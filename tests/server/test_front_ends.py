"""What a server offers beside plain calls: each part reached through ``Server`` itself."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

import inserve
from inserve.protos import messages

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
HALF_PLUS_TWO = MODELS / "half_plus_two"
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[inserve.Server]:
    with inserve.Server(
        models={"half_plus_two": HALF_PLUS_TWO, "batchable": MODELS / "batchable"},
        grpc="127.0.0.1:0",
        rest="127.0.0.1:0",
        prometheus_path="/metrics",
        batching="auto",
        enable_reflection=True,
        enable_session_service=True,
        enable_grpc_healthcheck_service=True,
    ) as server:
        yield server


def get(server: inserve.Server, target: str, body: bytes | None = None) -> str:
    url = f"http://127.0.0.1:{server.rest_port}{target}"
    with urllib.request.urlopen(url, body, timeout=LIMIT_S) as response:
        return str(response.read().decode())


def call(server: inserve.Server, path: str, request: Any) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer: bytes = channel.unary_unary(path, None, None)(request.SerializeToString(), timeout=LIMIT_S)
        return answer


def test_rest_answers_at_the_port_that_was_taken(server: inserve.Server) -> None:
    assert server.rest_addresses == (f"127.0.0.1:{server.rest_port}",)
    body = get(server, "/v1/models/half_plus_two:predict", b'{"instances": [1.0, 5.0]}')
    assert json.loads(body) == {"predictions": [3.5, 5.5]}


async def test_the_rest_api_mounts_into_another_application(server: inserve.Server) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith("/tf/")
        await server.asgi({**scope, "root_path": "/tf"}, receive, send)

    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        response = await client.get("/tf/v1/models/half_plus_two")
    assert response.status_code == 200
    assert response.json()["model_version_status"][0]["state"] == "AVAILABLE"


def test_both_front_ends_count_on_the_page_for_prometheus(server: inserve.Server) -> None:
    def count() -> int:
        line = ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} '
        return sum(int(each[len(line) :]) for each in get(server, "/metrics").splitlines() if line in each)

    before = count()
    get(server, "/v1/models/half_plus_two:predict", b'{"instances": [1.0]}')
    request = messages.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(1.0)
    request.inputs["x"].tensor_shape.dim.add(size=1)
    call(server, "/tensorflow.serving.PredictionService/Predict", request)
    assert count() == before + 2


def test_tensors_can_be_asked_for_by_their_names_in_the_graph(server: inserve.Server) -> None:
    request = messages.SessionRunRequest()
    request.model_spec.name = "half_plus_two"
    feed = request.feed.add(name="serving_default_x:0")
    feed.tensor.dtype = 1
    feed.tensor.float_val.append(2.0)
    feed.tensor.tensor_shape.dim.add(size=1)
    request.fetch.append("StatefulPartitionedCall:0")
    answer = call(server, "/tensorflow.serving.SessionService/SessionRun", request)
    response = messages.SessionRunResponse.FromString(answer)
    outputs = server.predict("half_plus_two", {"x": [2.0]})
    assert list(response.tensor[0].tensor.float_val) == outputs["y"].tolist()


def test_health_follows_a_model_that_is_added_and_removed(server: inserve.Server) -> None:
    def serving(name: str) -> int:
        answer = call(server, "/grpc.health.v1.Health/Check", messages.HealthCheckRequest(service=name))
        return int(messages.HealthCheckResponse.FromString(answer).status)

    server.models.add("added", HALF_PLUS_TWO)
    assert serving("added") == 1
    server.models.remove("added")
    with pytest.raises(grpc.RpcError) as error:
        serving("added")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_status_says_how_a_version_is_run(server: inserve.Server) -> None:
    status = server.models.status("half_plus_two")
    assert status.tuning is not None
    assert status.tuning == status.versions[0].tuning
    assert {size.signature for size in status.tuning.sizes} == {"serving_default"}


def test_batching_is_explained_and_can_be_changed(server: inserve.Server) -> None:
    assert "batchable" in server.explain_batching("batchable")
    server.set_batching("batchable", inserve.BatchingOptions(max_batch_size=2))
    with pytest.raises(inserve.InvalidArgumentError, match="Task size 3 is larger"):
        server.predict("batchable", {"x": np.ones((3, 1), np.float32)})
    server.set_batching("batchable", inserve.BatchingOptions(max_batch_size=100))
    assert server.predict("batchable", {"x": np.ones((3, 1), np.float32)})["sum"].shape[0] == 3


def test_callers_at_once_each_get_their_own_answer(server: inserve.Server) -> None:
    def ask(number: int) -> bool:
        x = np.array([[float(number)]], np.float32)
        return bool(server.predict("batchable", {"x": x})["sum"][0] == number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def test_calls_received_together_each_get_their_own_answer(server: inserve.Server) -> None:
    def request(number: int) -> bytes:
        message = messages.PredictRequest()
        message.model_spec.name = "half_plus_two"
        tensor = message.inputs["x"]
        tensor.dtype = 1 if number % 10 else 3  # every tenth is of a wrong dtype
        tensor.tensor_shape.dim.add(size=1)
        (tensor.float_val if number % 10 else tensor.int_val).append(number)
        return message.SerializeToString()

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict", None, None)
        calls: list[Any] = [predict.future(request(number), timeout=LIMIT_S) for number in range(400)]
        for number, call in enumerate(calls):
            error = call.exception(LIMIT_S)
            if number % 10 == 0:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                continue
            outputs = messages.PredictResponse.FromString(call.result()).outputs
            assert list(outputs["y"].float_val) == [number / 2 + 3]


def test_a_model_that_is_not_batched_has_nothing_to_explain() -> None:
    with inserve.Server(models={"half_plus_two": HALF_PLUS_TWO}) as server:
        with pytest.raises(inserve.FailedPreconditionError, match="does not batch"):
            server.explain_batching("half_plus_two")
        with pytest.raises(inserve.FailedPreconditionError, match="does not batch"):
            server.set_batching("half_plus_two", inserve.BatchingOptions())


def test_batching_of_another_kind_is_refused_when_a_server_is_made() -> None:
    with pytest.raises(ValueError, match="batching is 'sometimes'"):
        inserve.Server(batching="sometimes")  # type: ignore[arg-type]
    with pytest.raises(inserve.InvalidArgumentError, match="num_batch_threads must be positive; was 0"):
        inserve.Server(batching=inserve.BatchingOptions(num_batch_threads=0))
