"""Recorded REST answers of the C++ server, asked again over a socket."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import inserve

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OPTIONS: dict[str, dict[str, Any]] = {
    "main": {},
    "cors": {"rest_cors": True},
    "timeout": {"rest_timeout": 0.04},
    "no_timeout": {"rest_timeout": None},
    "method_check": {"enable_signature_method_name_check": True},
    "tensor_content": {"serialize_as_tensor_content": True},
    "monitor": {"prometheus_path": "/monitoring/prometheus/metrics"},
    "monitor_path": {"prometheus_path": "/v1/metrics"},
}
DIFFERENT = {
    "rest.status.033": "GET /v1/models lists the models",
    **dict.fromkeys(
        ("rest.tensor_content.002", "rest.tensor_content.009", "rest.tensor_content.010"),
        "with this option the C++ server answers zeros",
    ),
    **dict.fromkeys(
        ("rest.tensor_content.007", "rest.tensor_content.008"),
        "with this option the C++ server dies of strings",
    ),
}
"""Cases that are answered with 200 where the recording shows something else, on purpose."""

LOST_BYTES = "rest.run_error.033"
"""TensorFlow's message is no UTF-8; its bytes come through only where errors carry ``message_bytes``."""


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases() -> list[dict[str, Any]]:
    cases = [json.loads(line) for line in (GOLDEN / "rest.jsonl").read_text().splitlines()]
    return [case for case in cases if case["server"] in OPTIONS]


CASES = _cases()


@pytest.fixture(scope="module")
def replay() -> Any:
    return _load_replay()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The port of a REST server for each recorded configuration."""
    configs = json.loads((GOLDEN / "servers.json").read_text())
    opened: dict[str, int] = {}
    servers = []
    try:
        for name, options in OPTIONS.items():
            models: Any = {"half_plus_two": GOLDEN / "models" / "half_plus_two"}
            text = configs[name]["files"].get("models.config")
            if text is not None:
                models = tmp_path_factory.mktemp("golden") / "models.config"
                models.write_text(text.replace("${MODELS}", str(GOLDEN / "models")))
            server = inserve.Server(models=models, rest="127.0.0.1:0", check_shapes=False, **options)
            server.start()
            servers.append(server)
            assert server.rest_port is not None
            opened[name] = server.rest_port
        yield opened
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_answer_is_the_recorded_one(case: dict[str, Any], ports: dict[str, int], replay: Any) -> None:
    server = SimpleNamespace(
        rest_port=ports[case["server"]],
        fill=lambda text: text.replace("${MODELS}", str(GOLDEN / "models")),
        unfill=lambda text: text.replace(str(GOLDEN / "models"), "${MODELS}"),
    )
    got = replay.ask_rest(server, case)
    difference = replay.judge("rest", server, case, got, died=False)
    if case["id"] in DIFFERENT:
        assert difference is not None
        assert got["status"] == 200
    elif case["id"] == LOST_BYTES and not hasattr(inserve.InserveError(), "message_bytes"):
        assert got["status"] == case["response"]["status"]
    else:
        assert difference is None
