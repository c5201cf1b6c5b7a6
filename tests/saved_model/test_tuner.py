from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import DeadlineExceededError, InternalError
from inserve.saved_model.tuner import MAX_ROUNDS, MIN_ROUNDS, MeasuredInput, Tuner
from inserve.saved_model.tuning import Sample, Setting, Tuning
from inserve.tensorflow_c.interface import Executor, Runner
from inserve.testing import ManualClock

POOL, CALLING = Executor.POOL, Executor.CALLING_THREAD
ONE = MeasuredInput("s", ("y",), (np.zeros((1, 4), np.float32),))
MANY = MeasuredInput("s", ("y",), (np.zeros((32, 4), np.float32),))


class TimedRunner:
    """Takes the seconds of a row of its executor, or for the whole call, on a manual clock."""

    def __init__(
        self,
        clock: ManualClock,
        seconds: Mapping[Executor, float | Sequence[float]],
        fails_after: int = 10**9,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._fails_after = fails_after
        self.runs: list[tuple[int, Executor]] = []

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        if len(self.runs) >= self._fails_after:
            raise InternalError("it fails")
        self.runs.append((len(arrays[0]), executor))
        seconds = self._seconds[executor]
        if not isinstance(seconds, float):
            mine = [run for run in self.runs if run[1] is executor]
            seconds = seconds[(len(mine) - 1) % len(seconds)]
        if timeout_s is not None and seconds > timeout_s:
            self._clock.advance(timeout_s)
            raise DeadlineExceededError("too late")
        self._clock.advance(seconds)
        return []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def measure(
    clock: ManualClock, inputs: Sequence[tuple[MeasuredInput, Mapping[int, Runner]]], budget_s: float = 1.0
) -> Tuning | None:
    return Tuner(1, budget_s, clock.now).measure(inputs, default_threads=2)


def test_the_figures_of_every_setting_are_told(clock: ManualClock) -> None:
    two = TimedRunner(clock, {POOL: 4e-3, CALLING: 3e-3})
    one = TimedRunner(clock, {CALLING: 1e-3})
    tuning = measure(clock, [(ONE, {2: two, 1: one})])
    assert tuning is not None
    (size,) = tuning.sizes
    figures = {(a.executor, a.intra_op_threads): a.alone_s for a in size.alternatives}
    assert figures == pytest.approx({(POOL, 2): 4e-3, (CALLING, 2): 3e-3, (CALLING, 1): 1e-3})
    assert (tuning.source, tuning.intra_op_threads, size.executor) == ("measured", 1, CALLING)
    assert (size.rows, size.input_bytes, size.signature) == (1, 16, "s")


def test_where_all_rounds_agree_the_fewest_are_enough(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 4e-3, CALLING: 2e-3})
    assert measure(clock, [(ONE, {2: runner})]) is not None
    assert runner.runs.count((1, POOL)) == 2 + MIN_ROUNDS


def test_where_rounds_disagree_there_are_more(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: [4e-3, 1e-3], CALLING: 2e-3})
    assert measure(clock, [(ONE, {2: runner})]) is not None
    assert runner.runs.count((1, POOL)) == 2 + MAX_ROUNDS


def test_short_runs_are_measured_in_blocks(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 1e-4, CALLING: 1e-5})
    assert measure(clock, [(ONE, {2: runner})]) is not None
    assert runner.runs.count((1, CALLING)) >= 50 * MIN_ROUNDS


def test_runs_of_more_than_50_milliseconds_are_measured_on_the_pool_only(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 0.06, CALLING: 0.001})
    tuning = measure(clock, [(ONE, {2: runner})])
    assert tuning is not None
    assert {run[1] for run in runner.runs} == {POOL}
    assert tuning.sizes[0].executor is POOL


def test_rounds_end_with_the_budget(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 0.04, CALLING: [0.03, 0.05]})
    assert measure(clock, [(ONE, {2: runner})], budget_s=0.36) is not None
    # Four rounds take 0.32 s; a fifth would end too late.
    assert runner.runs.count((1, POOL)) == 2 + 4


def test_an_input_that_three_rounds_of_would_take_too_long_is_left_out(clock: ManualClock) -> None:
    assert measure(clock, [(ONE, {2: TimedRunner(clock, {POOL: 0.4, CALLING: 0.4})})]) is None


def test_a_larger_input_that_cannot_fit_is_not_even_tried(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 0.02, CALLING: 0.02})
    tuning = measure(clock, [(MANY, {2: runner}), (ONE, {2: runner})])
    assert tuning is not None
    assert [size.rows for size in tuning.sizes] == [1]
    assert {run[0] for run in runner.runs} == {1}


