from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InternalError
from inserve.saved_model.crowd_session import CrowdRuns, CrowdSession
from inserve.tensorflow_c.interface import Executor, Runner
from inserve.tensors.dtypes import DataType

POOL, CALLING = Executor.POOL, Executor.CALLING_THREAD
FEEDS = [("x:0", DataType.DT_FLOAT)]
ROW = [np.zeros(4, np.float32)]
RUNS = CrowdRuns(most_bytes=31, executor=CALLING, seconds=0.1)


class NotingSession:
    """Notes each run under its name: the executor and the timeout."""

    def __init__(self, name: str, noted: list[tuple[str, Executor, float | None]]) -> None:
        self.name = name
        self.noted = noted
        self.during_run: Callable[[], object] | None = None
        self.num_closed = 0
        self.error_at_close: Exception | None = None

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        del feeds, fetches
        return self

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        self.noted.append((self.name, executor, timeout_s))
        during, self.during_run = self.during_run, None
        if during is not None:
            during()
        return list(arrays)

    def close(self) -> None:
        self.num_closed += 1
        if self.error_at_close is not None:
            raise self.error_at_close


class Bench:
    def __init__(self, crowd: int = 2) -> None:
        self.noted: list[tuple[str, Executor, float | None]] = []
        self.single = NotingSession("single", self.noted)
        self.together = NotingSession("together", self.noted)
        self.session = CrowdSession(self.single, self.together, crowd, {frozenset({"x:0"}): RUNS})
        self.runner = self.session.runner(FEEDS, ["y:0"])

    def names_of_nested_runs(self, depth: int) -> list[str]:
        """Return who did each of *depth* runs that begin while all before them are in progress."""

        def begin(left: int) -> None:
            if left:
                self.single.during_run = self.together.during_run = lambda: begin(left - 1)
                self.runner.run(ROW)

        begin(depth)
        return [name for name, _, _ in self.noted]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_run_alone_is_passed_on_as_it_is(bench: Bench) -> None:
    bench.runner.run(ROW, 7.0, POOL)
    bench.runner.run(ROW, None, CALLING)
    assert bench.noted == [("single", POOL, 7.0), ("single", CALLING, None)]


@pytest.mark.parametrize("crowd", [2, 3])
def test_a_run_that_makes_a_crowd_goes_to_the_other_session(crowd: int) -> None:
    bench = Bench(crowd)
    assert bench.names_of_nested_runs(4) == ["single"] * (crowd - 1) + ["together"] * (5 - crowd)


def test_a_lone_run_may_belong_to_the_other_session_too_and_a_larger_one_does_not() -> None:
    bench = Bench()
    runs = {frozenset({"x:0"}): RUNS._replace(alone_too=True)}
    session = CrowdSession(bench.single, bench.together, 2, runs)
    runner = session.runner(FEEDS, ["y:0"])
    runner.run(ROW, None, POOL)
    runner.run([np.zeros(8, np.float32)], None, POOL)
    session.is_given_up = True
    runner.run(ROW, None, POOL)
    assert bench.noted == [("together", CALLING, None), ("single", POOL, None), ("single", POOL, None)]


def test_after_a_crowd_runs_are_alone_again(bench: Bench) -> None:
    bench.names_of_nested_runs(3)
    bench.runner.run(ROW)
    assert bench.noted[-1][0] == "single"


def test_a_crowd_has_the_executor_that_was_found_best_for_it(bench: Bench) -> None:
    with bench.session.crowded():
        bench.runner.run(ROW, None, POOL)
    assert bench.noted == [("together", CALLING, None)]


@pytest.mark.parametrize(("timeout_s", "name"), [(1.0, "single"), (1.1, "together"), (None, "together")])
def test_a_run_that_must_be_ended_at_a_near_deadline_stays_in_the_pool(
    bench: Bench, timeout_s: float | None, name: str
) -> None:
    with bench.session.crowded():
        bench.runner.run(ROW, timeout_s, POOL)
    assert bench.noted[0][::2] == (name, timeout_s)


@pytest.mark.parametrize(("rows", "name"), [(7, "together"), (8, "single")])
def test_inputs_larger_than_a_crowd_gains_from_stay(bench: Bench, rows: int, name: str) -> None:
    with bench.session.crowded():
        bench.runner.run([np.zeros(rows, np.float32)])
    assert bench.noted[0][0] == name


def test_runs_of_other_feeds_know_no_crowd(bench: Bench) -> None:
    assert bench.session.runner([("z:0", DataType.DT_FLOAT)], ["y:0"]) is bench.single


def test_once_given_up_there_is_no_crowd(bench: Bench) -> None:
    bench.session.is_given_up = True
    assert bench.names_of_nested_runs(3) == ["single"] * 3


def test_a_run_that_fails_is_in_progress_no_more(bench: Bench) -> None:
    def fail() -> None:
        raise InternalError("it fails")

    bench.single.during_run = fail
    with pytest.raises(InternalError):
        bench.runner.run(ROW)
    assert not bench.session.in_progress


def test_outside_a_pretended_crowd_runs_are_alone(bench: Bench) -> None:
    with bench.session.crowded():
        pass
    bench.runner.run(ROW)
    assert bench.noted[0][0] == "single"


def test_both_sessions_are_closed_though_one_fails(bench: Bench) -> None:
    bench.single.error_at_close = InternalError("it fails")
    with pytest.raises(InternalError):
        bench.session.close()
    assert (bench.single.num_closed, bench.together.num_closed) == (1, 1)
