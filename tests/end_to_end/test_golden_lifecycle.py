"""Recorded life stories of the C++ server, lived again by ``inserve serve``.

``tests/golden/replay.py`` drives and judges; times are not compared. The scenarios mostly wait, so
those that were selected run side by side, each with a server process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SIDE_BY_SIDE = 6
LONGEST_SCENARIO_S = 300.0
COMMAND = [sys.executable, "-c", "from inserve.cli.main import main; main()", "serve"]

DEFAULTS_OF_THE_RECORDED_SERVER = [
    "--check_complete=false",
    "--nocheck_input_shapes",
    "--initial_wait=settled",
    "--allow_remote_reload=true",
    "--allow_version_labels_for_unavailable_models=false",
    "--num_load_threads=0",
    "--num_unload_threads=0",
    "--max_num_load_retries=5",
    "--reload_failed_after_seconds=0",
]

QUICK = {
    "lifecycle.latest1_new_version",
    "lifecycle.broken_new_version",
    "lifecycle.retry_succeeds",
    "lifecycle.start_broken_version",
    "lifecycle.labels_allowed",
    "lifecycle.config_file_poll",
}
"""Every run lives these; all the others are nightly."""

DEPENDS_ON_TIMING = {
    "lifecycle.load_threads": "a poll may fall between the steps that publish two versions",
    "lifecycle.latest2": "an unload and a load that follow from one list are under way at the same time",
}
"""These are lived until they go as recorded."""

MOST_TRIES = 5

DELIBERATELY_DIFFERENT = {
    "lifecycle.base_path_removed": "a missing base path holds back no other model",
}
"""See docs/compatibility.md."""


SCENARIOS = [json.loads(line) for line in (GOLDEN / "lifecycle.jsonl").read_text().splitlines()]


def _parameters() -> list[Any]:
    params = []
    for scenario in SCENARIOS:
        marks = [] if scenario["id"] in QUICK else [pytest.mark.nightly]
        if scenario["id"] in DELIBERATELY_DIFFERENT:
            marks.append(pytest.mark.xfail(strict=True, reason=DELIBERATELY_DIFFERENT[scenario["id"]]))
        params.append(pytest.param(scenario, id=scenario["id"], marks=marks))
    return params


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_lifecycle_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _server_class(replay: Any) -> Any:
    """Return the judge's server, started as ``inserve serve``; gRPC's port stands for REST's as well."""
    lock = threading.Lock()
    used: set[int] = set()

    class InserveServer(replay.Server):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            with lock:
                super().__init__(*arguments)
                while self.port in used:
                    shutil.rmtree(self.root)
                    super().__init__(*arguments)
                used.add(self.port)

        def start(self, wait: bool = True) -> None:
            flags = [flag for flag in self.config["flags"] if not flag.startswith("--rest_api_port=")]
            with lock, open(self.root / "stdout", "wb") as out, open(self.root / "stderr", "wb") as err:
                self.process = subprocess.Popen(
                    [*COMMAND, *DEFAULTS_OF_THE_RECORDED_SERVER, *map(self.fill, flags)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            self.channel = grpc.insecure_channel(
                f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)]
            )
            if wait:
                self.wait_ready(replay.START_LIMIT_S)

        def ports(self) -> tuple[bool, bool]:
            is_open = replay.reachable(self.port)
            return is_open, is_open

    return InserveServer


def _wait_exit(server: Any, step: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end; the error that the command prints on stderr is what the C++ server's is on stdout."""
    try:
        server.process.wait(step["max_s"])
    except subprocess.TimeoutExpired:
        return {"failed": False, "text": "(still running)"}
    errors = [line for line in server.output("stderr").splitlines() if line.startswith("Error: ")]
    text = errors[-1].removeprefix("Error: ") if errors else server.output("stderr")
    return {"failed": server.process.returncode != 0, "text": text}


def _compare_exit(replay: Any, got: dict[str, Any], want: dict[str, Any], _: Any) -> Any:
    code_and_text = want["stdout"].removeprefix("Failed to start server. Error: ")
    text = " ".join(code_and_text.partition(": ")[2].split())
    if not got["failed"] or not replay.same_text(got["text"], text):
        return "exit", f"{got}, want {text!r}"
    return None


_ONE_OF_TWO_VARIABLES = re.compile(
    r"(?<=variable Variable)_1(?=\.)|(?<=localhost/Variable)_1|(?<=node )add/(?=ReadVariableOp)"
)
"""A model without its variables fails at the one that happens to be read first."""


def _live(replay: Any, scenario: dict[str, Any], options: Any) -> Any:
    problem = replay.run_scenario(scenario, options)
    for _ in range(MOST_TRIES - 1):
        if problem is None or scenario["id"] not in DEPENDS_ON_TIMING:
            break
        problem = replay.run_scenario(scenario, options)
    return problem


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Return what the judge says of a scenario; all that were selected have been started."""
    replay = _load_replay()
    replay.Server = _server_class(replay)
    replay.OBSERVE["wait_exit"] = _wait_exit
    replay.COMPARE["wait_exit"] = functools.partial(_compare_exit, replay)
    canonical = replay.canonical
    replay.canonical = lambda text: canonical(_ONE_OF_TWO_VARIABLES.sub("", text))
    options = SimpleNamespace(command="inserve serve", models=GOLDEN / "models")
    test = test_the_scenario_goes_as_recorded.__name__
    tests = {item.name for item in request.session.items}
    selected = [scenario for scenario in SCENARIOS if f"{test}[{scenario['id']}]" in tests]
    with ThreadPoolExecutor(SIDE_BY_SIDE, "scenario") as pool:
        futures: dict[str, Future[Any]] = {
            scenario["id"]: pool.submit(_live, replay, scenario, options) for scenario in selected
        }
        yield lambda name: futures[name].result(LONGEST_SCENARIO_S)
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("scenario", _parameters())
def test_the_scenario_goes_as_recorded(scenario: dict[str, Any], outcome: Callable[[str], Any]) -> None:
    assert outcome(scenario["id"]) is None