def test_where_time_is_short_the_default_signature_is_measured(clock: ManualClock) -> None:
    default = MeasuredInput("serving_default", ("y",), ONE.arrays)
    cheaper = TimedRunner(clock, {POOL: 0.02, CALLING: 0.02})
    dearer = TimedRunner(clock, {POOL: 0.03, CALLING: 0.03})
    tuning = measure(clock, [(ONE, {2: cheaper}), (default, {2: dearer})], budget_s=0.5)
    assert tuning is not None
    assert [size.signature for size in tuning.sizes] == ["serving_default"]


def test_each_size_has_an_executor_of_its_own(clock: ManualClock) -> None:
    small = TimedRunner(clock, {POOL: 2e-3, CALLING: 1e-3})
    large = TimedRunner(clock, {POOL: 1e-3, CALLING: 2e-3})
    tuning = measure(clock, [(ONE, {2: small}), (MANY, {2: large})])
    assert tuning is not None
    assert {size.rows: size.executor for size in tuning.sizes} == {1: CALLING, 32: POOL}


def test_an_input_that_fails_is_left_out(clock: ManualClock) -> None:
    good = TimedRunner(clock, {POOL: 2e-3, CALLING: 1e-3})
    bad = TimedRunner(clock, {POOL: 2e-3, CALLING: 1e-3}, fails_after=0)
    tuning = measure(clock, [(ONE, {2: good}), (MANY, {2: bad})])
    assert tuning is not None
    assert [size.rows for size in tuning.sizes] == [1]


def test_a_run_that_fails_later_leaves_everything_as_it_is(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 2e-3, CALLING: 1e-3}, fails_after=6)
    assert measure(clock, [(ONE, {2: runner})]) is None


def test_nothing_is_chosen_without_inputs(clock: ManualClock) -> None:
    assert measure(clock, []) is None


def test_several_callers_ask_at_once(clock: ManualClock) -> None:
    runner = TimedRunner(clock, {POOL: 4e-3, CALLING: 2e-3})
    tuning = Tuner(3, 1.0, clock.now).measure([(ONE, {2: runner})], default_threads=2)
    assert tuning is not None
    assert tuning.callers == 3
    assert runner.runs.count((1, POOL)) == 2 + MIN_ROUNDS * (1 + 3)


def test_other_threads_are_not_tried_on_runs_that_only_the_pool_should_have(clock: ManualClock) -> None:
    one = TimedRunner(clock, {CALLING: 1e-3})
    tuning = measure(clock, [(ONE, {2: TimedRunner(clock, {POOL: 0.06}), 1: one})])
    assert tuning is not None
    assert (tuning.intra_op_threads, one.runs) == (2, [])


class ThreadNotingRunner(TimedRunner):
    """Also keeps the names of the threads that ran it."""

    def __init__(self, clock: ManualClock, seconds: Mapping[Executor, float | Sequence[float]]) -> None:
        super().__init__(clock, seconds)
        self.threads: set[str] = set()

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        self.threads.add(threading.current_thread().name)
        return super().run(arrays, timeout_s, executor)


def test_numbers_of_intra_op_threads_are_tried_on_different_threads(clock: ManualClock) -> None:
    two = ThreadNotingRunner(clock, {POOL: 4e-3, CALLING: 3e-3})
    one = ThreadNotingRunner(clock, {CALLING: 1e-3})
    Tuner(2, 1.0, clock.now).measure([(ONE, {2: two, 1: one})], default_threads=2)
    assert two.threads
    assert one.threads
    assert not two.threads & one.threads
    assert threading.current_thread().name not in two.threads | one.threads


class CrowdedRunner:
    """Takes *alone_s* where one caller asks; says that it takes *together_s* by run where two do."""

    def __init__(self, clock: ManualClock, alone_s: float, together_s: float) -> None:
        self._clock = clock
        self.alone_s = alone_s
        self.together_s = together_s

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        del arrays, timeout_s, executor
        self._clock.advance(self.alone_s)
        return []


class TwoCallersTuner(Tuner):
    """Has the samples of crowds from its runners, because threads share one manual clock."""

    def _round(self, candidate: Any, threads: Any) -> None:
        for setting in candidate.estimates:
            runner = candidate.runners[setting.intra_op_threads]
            candidate.samples[setting].append(Sample(runner.alone_s, runner.together_s))


def crowd_tuning(
    clock: ManualClock,
    inputs: Sequence[tuple[MeasuredInput, Mapping[int, Runner]]],
    may_hold_two: bool = True,
    is_all: bool = True,
) -> Tuning:
    tuning = TwoCallersTuner(2, 10.0, clock.now).measure(inputs, 2, may_hold_two, is_all)
    assert tuning is not None
    return tuning


def crowd_runners(
    clock: ManualClock, two: tuple[float, float], one: tuple[float, float]
) -> Mapping[int, Runner]:
    return {2: CrowdedRunner(clock, *two), 1: CrowdedRunner(clock, *one)}


