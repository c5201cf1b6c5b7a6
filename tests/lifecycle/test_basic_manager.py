"""One load or unload, from its beginning to its end."""

from __future__ import annotations

import logging

import pytest

from inserve.errors import (
    CancelledError,
    Code,
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManagerOptions
from inserve.lifecycle.loader_harness import RetryPolicy
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.resources.allocation import ResourceAllocation
from inserve.testing import FakeLoader, ManagerBench

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
M1 = ServableId("m", 1)
M2 = ServableId("m", 2)


def bench_with(
    max_num_retries: int = 0,
    interval_s: float = 60.0,
    reload_initial_s: float | None = None,
    num_load_threads: int = 2,
    num_unload_threads: int = 1,
    ram_bytes: int | None = None,
) -> ManagerBench:
    options = AspiredVersionsManagerOptions(
        num_load_threads=num_load_threads,
        num_unload_threads=num_unload_threads,
        retry=RetryPolicy(max_num_retries, interval_s, reload_initial_s),
    )
    return ManagerBench(options, None if ram_bytes is None else {"main": ram_bytes})


def state_of(bench: ManagerBench, id: ServableId) -> ServableState:
    state = bench.monitor.state(id)
    assert state is not None
    return state


def ram(size: int) -> FakeLoader:
    return FakeLoader(estimate=ResourceAllocation.of_ram(size))


def test_a_version_is_estimated_loaded_and_served() -> None:
    bench, loader = bench_with(), FakeLoader("servable")
    bench.aspire("m", {1: loader})
    assert bench.published("m", 1) == [START]
    bench.run("load-m-1")
    assert bench.published("m", 1) == [START, LOADING]
    bench.run("load-m-1")
    assert bench.published("m", 1) == [START, LOADING, AVAILABLE]
    assert bench.manager.servable_handle(ServableRequest.latest("m")).servable == "servable"
    assert loader.calls == ["estimate_resources", "load"]


def test_lookups_find_a_version_before_it_is_published_as_available() -> None:
    bench, found = bench_with(), list[bool]()

    def look(event: ServableState) -> None:
        if event.state is AVAILABLE:
            found.append(bench.manager.lookup("m", 1) is not None)

    bench.bus.subscribe(look)
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    assert found == [True]


def test_a_version_is_published_as_unloading_before_lookups_cease_to_find_it() -> None:
    bench, found = bench_with(), list[bool]()

    def look(event: ServableState) -> None:
        if event.state is UNLOADING:
            found.append(bench.manager.lookup("m", 1) is not None)

    bench.bus.subscribe(look)
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {})
    assert found == [True]
    assert bench.manager.lookup("m", 1) is None


def test_an_unloaded_version_ends_without_error_and_gives_back_its_resources() -> None:
    bench, loader = bench_with(ram_bytes=10), ram(10)
    bench.aspire("m", {1: loader})
    bench.settle()
    assert bench.tracker.used == ResourceAllocation.of_ram(10)
    bench.aspire("m", {})
    bench.settle()
    assert bench.published("m", 1) == [START, LOADING, AVAILABLE, UNLOADING, END]
    assert state_of(bench, M1).error is None
    assert loader.calls == ["estimate_resources", "load", "unload"]
    assert bench.tracker.used == ResourceAllocation()


def test_a_version_that_holds_more_than_was_estimated_is_booked_with_that_also_beyond_the_budget() -> None:
    bench = bench_with(ram_bytes=10)
    bench.aspire(
        "m", {1: FakeLoader(estimate=ResourceAllocation.of_ram(6), held=ResourceAllocation.of_ram(12))}
    )
    bench.settle()
    assert bench.published("m", 1) == [START, LOADING, AVAILABLE]
    assert bench.tracker.used == ResourceAllocation.of_ram(12)
    bench.aspire("m", {})
    bench.settle()
    assert bench.tracker.used == ResourceAllocation()


def test_the_unload_waits_for_the_last_handle() -> None:
    bench = bench_with()
    bench.aspire("m", {1: FakeLoader("servable")})
    bench.settle()
    first = bench.manager.servable_handle(ServableRequest.latest("m"))
    second = bench.manager.servable_handle(ServableRequest.specific("m", 1))
    bench.aspire("m", {})
    first.release()
    bench.settle()
    assert bench.published("m", 1)[-1] is UNLOADING
    assert second.servable == "servable"
    second.release()
    bench.settle()
    assert bench.published("m", 1)[-1] is END


