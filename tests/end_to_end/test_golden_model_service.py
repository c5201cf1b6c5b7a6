"""Recorded answers of the C++ server to GetModelStatus and HandleReloadConfigRequest."""

from __future__ import annotations

import base64
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import inserve
from inserve.protos import messages

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MODEL_SERVICE = "/tensorflow.serving.ModelService/"
RELOAD = MODEL_SERVICE + "HandleReloadConfigRequest"
SETTLED_WITHIN_S = 20.0
"""The recorder paused after reloads; here a question is asked again until its answer is right."""

CONFIGS = json.loads((GOLDEN / "servers.json").read_text())

DELIBERATELY_DIFFERENT = {
    "grpc.reload.063": "a model needs a name",
    "grpc.reload.064": "it was refused in 063",
    "grpc.reload.065": "063 changed nothing",
    "grpc.reload.066": "metrics of TensorFlow itself are not counted",
    "grpc.reload.069": "a refused config is forgotten",
    "grpc.reload.070": "a refused config is forgotten",
    "grpc.reload.092": "a model without versions is an error at once",
}
"""See docs/compatibility.md."""


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_model_service_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [json.loads(line) for line in (GOLDEN / "grpc.jsonl").read_text().splitlines()]
STATUS_CASES = [
    case for case in CASES if case["server"] == "main" and case["method"].startswith(MODEL_SERVICE)
]
SEQUENCES: dict[str, list[dict[str, Any]]] = {}
for _case in CASES:
    if _case["category"] == "reload":
        SEQUENCES.setdefault(_case["seq"], []).append(_case)


@pytest.fixture(scope="module")
def replay() -> Any:
    return _load_replay()


class Place:
    """Where a sequence is replayed: the folders behind the tokens."""

    def __init__(self, folder: Path) -> None:
        self.paths = {"${MODELS}": str(GOLDEN / "models"), "${WORK}": str(folder / "work")}
        (folder / "work").mkdir()
        self.channel: grpc.Channel

    def fill(self, text: str) -> str:
        for token, value in self.paths.items():
            text = text.replace(token, value)
        return text

    def unfill(self, text: str) -> str:
        for token, value in self.paths.items():
            text = text.replace(value, token)
        return text

    def config_file(self, server: str, folder: Path) -> Path:
        path = folder / "models.config"
        path.write_text(self.fill(CONFIGS[server]["files"]["models.config"]))
        return path


@pytest.fixture(scope="module")
def main_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("main")
    place = Place(folder)
    with inserve.Server(models=place.config_file("main", folder)) as server, server.channel() as channel:
        place.channel = channel
        yield place


@pytest.mark.parametrize("case", STATUS_CASES, ids=[case["id"] for case in STATUS_CASES])
def test_the_status_is_the_recorded_one(case: dict[str, Any], main_server: Place, replay: Any) -> None:
    got = replay.ask_grpc(main_server, case)
    assert replay.judge("grpc", main_server, case, got, died=False) is None


def _problem(replay: Any, place: Place, case: dict[str, Any]) -> Any:
    got = replay.ask_grpc(place, case)
    return replay.judge("grpc", place, case, got, died=False)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_of_reloads_goes_as_recorded(sequence: str, tmp_path: Path, replay: Any) -> None:
    place = Place(tmp_path)
    cases = sorted(SEQUENCES[sequence], key=lambda case: case["step"])
    flags = CONFIGS[cases[0]["server"]]["flags"]
    differing = {}
    with (
        inserve.Server(
            models=place.config_file(cases[0]["server"], tmp_path),
            grpc="127.0.0.1:0",
            poll_interval=0.05,
            check_complete=False,
            check_shapes=False,
            allow_remote_reload=True,
            reload_failed_after=None,
            allow_version_labels_for_unavailable_models="--allow_version_labels_for_unavailable_models=true"
            in flags,
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        place.channel = channel
        for case in cases:
            for operation in case.get("setup", ()):
                replay.file_operation(place, operation)
            problem = _problem(replay, place, case)
            deadline = time.monotonic() + SETTLED_WITHIN_S
            may_ask_again = case["method"] != RELOAD and case["id"] not in DELIBERATELY_DIFFERENT
            while problem is not None and may_ask_again and time.monotonic() < deadline:
                time.sleep(0.01)
                problem = _problem(replay, place, case)
            if problem is not None:
                differing[case["id"]] = problem
    expected = {case["id"] for case in cases} & DELIBERATELY_DIFFERENT.keys()
    assert {key: value for key, value in differing.items() if key not in expected} == {}
    assert differing.keys() == expected


def test_a_remote_reload_is_refused_unless_allowed(tmp_path: Path, replay: Any) -> None:
    request = messages.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    case = {
        "method": RELOAD,
        "request_b64": base64.b64encode(request.SerializeToString()).decode(),
    }
    with (
        inserve.Server(models={"m": GOLDEN / "models" / "half_plus_two"}, grpc="127.0.0.1:0") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as remote,
        server.channel() as own,
    ):
        ways = [SimpleNamespace(channel=channel, unfill=str) for channel in (remote, own)]
        refused, accepted = (replay.ask_grpc(way, case) for way in ways)
        assert refused["code"] == "PERMISSION_DENIED"
        assert "allow_remote_reload=True" in refused["message"]
        assert accepted["code"] == "OK"
        assert server.models.list() == []
