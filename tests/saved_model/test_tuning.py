from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from inserve.saved_model.tuning import (
    Alternative,
    Sample,
    Setting,
    SizeTuning,
    Tuning,
    choose_crowded,
    choose_executor,
    choose_threads,
    is_settled,
    serves_lone_callers_alike,
    tuning_from_dict,
    tuning_to_dict,
)
from inserve.tensorflow_c.interface import Executor

POOL, CALLING = Executor.POOL, Executor.CALLING_THREAD
TUNING = Tuning(
    "measured",
    1,
    (
        SizeTuning(
            "s", 32, 128, CALLING, (Alternative(CALLING, 1, 1e-3, 2e-3), Alternative(POOL, 2, 3e-3, 1e-3))
        ),
    ),
    callers=2,
    seconds=0.5,
    reason="because",
    merged_rows=(("s", 16),),
)


def rounds(*costs: float) -> Sequence[Sample]:
    return [Sample(cost, cost) for cost in costs]


def test_a_sample_weighs_one_caller_and_several_the_same() -> None:
    assert Sample(1.0, 4.0).cost == Sample(4.0, 1.0).cost == 2.0


def test_a_short_run_stays_on_the_calling_thread_without_a_clear_gain() -> None:
    samples = {
        Setting(CALLING, 2): rounds(1e-3, 1e-3, 1e-3),
        Setting(POOL, 2): rounds(0.95e-3, 0.95e-3, 0.95e-3),
    }
    assert choose_executor(samples, 2) is CALLING


def test_a_short_run_goes_to_the_pool_where_that_saves_a_tenth() -> None:
    samples = {
        Setting(CALLING, 2): rounds(1e-3, 1e-3, 1e-3),
        Setting(POOL, 2): rounds(0.9e-3, 0.9e-3, 0.9e-3),
    }
    assert choose_executor(samples, 2) is POOL


def test_a_long_run_stays_on_the_pool_without_a_clear_gain() -> None:
    samples = {
        Setting(CALLING, 2): rounds(6e-3, 6e-3, 6e-3),
        Setting(POOL, 2): rounds(6.5e-3, 6.5e-3, 6.5e-3),
    }
    assert choose_executor(samples, 2) is POOL


def test_a_long_run_takes_the_calling_thread_where_that_saves_a_tenth() -> None:
    samples = {Setting(CALLING, 2): rounds(6e-3, 6e-3, 6e-3), Setting(POOL, 2): rounds(8e-3, 8e-3, 8e-3)}
    assert choose_executor(samples, 2) is CALLING


def test_an_executor_that_was_measured_alone_is_taken() -> None:
    assert choose_executor({Setting(POOL, 2): rounds(1.0)}, 2) is POOL


def test_a_gain_that_the_rounds_do_not_agree_on_is_none() -> None:
    samples = {
        Setting(CALLING, 2): rounds(1e-3, 1e-3, 1e-3, 1e-3, 1e-3),
        Setting(POOL, 2): rounds(0.1e-3, 0.1e-3, 0.1e-3, 2e-3, 2e-3),
    }
    assert choose_executor(samples, 2) is CALLING


def test_rounds_are_compared_in_pairs_so_that_a_slow_phase_of_the_machine_does_not_count() -> None:
    samples = {
        Setting(CALLING, 2): rounds(1e-3, 4e-3, 1e-3),
        Setting(POOL, 2): rounds(0.8e-3, 3.2e-3, 0.8e-3),
    }
    assert choose_executor(samples, 2) is POOL


def test_one_thread_is_taken_where_it_saves_a_tenth_over_all_inputs() -> None:
    small = {Setting(CALLING, 2): rounds(3.0, 3.0, 3.0), Setting(CALLING, 1): rounds(1.0, 1.0, 1.0)}
    large = {Setting(POOL, 2): rounds(10.0, 10.0, 10.0), Setting(POOL, 1): rounds(12.0, 12.0, 12.0)}
    assert choose_threads([small, large], default=2) == 1