def test_a_handle_to_one_version_delays_no_other() -> None:
    bench = bench_with()
    bench.aspire("m", {1: FakeLoader()})
    bench.aspire("n", {1: FakeLoader()})
    bench.settle()
    with bench.manager.servable_handle(ServableRequest.latest("m")):
        bench.aspire("m", {2: FakeLoader()})
        bench.aspire("n", {})
        bench.settle()
        assert bench.published("m", 2)[-1] is AVAILABLE
        assert bench.published("n", 1)[-1] is END
        assert bench.published("m", 1)[-1] is UNLOADING


def test_a_load_is_tried_again_after_the_interval_and_holds_no_thread_meanwhile() -> None:
    bench = bench_with(max_num_retries=2, interval_s=60.0, num_load_threads=1)
    loader = FakeLoader(load_errors=[DataLossError("broken")])
    bench.aspire("m", {1: loader})
    bench.settle()
    assert state_of(bench, M1).state is LOADING
    bench.aspire("n", {1: FakeLoader()})
    bench.settle()
    assert bench.published("n", 1)[-1] is AVAILABLE
    bench.advance(59.0)
    assert bench.runner.names == []
    bench.advance(1.0)
    bench.settle()
    assert bench.published("m", 1) == [START, LOADING, LOADING, AVAILABLE]
    assert state_of(bench, M1).attempts == 2


def test_step_says_when_the_next_attempt_is_due() -> None:
    bench = bench_with(max_num_retries=1, interval_s=60.0)
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken")])})
    assert bench.manager.step() is None
    bench.settle()
    bench.clock.advance(25.0)
    assert bench.manager.step() == 35.0


def test_while_attempts_are_left_the_status_shows_the_last_failure_but_no_error() -> None:
    bench = bench_with(max_num_retries=1)
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken")])})
    bench.settle()
    state = state_of(bench, M1)
    assert (state.state, state.error, state.attempts) == (LOADING, None, 1)
    assert state.last_failure is not None
    assert state.last_failure.message == "broken"


def test_after_the_last_attempt_a_version_ends_with_its_error_and_without_resources() -> None:
    bench = bench_with(max_num_retries=1, interval_s=-1.0, ram_bytes=10)
    loader = ram(10)
    loader.load_errors += [DataLossError("first"), NotFoundError("second")]
    bench.aspire("m", {1: loader})
    bench.settle()
    state = state_of(bench, M1)
    assert (state.state, state.attempts) == (END, 2)
    assert state.error is not None
    assert (state.error.code, state.error.message) == (Code.NOT_FOUND, "second")
    assert bench.tracker.used == ResourceAllocation()


def test_an_exception_that_is_not_ours_is_logged_and_shown_as_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = bench_with()
    bench.aspire("m", {1: FakeLoader(load_errors=[KeyError("k")])})
    bench.settle()
    error = state_of(bench, M1).error
    assert error is not None
    assert (error.code, error.message) == (Code.UNKNOWN, "KeyError: 'k'")
    assert "Traceback" in caplog.text


def test_a_failed_estimate_is_tried_again_and_then_ends_the_version_that_never_was_loading() -> None:
    bench = bench_with(max_num_retries=1, interval_s=5.0)
    refusal = FailedPreconditionError("/models/m/1; Not a directory")
    loader = FakeLoader(estimate_errors=[refusal, refusal])
    bench.aspire("m", {1: loader})
    bench.settle()
    bench.advance(5.0)
    bench.settle()
    assert bench.published("m", 1) == [START, START, END]
    error = state_of(bench, M1).error
    assert error is not None
    assert error.code == Code.FAILED_PRECONDITION
    assert error.message == (
        "Error while attempting to reserve resources to load servable {name: m version: 1}: "
        "/models/m/1; Not a directory"
    )
    assert loader.calls == ["estimate_resources", "estimate_resources"]


def test_a_version_whose_estimate_succeeds_later_is_loaded() -> None:
    bench = bench_with(max_num_retries=1, interval_s=5.0)
    bench.aspire("m", {1: FakeLoader(estimate_errors=[OSError("busy")])})
    bench.settle()
    bench.advance(5.0)
    bench.settle()
    assert bench.published("m", 1)[-1] is AVAILABLE


def test_a_version_that_does_not_fit_ends_with_both_figures() -> None:
    bench = bench_with(ram_bytes=10)
    bench.aspire("m", {1: ram(6)})
    bench.settle()
    bench.aspire("m", {2: ram(7)})
    bench.settle()
    assert bench.published("m", 2) == [START, END]
    error = state_of(bench, M2).error
    assert isinstance(error, ResourceExhaustedError)
    assert error.message == (
        "Insufficient resources to load servable {name: m version: 2}: "
        "7 bytes needed on device main, 4 available of a budget of 10"
    )
    assert bench.published("m", 1)[-1] is AVAILABLE


