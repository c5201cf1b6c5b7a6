"""What comes and goes leaves nothing behind: memory, threads, files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import inserve

ROWS = 1 << 15
"""Enough that the answer's array owns TensorFlow's memory instead of a copy."""


def open_files() -> int:
    """Return how many file descriptors this process has."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return len(os.listdir(folder))
    pytest.skip("needs /proc/self/fd or /dev/fd")


@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=pytest.mark.nightly)])
def test_models_that_were_closed_leave_their_arrays_and_nothing_else(
    half_plus_two_path: str, resident_bytes: Callable[[], int], times: int
) -> None:
    answers = []

    def load_call_close(number: int) -> None:
        with inserve.load(half_plus_two_path) as model:
            answer = model(x=np.full(ROWS, number, np.float32))["y"]
            if number % (times // 4) == 0:
                answers.append((number, answer))

    for number in range(times // 2):
        load_call_close(number)
    before, threads, files = resident_bytes(), threading.active_count(), open_files()
    for number in range(times // 2, times):
        load_call_close(number)
    assert resident_bytes() - before < 24 << 20
    assert (threading.active_count(), open_files()) == (threads, files)
    assert len(answers) == 4
    for number, answer in answers:
        assert np.array_equal(answer, np.full(ROWS, number / 2 + 2, np.float32))


@pytest.mark.parametrize("times", [6, pytest.param(300, marks=pytest.mark.nightly)])
def test_servers_that_were_stopped_leave_nothing(
    golden_models: Path, resident_bytes: Callable[[], int], times: int
) -> None:
    paths = {name: golden_models / name for name in ("half_plus_two", "multi", "strings")}

    def serve() -> None:
        with inserve.Server(paths, grpc="127.0.0.1:0") as server:
            server.predict("half_plus_two", {"x": [1.0]})
            server.submit("strings", {"s": ["a"]}).result(60)

    for _ in range(times // 2):
        serve()
    before, threads, files = resident_bytes(), threading.active_count(), open_files()
    for _ in range(times - times // 2):
        serve()
    assert resident_bytes() - before < 32 << 20
    assert (threading.active_count(), open_files()) == (threads, files)


@pytest.mark.parametrize("times", [4_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_calls_of_every_outcome_leave_nothing(
    golden_models: Path, resident_bytes: Callable[[], int], times: int
) -> None:
    words = np.array([b"x" * 50, b"short"] * 20, object)
    with inserve.Server({name: golden_models / name for name in ("multi", "strings", "error")}) as server:

        def call(number: int) -> None:
            rows = number % 7
            server.predict("multi", {"a": np.zeros(rows, np.float32), "b": np.zeros((rows, 3), np.float32)})
            if number % 10 == 0:
                server.predict("strings", {"s": words})
                with pytest.raises(inserve.InvalidArgumentError):
                    server.predict("error", {"x": [-1.0]})
                with pytest.raises(inserve.NotFoundError):
                    server.predict("nobody", {})

        for number in range(times // 4):
            call(number)
        before = resident_bytes()
        for number in range(times // 4, times):
            call(number)
        assert resident_bytes() - before < 8 << 20