def test_threads_stay_as_they_are_without_a_clear_gain() -> None:
    samples = {Setting(CALLING, 2): rounds(1.0, 1.0, 1.0), Setting(CALLING, 1): rounds(0.95, 0.95, 0.95)}
    assert choose_threads([samples], default=2) == 2


def test_threads_that_make_one_input_much_dearer_are_not_taken() -> None:
    small = {Setting(CALLING, 2): rounds(3.0, 3.0, 3.0), Setting(CALLING, 1): rounds(1.0, 1.0, 1.0)}
    large = {Setting(POOL, 2): rounds(10.0, 10.0, 10.0), Setting(POOL, 1): rounds(16.0, 16.0, 16.0)}
    assert choose_threads([small, large], default=2) == 2


@pytest.mark.parametrize(("alone", "chosen"), [(1.2, 2), (1.0, 1)])
def test_threads_that_serve_several_callers_and_slow_down_a_lone_one_are_not_taken(
    alone: float, chosen: int
) -> None:
    samples = {
        Setting(POOL, 2): [Sample(1.0, 1.0)] * 3,
        Setting(POOL, 1): [Sample(alone, 0.6)] * 3,
    }
    assert choose_threads([samples], default=2) == chosen


def test_numbers_of_threads_are_compared_with_the_best_executor_of_each() -> None:
    samples = {
        Setting(CALLING, 2): rounds(9e-3, 9e-3, 9e-3),
        Setting(POOL, 2): rounds(6e-3, 6e-3, 6e-3),
        Setting(CALLING, 1): rounds(6.2e-3, 6.2e-3, 6.2e-3),
        Setting(POOL, 1): rounds(6.2e-3, 6.2e-3, 6.2e-3),
    }
    assert choose_threads([samples], default=2) == 2


@pytest.mark.parametrize(
    ("pool", "settled"),
    [((0.5, 0.6, 0.5), True), ((1.5, 1.6, 1.5), True), ((0.8, 1.1, 0.8), False)],
)
def test_it_is_settled_where_all_rounds_speak_for_the_same(pool: tuple[float, ...], settled: bool) -> None:
    samples = {Setting(CALLING, 2): rounds(1.0, 1.0, 1.0), Setting(POOL, 2): rounds(*pool)}
    assert is_settled([samples], default=2) is settled


def crowd_samples(
    pool: tuple[float, float], calling: tuple[float, float], one: tuple[float, float]
) -> dict[Setting, list[Sample]]:
    """Three equal rounds of each, in milliseconds: what a run takes alone, and together."""
    settings = {Setting(POOL, 2): pool, Setting(CALLING, 2): calling, Setting(CALLING, 1): one}
    return {
        setting: [Sample(alone * 1e-3, together * 1e-3)] * 3
        for setting, (alone, together) in settings.items()
    }


def test_a_crowd_gets_other_threads_for_a_clear_gain_whatever_a_lone_caller_would_lose() -> None:
    samples = crowd_samples(pool=(14, 10), calling=(14, 10), one=(30, 8))
    assert choose_crowded(samples, default=2) == Setting(CALLING, 1)


def test_a_crowd_that_gains_less_than_a_tenth_stays() -> None:
    assert choose_crowded(crowd_samples((14, 10), (14, 10), (14, 9.5)), default=2) is None


def test_runs_that_belong_on_the_calling_thread_are_not_crowded() -> None:
    assert choose_crowded(crowd_samples((4.9, 4), (4.8, 4), (4.8, 2)), default=2) is None


def test_a_lone_caller_who_would_lose_more_in_the_pool_than_a_crowd_gains_is_left_alone() -> None:
    assert choose_crowded(crowd_samples((20, 14), (10, 7), (12, 6)), default=2) is None