def test_who_does_not_fit_waits_for_an_unload_under_way() -> None:
    bench = bench_with(ram_bytes=10)
    bench.aspire("m", {1: ram(6)})
    bench.settle()
    handle = bench.manager.servable_handle(ServableRequest.latest("m"))
    bench.aspire("m", {})
    bench.aspire("n", {1: ram(7)})
    bench.settle()
    assert bench.published("n", 1) == [START]
    handle.release()
    bench.settle()
    assert bench.published("n", 1) == [START, LOADING, AVAILABLE]


def test_who_does_not_fit_waits_for_a_load_under_way_that_may_fail() -> None:
    bench = bench_with(ram_bytes=10)
    failing = ram(6)
    failing.load_errors.append(DataLossError("broken"))
    bench.aspire("m", {1: failing})
    bench.run("load-m-1")
    bench.aspire("n", {1: ram(7)})
    bench.run("load-n-1")
    assert bench.published("n", 1) == [START]
    bench.settle()
    assert bench.published("m", 1)[-1] is END
    assert bench.published("n", 1)[-1] is AVAILABLE


def test_small_versions_do_not_overtake_one_that_waits_for_resources() -> None:
    bench = bench_with(ram_bytes=10)
    bench.aspire("m", {1: ram(6)})
    bench.settle()
    handle = bench.manager.servable_handle(ServableRequest.latest("m"))
    bench.aspire("m", {})
    bench.aspire("large", {1: ram(7)})
    bench.settle()
    bench.aspire("small", {1: ram(1)})
    bench.settle()
    assert bench.published("small", 1) == [START]
    handle.release()
    bench.settle()
    assert bench.published("large", 1)[-1] is AVAILABLE
    assert bench.published("small", 1)[-1] is AVAILABLE


def test_a_retry_that_is_due_is_not_held_up_by_one_that_waits_for_resources() -> None:
    bench = bench_with(max_num_retries=1, interval_s=5.0, num_load_threads=1, ram_bytes=10)
    failing = ram(6)
    failing.load_errors += [DataLossError("broken"), DataLossError("broken")]
    bench.aspire("m", {1: failing})
    bench.settle()
    bench.aspire("n", {1: ram(7)})
    bench.settle()
    assert bench.published("n", 1) == [START]
    bench.advance(5.0)
    bench.settle()
    assert bench.published("m", 1)[-1] is END
    assert bench.published("n", 1)[-1] is AVAILABLE


def test_what_is_un_aspired_while_it_waits_for_resources_is_cancelled() -> None:
    bench = bench_with(ram_bytes=10)
    bench.aspire("m", {1: ram(6)})
    bench.settle()
    handle = bench.manager.servable_handle(ServableRequest.latest("m"))
    bench.aspire("m", {})
    loader = ram(7)
    bench.aspire("n", {1: loader})
    bench.settle()
    bench.aspire("n", {})
    assert isinstance(state_of(bench, ServableId("n", 1)).error, CancelledError)
    assert loader.calls == ["estimate_resources"]
    handle.release()


@pytest.mark.parametrize("num_load_threads", [0, 1, 3])
def test_no_more_loads_run_at_once_than_there_are_threads(num_load_threads: int) -> None:
    bench = bench_with(num_load_threads=num_load_threads)
    for name in "abcde":
        bench.aspire(name, {1: FakeLoader()})
    assert len(bench.runner.names) == max(1, num_load_threads)
    bench.settle()
    assert len(bench.manager.available_servables()) == 5


def test_more_load_threads_are_used_from_the_next_step_on() -> None:
    bench = bench_with(num_load_threads=1)
    for name in "abcde":
        bench.aspire(name, {1: FakeLoader()})
    bench.manager.set_num_load_threads(4)
    bench.manager.step()
    assert len(bench.runner.names) == 4


def test_no_more_unloads_run_at_once_than_there_are_threads() -> None:
    bench = bench_with(num_unload_threads=2)
    for name in "abcd":
        bench.aspire(name, {1: FakeLoader()})
    bench.settle()
    for name in "abcd":
        bench.aspire(name, {})
    assert bench.runner.names == ["inserve-unload-a-1", "inserve-unload-b-1"]
    bench.settle()
    assert [bench.published(name, 1)[-1] for name in "abcd"] == [END] * 4


