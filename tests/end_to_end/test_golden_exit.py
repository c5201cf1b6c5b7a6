"""Recorded starts that failed, ended or went on in spite of something, made again by our command.

``tests/golden/replay.py`` drives and judges: exit status, stdout, which ports are open.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SIDE_BY_SIDE = 3
LONGEST_CASE_S = 120.0
COMMAND = f"{sys.executable} -m inserve.cli.tensorflow_model_server"

QUICK = {
    "exit.unknown_flag_starts",
    "exit.config_empty_list",
    "exit.config_no_platform",
    "exit.config_unknown_platform",
    "exit.load_fails",
    "exit.batching_threads_0",
    "exit.ssl_bad_text",
    "exit.thread_pool_bad",
}
"""Every run makes these starts and those that fail before a model is touched; the others are nightly."""

REPORTED_INSTEAD_OF_HANGING = {"exit.monitoring_bad", "exit.monitoring_missing"}
"""The recorded server answered gRPC, never REST, and said nothing. See docs/compatibility.md."""

HELP = (GOLDEN / "text" / "help.stdout.txt").read_text()

CASES = [json.loads(line) for line in (GOLDEN / "text" / "exit_cases.jsonl").read_text().splitlines()]


def _touches_a_model(case: dict[str, Any]) -> bool:
    response = case["response"]
    return response["exit_code"] is None or "(Re-)adding model" in response["stderr"]


def _parameters() -> list[Any]:
    return [
        pytest.param(
            case,
            id=case["id"],
            marks=[] if case["id"] in QUICK or not _touches_a_model(case) else [pytest.mark.nightly],
        )
        for case in CASES
        if case["id"] not in REPORTED_INSTEAD_OF_HANGING
    ]


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_exit_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _server_class(replay: Any) -> Any:
    """Return the judge's server, whose ports are its own also beside others."""
    lock = threading.Lock()
    used: set[int] = set()

    class OwnPorts(replay.Server):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            with lock:
                super().__init__(*arguments, **options)
                while used & {self.port, self.rest_port}:
                    self.stop()
                    super().__init__(*arguments, **options)
                used.update((self.port, self.rest_port))

    return OwnPorts


def _made_again(case: dict[str, Any]) -> dict[str, Any]:
    """Return *case* without the pause after which the recorder looked at ports that are to be open.

    What a recorded server printed is cut off where its buffer was full when it was ended: a usage text is
    completed from the recorded ``--help``.
    """
    case = copy.deepcopy(case)
    response = case["response"]
    if response["still_running_after_s"] and response["grpc_open"]:
        response["still_running_after_s"] = 0.01
    before, has_usage, _ = response["stdout"].partition("usage: ")
    if has_usage and not response["stdout"].endswith("\n"):
        response["stdout"] = before + HELP
    return case


_DESCRIPTION = re.compile(r"(?m)^(\t--\w+=\S* *\t\w+)\t.*$")


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Return what the judge says of a case; all that were selected have been started."""
    replay = _load_replay()
    replay.Server = _server_class(replay)
    printed = replay.printed
    # The usage text has the recorded form, flags, defaults and types; what a flag is for, we say ourselves.
    replay.printed = lambda text: printed(_DESCRIPTION.sub(r"\1", text))
    options = SimpleNamespace(command=COMMAND, models=GOLDEN / "models")
    test = test_the_start_ends_as_recorded.__name__
    tests = {item.name for item in request.session.items}
    selected = [case for case in CASES if f"{test}[{case['id']}]" in tests]
    with ThreadPoolExecutor(SIDE_BY_SIDE, "exit-case") as pool:
        futures: dict[str, Future[Any]] = {
            case["id"]: pool.submit(replay.run_exit, _made_again(case), options) for case in selected
        }
        yield lambda name: futures[name].result(LONGEST_CASE_S)
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("case", _parameters())
def test_the_start_ends_as_recorded(case: dict[str, Any], outcome: Callable[[str], Any]) -> None:
    assert outcome(case["id"]) is None