def test_a_crowd_of_inputs_that_were_not_measured_with_other_threads_stays() -> None:
    samples = {Setting(POOL, 2): rounds(0.06, 0.06, 0.06)}
    assert choose_crowded(samples, default=2) is None


def test_threads_that_an_input_was_not_measured_with_are_not_taken() -> None:
    small = {Setting(CALLING, 2): rounds(3.0, 3.0, 3.0), Setting(CALLING, 1): rounds(1.0, 1.0, 1.0)}
    assert choose_threads([small, {Setting(POOL, 2): rounds(9.0, 9.0, 9.0)}], default=2) == 2


@pytest.mark.parametrize(("alone", "alike"), [(1.0, True), (0.92, True), (0.85, False)])
def test_a_lone_caller_is_served_alike_up_to_a_tenth(alone: float, alike: bool) -> None:
    samples = {Setting(POOL, 2): rounds(1.0, 1.0, 1.0), Setting(CALLING, 1): rounds(alone, alone, alone)}
    assert serves_lone_callers_alike(samples, threads=1, default=2) is alike


def test_it_is_not_settled_while_rounds_disagree_about_a_crowd_if_that_counts() -> None:
    together = (8.0, 11.0, 8.0)
    samples = {
        Setting(POOL, 2): [Sample(0.014, 0.010)] * 3,
        Setting(CALLING, 1): [Sample(0.020, each * 1e-3) for each in together],
    }
    assert is_settled([samples], default=2)
    assert not is_settled([samples], default=2, may_hold_two=True)


CROWDED = replace(
    TUNING, intra_op_threads=2, sizes=(replace(TUNING.sizes[0], executor=POOL, crowded=Setting(CALLING, 1)),)
)
CROWDED_ALONE = replace(CROWDED, sizes=(replace(CROWDED.sizes[0], is_crowded_alone=True),))


def test_a_tuning_survives_json() -> None:
    for tuning in (TUNING, CROWDED, CROWDED_ALONE):
        assert tuning_from_dict(json.loads(json.dumps(tuning_to_dict(tuning)))) == tuning


def test_a_tuning_with_crowded_runs_is_for_two_sessions() -> None:
    assert (TUNING.is_for_two_sessions, CROWDED.is_for_two_sessions) == (False, True)
    assert TUNING.sizes[0].crowded_figures() is None
    assert CROWDED.sizes[0].crowded_figures() == Alternative(CALLING, 1, 1e-3, 2e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "guessed"},
        {"intra_op_threads": -1},
        {"sizes": [{}]},
        {"sizes": None},
        {"seconds": "1"},
        {"merged_rows": []},
    ],
)
def test_what_is_no_tuning_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        tuning_from_dict(tuning_to_dict(TUNING) | change)


def test_the_figures_in_force_are_those_of_executor_and_threads() -> None:
    assert TUNING.sizes[0].chosen(1) == Alternative(CALLING, 1, 1e-3, 2e-3)
    assert TUNING.sizes[0].chosen(2) is None
    assert CROWDED.sizes[0].chosen(2) == Alternative(POOL, 2, 3e-3, 1e-3)
    assert CROWDED_ALONE.sizes[0].chosen(2) == Alternative(CALLING, 1, 1e-3, 2e-3)


def test_its_line_names_source_threads_executor_and_time() -> None:
    assert str(TUNING) == (
        "measured: 1 intra-op thread; s [32] calling thread 1 ms; s up to 16 rows together; "
        "took 0.50 s; because"
    )
    assert str(CROWDED) == (
        "measured: 2 intra-op threads; s [32] pool 3 ms, 2 at once calling thread 1 intra-op thread 2 ms; "
        "s up to 16 rows together; took 0.50 s; because"
    )
    assert str(CROWDED_ALONE) == (
        "measured: 2 intra-op threads; s [32] calling thread 1 intra-op thread 1 ms; "
        "s up to 16 rows together; took 0.50 s; because"
    )