def test_what_is_un_aspired_during_its_load_is_unloaded_without_being_served() -> None:
    bench, loader = bench_with(ram_bytes=10), ram(10)
    bench.aspire("m", {1: loader})
    bench.run("load-m-1")
    bench.aspire("m", {})
    bench.settle()
    assert bench.published("m", 1) == [START, LOADING, END]
    error = state_of(bench, M1).error
    assert isinstance(error, CancelledError)
    assert error.message == "Loading of servable cancelled"
    assert loader.calls == ["estimate_resources", "load", "unload"]
    assert bench.tracker.used == ResourceAllocation()


def test_what_is_un_aspired_during_a_load_that_fails_ends_with_its_error() -> None:
    bench = bench_with(max_num_retries=5)
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken")])})
    bench.run("load-m-1")
    bench.aspire("m", {})
    bench.settle()
    error = state_of(bench, M1).error
    assert isinstance(error, DataLossError)


def test_what_is_un_aspired_between_attempts_has_its_last_attempt_at_once() -> None:
    bench = bench_with(max_num_retries=5, interval_s=60.0)
    loader = FakeLoader(load_errors=[DataLossError("broken"), NotFoundError("gone")])
    bench.aspire("m", {1: loader})
    bench.settle()
    bench.aspire("m", {})
    bench.settle()
    state = state_of(bench, M1)
    assert (state.state, state.attempts) == (END, 2)
    assert isinstance(state.error, NotFoundError)


def test_what_is_un_aspired_before_it_is_loaded_is_cancelled_and_never_asked() -> None:
    bench, loader = bench_with(num_load_threads=1), FakeLoader()
    bench.aspire("busy", {1: FakeLoader()})
    bench.aspire("m", {1: loader})
    bench.aspire("m", {})
    assert isinstance(state_of(bench, M1).error, CancelledError)
    assert loader.calls == []


def test_a_failed_unload_ends_the_version_with_its_error_and_gives_back_its_resources() -> None:
    bench = bench_with(ram_bytes=10)
    loader = FakeLoader(estimate=ResourceAllocation.of_ram(10), unload_error=OSError("stuck"))
    bench.aspire("m", {1: loader})
    bench.settle()
    bench.aspire("m", {})
    bench.settle()
    state = state_of(bench, M1)
    assert state.state is END
    assert state.error is not None
    assert state.error.message == "OSError: stuck"
    assert bench.tracker.used == ResourceAllocation()


def test_a_load_whose_servable_cannot_be_had_has_failed_and_is_undone() -> None:
    class NoServable(FakeLoader):
        def servable(self) -> object:
            raise NotFoundError("no servable")

    bench, loader = bench_with(), NoServable()
    bench.aspire("m", {1: loader})
    bench.settle()
    assert isinstance(state_of(bench, M1).error, NotFoundError)
    assert loader.calls == ["estimate_resources", "load", "unload"]


def test_a_failed_version_stays_failed_by_default() -> None:
    bench = bench_with()
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken")])})
    bench.settle()
    bench.advance(1e9)
    assert bench.published("m", 1)[-1] is END
    assert bench.manager.step() is None


def test_a_failed_version_is_loaded_anew_by_itself_where_that_is_wanted() -> None:
    bench = bench_with(reload_initial_s=10.0)
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken"), DataLossError("broken")])})
    bench.settle()
    bench.advance(10.0)
    bench.settle()
    bench.advance(19.0)
    assert bench.published("m", 1) == [START, LOADING, END] * 2
    bench.advance(1.0)
    bench.settle()
    assert bench.published("m", 1)[-1] is AVAILABLE
    state = state_of(bench, M1)
    assert (state.error, state.attempts) == (None, 3)


def test_each_failed_attempt_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_with(max_num_retries=1, interval_s=5.0)
    bench.aspire("m", {1: FakeLoader(load_errors=[NotFoundError("gone"), NotFoundError("gone")])})
    bench.settle()
    bench.advance(5.0)
    bench.settle()
    assert caplog.messages == [
        "Loading servable: {name: m version: 1} failed and is tried again: NOT_FOUND: gone",
        "Servable {name: m version: 1} cannot be loaded: NOT_FOUND: gone",
    ]


def test_the_log_tells_the_stages_of_a_load_and_an_unload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inserve.lifecycle")
    bench = bench_with()
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {})
    bench.settle()
    assert caplog.messages == [
        "Successfully reserved resources to load servable {name: m version: 1}",
        "Loading servable version {name: m version: 1}",
        "Successfully loaded servable version {name: m version: 1}",
        "Quiescing servable version {name: m version: 1}",
        "Done quiescing servable version {name: m version: 1}",
        "Done unloading servable version {name: m version: 1}",
    ]
