from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inserve.frontends.grpc_api.grpc_server import GrpcServer, TransportName
from inserve.frontends.grpc_api.health_service import HealthWatchHandler, health_service_methods
from inserve.handlers.health import HealthHandler

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "grpc.jsonl"
CASES = [case for case in map(json.loads, GOLDEN.read_text().splitlines()) if case["category"] == "health"]
LIMIT_S = 30.0
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Scene:
    def __init__(self, transport: TransportName) -> None:
        self.models = {"model": True}
        self.health = HealthHandler(self.models.get)
        self.health.open()
        self.server = GrpcServer(
            health_service_methods(self.health),
            ["127.0.0.1:0"],
            transport=transport,
            generic_handlers=[HealthWatchHandler(self.health, 2)],
        )
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.check: Callable[..., Any] = self.channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        self.watch: Callable[..., Any] = self.channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)


@pytest.fixture(params=["native", "grpcio"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(request.param)
    yield made
    made.health.close()
    made.channel.close()
    made.server.stop(0.0)


def test_check_and_watch_are_answered(scene: Scene) -> None:
    assert scene.check(b"", timeout=LIMIT_S) == SERVING
    watch = scene.watch(b"", timeout=LIMIT_S)
    assert next(watch) == SERVING
    scene.health.close()
    assert list(watch) == [NOT_SERVING]


def test_watches_beyond_the_limit_are_refused_and_places_come_free(scene: Scene) -> None:
    watches = [scene.watch(b"", timeout=LIMIT_S) for _ in range(2)]
    assert [next(watch) for watch in watches] == [SERVING, SERVING]
    with pytest.raises(grpc.RpcError) as error:
        next(scene.watch(b"", timeout=LIMIT_S))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watches[0].cancel()
    answer = None
    while answer is None:
        with contextlib.suppress(grpc.RpcError):
            answer = next(scene.watch(b"", timeout=LIMIT_S))
    assert answer == SERVING


def test_garbage_is_refused_by_the_watch(scene: Scene) -> None:
    with pytest.raises(grpc.RpcError) as error:
        next(scene.watch(b"\xff\xff", timeout=LIMIT_S))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "could not parse request"


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_answer_is_the_recorded_one(scene: Scene, case: dict[str, Any]) -> None:
    request, expected = base64.b64decode(case["request_b64"]), case["response"]
    try:
        if case.get("stream"):
            call = scene.watch(request, timeout=LIMIT_S)
            answer = next(call)
            call.cancel()
        else:
            answer = scene.channel.unary_unary(case["method"], None, None)(request, timeout=LIMIT_S)
        got: tuple[str, str, str | None] = ("OK", "", base64.b64encode(answer).decode())
    except grpc.RpcError as error:
        got = (error.code().name, error.details() or "", None)
    assert got == (expected["code"], expected["message"], expected["message_b64"])


def test_a_model_is_checked_and_watched_by_its_name(scene: Scene) -> None:
    request = health_pb2.HealthCheckRequest(service="model").SerializeToString()
    assert scene.check(request, timeout=LIMIT_S) == SERVING
    watch = scene.watch(request, timeout=LIMIT_S)
    assert next(watch) == SERVING
    scene.models["model"] = False
    scene.health.changed()
    assert next(watch) == NOT_SERVING
    assert scene.check(request, timeout=LIMIT_S) == NOT_SERVING


def test_the_stub_of_grpcio_health_checking_is_answered(scene: Scene) -> None:
    stub = health_pb2_grpc.HealthStub(scene.channel)
    request = health_pb2.HealthCheckRequest(service="model")
    assert stub.Check(request, timeout=LIMIT_S).status == health_pb2.HealthCheckResponse.SERVING