GAINING = ((0.014, 0.011), (0.016, 0.008))
"""Seconds alone and together with two threads and with one: a crowd gains from one, a lone caller loses."""

INDIFFERENT = ((0.03, 0.03), (0.045, 0.03))


def test_where_a_crowd_gains_from_other_threads_it_gets_them_and_a_lone_caller_the_pool(
    clock: ManualClock,
) -> None:
    tuning = crowd_tuning(clock, [(ONE, crowd_runners(clock, *GAINING))])
    (size,) = tuning.sizes
    assert (tuning.intra_op_threads, tuning.is_for_two_sessions) == (2, True)
    assert (size.executor, size.crowded) == (POOL, Setting(CALLING, 1))


def test_without_leave_to_hold_two_there_is_one_choice(clock: ManualClock) -> None:
    tuning = crowd_tuning(clock, [(ONE, crowd_runners(clock, *GAINING))], may_hold_two=False)
    assert (tuning.intra_op_threads, tuning.is_for_two_sessions) == (2, False)


def test_sizes_beyond_one_that_gains_nothing_in_a_crowd_do_not_either(clock: ManualClock) -> None:
    one, two, four = (MeasuredInput("s", ("y",), (np.zeros((rows, 4), np.float32),)) for rows in (1, 2, 4))
    tuning = crowd_tuning(
        clock,
        [
            (one, crowd_runners(clock, *GAINING)),
            (two, crowd_runners(clock, *INDIFFERENT)),
            (four, crowd_runners(clock, *GAINING)),
        ],
    )
    assert [size.crowded for size in tuning.sizes] == [Setting(CALLING, 1), None, None]


EQUAL_ALONE = ((0.014, 0.012), (0.0145, 0.008))
"""One thread saves a tenth of the cost and slows down no lone caller."""


@pytest.mark.parametrize(("is_all", "threads", "holds_two"), [(True, 1, False), (False, 2, True)])
def test_other_threads_for_all_are_not_taken_where_an_input_was_left_out_and_two_can_be_held(
    clock: ManualClock, is_all: bool, threads: int, holds_two: bool
) -> None:
    tuning = crowd_tuning(clock, [(ONE, crowd_runners(clock, *EQUAL_ALONE))], is_all=is_all)
    assert (tuning.intra_op_threads, tuning.is_for_two_sessions) == (threads, holds_two)


BETTER_ALONE = ((0.009, 0.005), (0.007, 0.004))
"""One thread is better for everybody."""


@pytest.mark.parametrize(
    ("is_all", "may_hold_two", "threads", "crowded"),
    [(True, True, 1, None), (False, False, 1, None), (False, True, 2, Setting(CALLING, 1))],
)
def test_inputs_that_were_left_out_keep_all_threads_where_one_is_best_for_the_others_and_two_can_be_held(
    clock: ManualClock, is_all: bool, may_hold_two: bool, threads: int, crowded: Setting | None
) -> None:
    inputs = [(ONE, crowd_runners(clock, *BETTER_ALONE))]
    tuning = crowd_tuning(clock, inputs, may_hold_two, is_all)
    (size,) = tuning.sizes
    assert (tuning.intra_op_threads, size.crowded) == (threads, crowded)
    assert size.is_crowded_alone == (crowded is not None)
    chosen = size.chosen(threads)
    assert chosen is not None
    assert chosen.intra_op_threads == 1
    assert chosen.alone_s == pytest.approx(0.007)


@pytest.mark.parametrize(("seconds", "expected"), [(1e-5, False), (3e-5, True)])
def test_runs_too_short_to_be_shared_out_are_known(
    clock: ManualClock, seconds: float, expected: bool
) -> None:
    runner = TimedRunner(clock, {CALLING: seconds})
    assert Tuner(2, 1.0, clock.now).is_worth_sharing(runner, ONE) is expected


@pytest.mark.parametrize(("seconds", "fits"), [(None, True), (0.1, True), (0.12, False)])
def test_what_warm_up_found_too_long_does_not_fit(
    clock: ManualClock, seconds: float | None, fits: bool
) -> None:
    given = MeasuredInput("s", ("y",), ONE.arrays, seconds)
    assert Tuner(2, 1.0, clock.now).fits(given, 1) is fits


@pytest.mark.parametrize(
    ("shapes", "rows"), [([(3, 2), (3,)], 3), ([(3,), (4,)], None), ([()], None), ([], None)]
)
def test_rows_are_the_first_dimension_that_all_inputs_share(
    shapes: list[tuple[int, ...]], rows: int | None
) -> None:
    arrays = tuple(np.zeros(shape, np.float32) for shape in shapes)
    assert MeasuredInput("s", (), arrays).rows == rows
