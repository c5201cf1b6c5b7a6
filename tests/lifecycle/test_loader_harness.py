from __future__ import annotations

import itertools
import math

import pytest

from inserve.errors import FailedPreconditionError, InternalError, UnknownError
from inserve.lifecycle.loader_harness import HarnessState, LoaderHarness, RetryPolicy
from inserve.lifecycle.servable_id import ServableId
from inserve.testing import FakeLoader

S = HarnessState
WAY = (
    S.NEW,
    S.LOAD_REQUESTED,
    S.LOAD_APPROVED,
    S.LOADING,
    S.READY,
    S.UNLOAD_REQUESTED,
    S.QUIESCING,
    S.QUIESCED,
    S.UNLOADING,
    S.DISABLED,
)
BESIDE_THE_WAY = {(S.LOADING, S.UNLOADING), (S.ERROR, S.NEW)}
ERROR = UnknownError("no luck")


def harness(retry: RetryPolicy | None = None, state: HarnessState = S.NEW) -> LoaderHarness:
    made = LoaderHarness(ServableId("m", 1), FakeLoader(), retry or RetryPolicy())
    made.state = state
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [pair for pair in itertools.product(S, S) if pair not in {*itertools.pairwise(WAY), *BESIDE_THE_WAY}],
)
def test_a_transition_out_of_order_is_refused(before: HarnessState, after: HarnessState) -> None:
    with pytest.raises(
        InternalError, match=f"^Illegal request to transition from state {before.value} to {after.value}$"
    ):
        harness(state=before).transition(after)


def test_the_whole_way_from_new_to_disabled_is_legal() -> None:
    made = harness()
    for state in WAY[1:]:
        made.transition(state)
    assert made.state is S.DISABLED


@pytest.mark.parametrize("state", [state for state in S if state is not S.NEW])
def test_a_load_is_requested_once(state: HarnessState) -> None:
    with pytest.raises(FailedPreconditionError, match=r"^Duplicate load request$"):
        harness(state=state).request_load()


@pytest.mark.parametrize("state", [state for state in S if state is not S.READY])
def test_only_what_is_ready_can_be_unloaded(state: HarnessState) -> None:
    with pytest.raises(
        FailedPreconditionError, match=r"^Servable not loaded, or unload already requested/ongoing$"
    ):
        harness(state=state).request_unload()


@pytest.mark.parametrize("max_num_retries", [0, 1, 5])
def test_a_load_has_one_attempt_and_its_retries(max_num_retries: int) -> None:
    made = harness(RetryPolicy(max_num_retries, interval_s=1.0))
    made.request_load()
    made.begin_attempt()
    made.estimated()
    attempts = 1
    while made.attempt_failed(ERROR, 0.0):
        made.begin_attempt()
        attempts += 1
    assert attempts == made.attempts == 1 + max_num_retries


def test_an_estimate_has_as_many_attempts_as_a_load_and_uses_none_of_its() -> None:
    made = harness(RetryPolicy(max_num_retries=1))
    made.request_load()
    made.begin_attempt()
    assert made.attempt_failed(ERROR, 0.0)
    made.begin_attempt()
    made.estimated()
    assert made.attempt_failed(ERROR, 0.0)
    made.begin_attempt()
    assert not made.attempt_failed(ERROR, 0.0)


@pytest.mark.parametrize(("interval_s", "due_s"), [(60.0, 160.0), (0.0, 100.0), (-1.0, 100.0)])
def test_the_next_attempt_is_due_after_the_interval(interval_s: float, due_s: float) -> None:
    made = harness(RetryPolicy(interval_s=interval_s))
    made.begin_attempt()
    made.attempt_failed(ERROR, 100.0)
    assert made.due_s == due_s


def test_what_is_no_longer_aspired_has_no_attempt_after_the_running_one() -> None:
    made = harness()
    made.begin_attempt()
    made.unaspire()
    assert not made.attempt_failed(ERROR, 0.0)


def test_the_pause_of_what_is_no_longer_aspired_ends() -> None:
    made = harness(state=S.LOADING)
    made.begin_attempt()
    made.attempt_failed(ERROR, 100.0)
    made.unaspire()
    assert made.due_s == -math.inf


def test_a_failed_version_stays_failed_unless_told_otherwise() -> None:
    made = harness()
    made.fail(ERROR, 100.0)
    assert made.due_s is None
    assert made.error is ERROR


def test_pauses_between_reloads_double_up_to_the_cap() -> None:
    made = harness(RetryPolicy(reload_initial_s=10.0, reload_max_s=35.0))
    pauses = []
    for _ in range(4):
        made.fail(ERROR, 0.0)
        pauses.append(made.due_s)
        made.try_again()
    assert pauses == [10.0, 20.0, 35.0, 35.0]


def test_the_pause_is_short_again_after_a_success() -> None:
    made = harness(RetryPolicy(reload_initial_s=10.0))
    made.fail(ERROR, 0.0)
    made.fail(ERROR, 0.0)
    made.state = S.LOADING
    made.loaded()
    made.fail(ERROR, 0.0)
    assert made.due_s == 10.0


def test_a_very_long_row_of_failures_has_a_finite_pause() -> None:
    assert RetryPolicy(reload_initial_s=1.0, reload_max_s=60.0).reload_pause_s(10**9) == 60.0


def test_trying_again_keeps_the_count_and_the_last_failure() -> None:
    made = harness()
    made.begin_attempt()
    made.fail(ERROR, 0.0)
    made.try_again()
    assert (made.state, made.error, made.last_failure, made.attempts) == (S.NEW, None, ERROR, 1)


def test_a_version_without_a_loader_cannot_be_tried_again() -> None:
    made = LoaderHarness(ServableId("m", 1), None, RetryPolicy(), ERROR)
    assert made.state is S.ERROR
    with pytest.raises(FailedPreconditionError, match="has no loader to try again: no luck"):
        made.try_again()


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_retries": -1},
        {"interval_s": math.nan},
        {"reload_initial_s": 0.0},
        {"reload_initial_s": 2.0, "reload_max_s": 1.0},
    ],
)
def test_figures_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
        RetryPolicy(**options)  # type: ignore[arg-type]
