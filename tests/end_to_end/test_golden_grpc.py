"""Recorded answers of the C++ server's gRPC port, asked again on every way in.

Batching and the ModelService have files of their own.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import inserve
from inserve.frontends.grpc_api.grpc_server import TransportName

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SERVERS = ("main", "tensor_content", "method_check", "health")
MODEL_SERVICE_CATEGORIES = ("status", "reload")
WAYS = ("native", "grpcio", "in-process")
TRANSPORTS: dict[str, TransportName] = {"native": "native", "grpcio": "grpcio", "in-process": "auto"}


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases() -> list[dict[str, Any]]:
    lines = (GOLDEN / "grpc.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    return [
        case
        for case in cases
        if case["server"] in SERVERS and case["category"] not in MODEL_SERVICE_CATEGORIES
    ]


def _ways(case: dict[str, Any]) -> tuple[str, ...]:
    """Return the ways in on which *case* can be asked: health is answered at addresses only."""
    return WAYS[:2] if case["server"] == "health" else WAYS


PAIRS = [(case, way) for case in _cases() for way in _ways(case)]


@pytest.fixture(scope="module")
def replay() -> Any:
    return _load_replay()


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], grpc.Channel]]:
    """A channel for each recorded server configuration and each way in."""
    config = json.loads((GOLDEN / "servers.json").read_text())["main"]["files"]["models.config"]
    all_models = tmp_path_factory.mktemp("golden") / "models.config"
    all_models.write_text(config.replace("${MODELS}", str(GOLDEN / "models")))
    opened: dict[tuple[str, str], grpc.Channel] = {}
    servers = []
    try:
        for name in SERVERS:
            for way in WAYS:  # a server for each: one model counts its calls
                server = inserve.Server(
                    models={"half_plus_two": GOLDEN / "models" / "half_plus_two"}
                    if name == "health"
                    else all_models,
                    grpc=None if way == "in-process" else "127.0.0.1:0",
                    grpc_transport=TRANSPORTS[way],
                    check_shapes=False,
                    serialize_as_tensor_content=name == "tensor_content",
                    enable_signature_method_name_check=name == "method_check",
                    allow_remote_reload=True,
                    enable_grpc_healthcheck_service=name == "health",
                    allow_version_labels_for_unavailable_models=True,
                )
                server.start()
                servers.append(server)
                opened[name, way] = (
                    server.channel()
                    if way == "in-process"
                    else grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
                )
        yield opened
    finally:
        for channel in opened.values():
            channel.close()
        for server in servers:
            server.stop()


@pytest.mark.parametrize(("case", "way"), PAIRS, ids=[f"{case['id']}-{way}" for case, way in PAIRS])
def test_the_answer_is_the_recorded_one(
    case: dict[str, Any], way: str, channels: dict[tuple[str, str], grpc.Channel], replay: Any
) -> None:
    server = SimpleNamespace(channel=channels[case["server"], way], unfill=lambda text: text)
    got = replay.ask_grpc(server, case)
    assert replay.judge("grpc", server, case, got, died=False) is None
