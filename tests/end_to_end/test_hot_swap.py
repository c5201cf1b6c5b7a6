"""New versions are written, loaded, published and the old ones unloaded while clients ask without a pause."""

from __future__ import annotations

import contextlib
import functools
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest

import inserve
from inserve.lifecycle.servable_state import ManagerState
from inserve.protos import messages

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Story

PREDICT = "/tensorflow.serving.PredictionService/Predict"
DT_FLOAT = 1
POLL_INTERVAL_S = 0.05
LONGEST_CALL_S = 60.0
MOST_PROBLEMS = 10
FEW, MANY = 6, 50
"""Swaps; the rates of many are shown, asserted they are not."""

PIECES = 4
COPIED_IN_PLACE = 3
"""The version that is copied in place, file by file and piece by piece."""
WRITTEN_IN_TURN = (
    "assets/version.txt",
    "fingerprint.pb",
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)
ROW = np.array([0.0], np.float32)


@dataclass
class Client:
    """Asks in a closed loop which version answers, and looks whether it may have.

    A version that was published AVAILABLE before the request began is found by it, so an older one
    must not answer; one whose LOADING was not published when the response came cannot have.
    """

    kind: str
    ask: Callable[[], int]
    answers: int = 0
    versions: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def run(self, story: Story, is_over: threading.Event) -> None:
        last = 0
        while not is_over.is_set() and len(self.problems) < MOST_PROBLEMS:
            oldest_possible = story.newest_available
            try:
                version = self.ask()
            except Exception as error:
                self.problems.append(f"{self.kind}: {type(error).__name__}: {error}")
                continue
            if not oldest_possible <= version <= story.newest_loading:
                self.problems.append(
                    f"{self.kind}: version {version} answered; {oldest_possible} was available before, "
                    f"{story.newest_loading} was the newest to load after"
                )
            if version < last:
                self.problems.append(f"{self.kind}: version {version} answered after {last}")
            last = version
            self.answers += 1
            if version not in self.versions:
                self.versions.add(version)
                story.tell()


def asking_predict(server: inserve.Server) -> Callable[[], int]:
    return lambda: int(server.predict("m", {"x": ROW})["y"][0])


def asking_through(channel: Any) -> Callable[[], int]:
    """Return what asks over *channel*; the version in the ``ModelSpec`` must be that of the value."""
    request = messages.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].dtype = DT_FLOAT
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(0.0)
    data = request.SerializeToString()
    call = channel.unary_unary(PREDICT)

    def ask() -> int:
        response = messages.PredictResponse.FromString(call(data, timeout=LONGEST_CALL_S))
        version = int(response.model_spec.version.value)
        assert list(response.outputs["y"].float_val) == [version]
        return version

    return ask


def write_and_rename(model: Path, base: Path, version: int) -> None:
    written = base / f"tmp_{version}"
    shutil.copytree(model, written)
    (written / "assets" / "version.txt").write_text(f"{version}\n")
    written.rename(base / str(version))


def copy_in_place(model: Path, base: Path, version: int, after_each_piece: Callable[[], None]) -> None:
    for name in WRITTEN_IN_TURN:
        content = f"{version}\n".encode() if name.endswith(".txt") else (model / name).read_bytes()
        size = -(-len(content) // PIECES)
        target = base / str(version) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(content), size):
            with target.open("ab") as file:
                file.write(content[start : start + size])
            if name != WRITTEN_IN_TURN[-1] or start + size < len(content):
                after_each_piece()


@pytest.mark.parametrize("swaps", [FEW, pytest.param(MANY, marks=pytest.mark.nightly)])
def test_no_request_notices_that_versions_are_swapped(
    swaps: int,
    versioned_model: Path,
    story: Story,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = tmp_path / "m"
    write_and_rename(versioned_model, base, 1)
    process = psutil.Process()
    is_over = threading.Event()
    with (
        inserve.Server({"m": base}, grpc="127.0.0.1:0", poll_interval=POLL_INTERVAL_S) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as tcp,
        server.channel() as inprocess,
    ):
        clients = [
            Client("predict", asking_predict(server)),
            Client("in-process channel", asking_through(inprocess)),
            Client("TCP", asking_through(tcp)),
            Client("TCP", asking_through(tcp)),
        ]
        threads = [
            threading.Thread(target=client.run, args=(story, is_over), name=f"client-{number}", daemon=True)
            for number, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        resident_after_first = 0

        def all_answered_by(version: int) -> bool:
            return all(version in client.versions or client.problems for client in clients)

        def nothing_new_is_loaded() -> None:
            server.models.refresh(["m"])
            assert COPIED_IN_PLACE in server.models.waiting("m")
            assert story.newest_loading < COPIED_IN_PLACE

        try:
            story.wait_until(lambda: all_answered_by(1))
            for version in range(2, swaps + 2):
                if version == COPIED_IN_PLACE:
                    copy_in_place(versioned_model, base, version, nothing_new_is_loaded)
                else:
                    write_and_rename(versioned_model, base, version)
                story.wait_until(functools.partial(story.has, version, ManagerState.AVAILABLE))
                story.wait_until(functools.partial(story.has, version - 1, ManagerState.END))
                story.wait_until(functools.partial(all_answered_by, version))
                if not resident_after_first:
                    resident_after_first = process.memory_info().rss
            resident_at_end = process.memory_info().rss
            seconds = time.monotonic() - started
        finally:
            is_over.set()
            for thread in threads:
                thread.join(LONGEST_CALL_S)
    with capsys.disabled() if swaps == MANY else contextlib.nullcontext():
        for kind in dict.fromkeys(client.kind for client in clients):
            num_answers = sum(client.answers for client in clients if client.kind == kind)
            print(f"\n{kind}: {num_answers} answers, {num_answers / seconds:.0f}/s", end="")
        print(
            f"\n{swaps} swaps in {seconds:.1f} s; resident {resident_after_first / 2**20:.1f} MiB after the "
            f"first, {resident_at_end / 2**20:.1f} MiB after the last"
        )

    assert [problem for client in clients for problem in client.problems] == []
    assert [event for event in story.events if event.error is not None] == []
    assert all(client.versions == set(range(1, swaps + 2)) for client in clients)
    assert resident_at_end <= 1.05 * resident_after_first
