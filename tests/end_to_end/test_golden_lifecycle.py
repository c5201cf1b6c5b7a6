"""Recorded life stories of the C++ server, lived again by ``tensorflow_model_server``.

``tests/golden/replay.py`` drives and judges; times are not compared. The scenarios mostly wait, so
those that were selected run side by side, each with a server process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SIDE_BY_SIDE = 6
LONGEST_SCENARIO_S = 300.0
COMMAND = f"{shlex.quote(sys.executable)} -m inserve.cli.tensorflow_model_server"

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
    """Return the judge's server, of which many may start at the same time without choosing the same ports."""
    lock = threading.Lock()
    used: set[int] = set()

    class ServerBesideOthers(replay.Server):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            with lock:
                super().__init__(*arguments)
                while used & {self.port, self.rest_port}:
                    shutil.rmtree(self.root)
                    super().__init__(*arguments)
                used.update((self.port, self.rest_port))

    return ServerBesideOthers


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
    canonical = replay.canonical
    replay.canonical = lambda text: canonical(_ONE_OF_TWO_VARIABLES.sub("", text))
    options = SimpleNamespace(command=COMMAND, models=GOLDEN / "models")
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
