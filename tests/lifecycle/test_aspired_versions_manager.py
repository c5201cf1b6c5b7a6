"""Which versions are loaded when, and how the manager starts and stops."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inserve.errors import (
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from inserve.lifecycle.aspired_version_policy import resource_preserving
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManager, AspiredVersionsManagerOptions
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.loader_harness import RetryPolicy
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.source import AspiredVersionsCallback, ServableData
from inserve.resources.allocation import ResourceAllocation
from inserve.resources.tracker import ResourceTracker
from inserve.testing import FakeLoader, Gate, ManagerBench, ManualClock

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
ONCE = RetryPolicy(max_num_retries=0)
LIMIT_S = 30.0


@pytest.fixture
def bench() -> ManagerBench:
    return ManagerBench(AspiredVersionsManagerOptions(retry=ONCE))


def broken() -> FakeLoader:
    return FakeLoader(load_errors=[DataLossError("broken")])


def test_the_callback_of_a_source_is_the_managers_method(bench: ManagerBench) -> None:
    callback: AspiredVersionsCallback[Loader] = bench.manager.set_aspired_versions
    callback("m", [ServableData(ServableId("m", 1), FakeLoader())])
    bench.settle()
    assert bench.manager.available_versions("m") == [1]


def test_a_new_version_is_available_before_the_old_one_is_taken_away(bench: ManagerBench) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {2: FakeLoader()})
    bench.settle()
    changes = [(event.id.version, event.state.name) for event in bench.events]
    assert changes.index((2, "AVAILABLE")) < changes.index((1, "UNLOADING"))
    assert bench.manager.available_versions("m") == [2]


def test_under_the_resource_preserving_policy_the_old_version_is_gone_before_the_new_one_loads() -> None:
    bench = ManagerBench(AspiredVersionsManagerOptions(policy=resource_preserving), {"main": 10})
    for version in (1, 2):
        bench.aspire("m", {version: FakeLoader(estimate=ResourceAllocation.of_ram(10))})
        bench.settle()
    changes = [(event.id.version, event.state.name) for event in bench.events]
    assert changes.index((1, "END")) < changes.index((2, "LOADING"))
    assert bench.manager.available_versions("m") == [2]


def test_the_old_version_goes_on_serving_when_the_new_one_fails(bench: ManagerBench) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {2: broken()})
    bench.settle()
    assert bench.published("m", 2)[-1] is END
    assert bench.manager.available_versions("m") == [1]


def test_several_actions_start_in_one_step(bench: ManagerBench) -> None:
    bench.aspire("old", {1: FakeLoader(), 2: FakeLoader()})
    bench.settle()
    bench.manager.set_aspired_versions("old", [])
    for name in ("a", "b"):
        bench.manager.set_aspired_versions(name, [ServableData(ServableId(name, 1), FakeLoader())])
    bench.manager.step()
    assert [bench.published("old", version)[-1] for version in (1, 2)] == [UNLOADING, UNLOADING]
    assert sorted(bench.runner.names) == ["inserve-load-a-1", "inserve-load-b-1", "inserve-unload-old-1"]


def test_the_highest_version_is_loaded_first(bench: ManagerBench) -> None:
    bench.manager.set_num_load_threads(1)
    bench.aspire("m", {2: FakeLoader(), 10: FakeLoader(), 1: FakeLoader()})
    bench.settle()
    loading = [event.id.version for event in bench.events if event.state is LOADING]
    assert loading == [10, 2, 1]


def test_models_take_turns_at_the_load_threads(bench: ManagerBench) -> None:
    bench.manager.set_num_load_threads(1)
    bench.manager.set_aspired_versions("a", [ServableData(ServableId("a", v), FakeLoader()) for v in (1, 2)])
    bench.aspire("b", {1: FakeLoader()})
    bench.settle()
    loading = [(event.id.name, event.id.version) for event in bench.events if event.state is LOADING]
    assert loading == [("a", 2), ("b", 1), ("a", 1)]


def test_of_two_lists_before_a_step_the_later_counts(bench: ManagerBench) -> None:
    early = FakeLoader()
    bench.manager.set_aspired_versions("m", [ServableData(ServableId("m", 1), early)])
    bench.aspire("m", {2: FakeLoader()})
    bench.settle()
    assert bench.manager.available_versions("m") == [2]
    assert early.calls == []


def test_the_list_of_one_model_leaves_others_alone(bench: ManagerBench) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.aspire("n", {1: FakeLoader()})
    bench.settle()
    bench.aspire("n", {})
    bench.settle()
    assert bench.manager.available_servables() == [("m", 1)]


def test_a_loader_for_a_version_that_is_managed_is_ignored(bench: ManagerBench) -> None:
    first, second = FakeLoader("first"), FakeLoader("second")
    bench.aspire("m", {1: first})
    bench.settle()
    bench.aspire("m", {1: second})
    bench.settle()
    assert bench.manager.servable_handle(ServableRequest.latest("m")).servable == "first"
    assert second.calls == []


def test_of_two_entries_for_one_version_the_first_is_managed(
    bench: ManagerBench, caplog: pytest.LogCaptureFixture
) -> None:
    loaders = [FakeLoader("first"), FakeLoader("second")]
    bench.manager.set_aspired_versions("m", [ServableData(ServableId("m", 1), loader) for loader in loaders])
    bench.settle()
    assert bench.manager.servable_handle(ServableRequest.latest("m")).servable == "first"
    assert "This servable is already being managed: {name: m version: 1}" in caplog.text


def test_a_list_with_an_entry_of_another_model_is_refused(bench: ManagerBench) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"only versions of m in its list, got \{name: n version: 1\}"
    ):
        bench.manager.set_aspired_versions("m", [ServableData(ServableId("n", 1), FakeLoader())])
    bench.settle()
    assert bench.events == []


def test_an_entry_that_is_an_error_ends_with_it_at_once(bench: ManagerBench) -> None:
    bench.aspire("m", {1: NotFoundError("no such path")})
    assert [(event.state, event.error and event.error.message) for event in bench.events] == [
        (END, "no such path")
    ]


def test_a_loader_that_follows_an_error_is_loaded(bench: ManagerBench) -> None:
    bench.aspire("m", {1: NotFoundError("no such path")})
    bench.aspire("m", {1: NotFoundError("no such path")})
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    assert bench.published("m", 1) == [END, START, LOADING, AVAILABLE]


def test_a_version_that_is_aspired_again_while_unloading_is_loaded_afresh_when_it_is_gone(
    bench: ManagerBench,
) -> None:
    bench.aspire("m", {1: FakeLoader("first")})
    bench.settle()
    bench.aspire("m", {})
    bench.aspire("m", {1: FakeLoader("second")})
    assert bench.published("m", 1) == [START, LOADING, AVAILABLE, UNLOADING]
    bench.settle()
    assert bench.manager.servable_handle(ServableRequest.latest("m")).servable == "second"


def test_a_list_that_names_a_serving_version_no_longer_aspired_waits(bench: ManagerBench) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {2: broken()})
    bench.settle()
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    assert bench.manager.available_versions("m") == [1]
    assert bench.published("m", 1) == [START, LOADING, AVAILABLE]
    bench.aspire("m", {3: FakeLoader()})
    bench.settle()
    assert bench.manager.available_versions("m") == [3]


def test_a_failed_version_is_loaded_anew_when_told(bench: ManagerBench) -> None:
    bench.aspire("m", {1: broken(), 2: broken(), 3: FakeLoader()})
    bench.settle()
    assert bench.manager.retry_failed("m", 1) == [("m", 1)]
    bench.settle()
    assert bench.manager.available_versions("m") == [3, 1]
    assert bench.manager.retry_failed("m") == [("m", 2)]
    bench.settle()
    assert bench.manager.available_versions("m") == [3, 2, 1]


def test_a_version_that_is_tried_again_by_two_callers_is_loaded_once(bench: ManagerBench) -> None:
    bench.aspire("m", {1: broken()})
    bench.settle()
    bench.manager.retry_failed("m")
    bench.manager.retry_failed("m")
    bench.settle()
    assert bench.published("m", 1) == [START, LOADING, END, START, LOADING, AVAILABLE]


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("m", 1, "No aspired version 1 of m has failed"),
        ("m", None, "No aspired version of m has failed"),
        ("x", None, "No aspired version of x has failed"),
    ],
)
def test_there_is_nothing_to_try_again_where_nothing_failed(
    bench: ManagerBench, name: str, version: int | None, text: str
) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    with pytest.raises(NotFoundError) as caught:
        bench.manager.retry_failed(name, version)
    assert str(caught.value) == text


def test_a_version_without_a_loader_is_not_tried_again(bench: ManagerBench) -> None:
    bench.aspire("m", {1: NotFoundError("no such path")})
    with pytest.raises(NotFoundError):
        bench.manager.retry_failed("m", 1)


def test_stop_unloads_everything_and_publishes_it(bench: ManagerBench) -> None:
    loaders = [FakeLoader(), FakeLoader(), FakeLoader()]
    bench.aspire("m", {1: loaders[0], 2: loaders[1]})
    bench.aspire("n", {1: loaders[2]})
    bench.settle()
    with pytest.raises(DeadlineExceededError):
        bench.manager.stop(0.0)
    bench.settle()
    bench.manager.stop(0.0)
    assert [loader.is_loaded for loader in loaders] == [False] * 3
    assert [states[-1] for states in (bench.published("m", 1), bench.published("n", 1))] == [END, END]
    assert bench.manager.available_servables() == []


def test_stop_names_what_is_still_in_use_and_may_be_called_again(bench: ManagerBench) -> None:
    loader = FakeLoader("servable")
    bench.aspire("m", {1: loader})
    bench.settle()
    handle = bench.manager.servable_handle(ServableRequest.latest("m"))
    with pytest.raises(
        DeadlineExceededError, match=r"^after 0.0 s not yet unloaded: \{name: m version: 1\} quiescing$"
    ):
        bench.manager.stop(0.0)
    assert loader.is_loaded
    handle.release()
    bench.settle()
    bench.manager.stop(0.0)
    bench.manager.stop(0.0)
    assert not loader.is_loaded


def test_stop_does_not_wait_for_pauses_between_attempts() -> None:
    bench = ManagerBench(AspiredVersionsManagerOptions(retry=RetryPolicy(5, 60.0)))
    loader = broken()
    bench.aspire("m", {1: loader})
    bench.settle()
    bench.manager.stop(0.0)
    assert bench.published("m", 1)[-1] is END
    assert loader.calls == ["estimate_resources", "load"]


def test_lists_are_dropped_after_stop(bench: ManagerBench) -> None:
    bench.manager.stop()
    bench.aspire("m", {1: FakeLoader()})
    assert bench.events == []


def test_a_stopped_manager_cannot_be_started(bench: ManagerBench) -> None:
    bench.manager.stop()
    with pytest.raises(FailedPreconditionError, match="cannot be started again"):
        bench.manager.start()


def test_the_repr_counts_what_is_going_on(bench: ManagerBench) -> None:
    bench.aspire("m", {1: FakeLoader()})
    bench.settle()
    bench.aspire("m", {1: FakeLoader(), 2: FakeLoader()})
    text = "<AspiredVersionsManager managed: 2, available: 1, loading: 1, unloading: 0>"
    assert repr(bench.manager) == text


def test_a_negative_number_of_threads_is_refused(bench: ManagerBench) -> None:
    with pytest.raises(ValueError, match="num_load_threads: expected at least 0, got -1"):
        AspiredVersionsManagerOptions(num_load_threads=-1)
    with pytest.raises(ValueError, match="num_unload_threads: expected at least 0, got -1"):
        AspiredVersionsManagerOptions(num_unload_threads=-1)
    with pytest.raises(ValueError, match="num_load_threads: expected at least 0, got -1"):
        bench.manager.set_num_load_threads(-1)


class Threaded:
    """A started manager with real threads on a manual clock."""

    def __init__(self, num_load_threads: int = 2, num_unload_threads: int = 1) -> None:
        self.clock = ManualClock()
        bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(bus)
        self.tracker = ResourceTracker({})
        self.manager = AspiredVersionsManager(
            AspiredVersionsManagerOptions(num_load_threads, num_unload_threads, RetryPolicy(1, 60.0)),
            bus=bus,
            tracker=self.tracker,
            clock=self.clock,
        )
        self.manager.start()

    def aspire(self, versions: dict[int, FakeLoader]) -> None:
        self.manager.set_aspired_versions(
            "m", [ServableData(ServableId("m", version), loader) for version, loader in versions.items()]
        )

    def wait(self, version: int, goal: ManagerState) -> ServableState:
        request = ServableRequest("m", version)
        return self.monitor.wait_until_reached([request], goal, LIMIT_S)[request]


def ours() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("inserve-"))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_versions_are_swapped_under_requests_that_never_miss(num_threads: int) -> None:
    threaded = Threaded(num_load_threads=num_threads, num_unload_threads=num_threads)
    loaders = {version: FakeLoader(version) for version in range(1, 8)}
    threaded.aspire({1: loaders[1]})
    threaded.wait(1, AVAILABLE)
    stop, wrong = threading.Event(), list[str]()

    def request() -> None:
        while not stop.is_set():
            with threaded.manager.servable_handle(ServableRequest.latest("m")) as handle:
                if not loaders[handle.servable].is_loaded:
                    wrong.append(f"{handle.id} is in use and not loaded")

    with ThreadPoolExecutor(2) as pool:
        requests = [pool.submit(request) for _ in range(2)]
        try:
            for version in range(2, 8):
                threaded.aspire({version: loaders[version]})
                assert threaded.wait(version, AVAILABLE).state is AVAILABLE
                assert threaded.wait(version - 1, END).error is None
        finally:
            stop.set()
        for result in requests:
            result.result(LIMIT_S)
    threaded.manager.stop(LIMIT_S)
    assert wrong == []
    assert [loader.violations for loader in loaders.values()] == [[]] * 7
    assert ours() == []


def test_threads_bear_the_name_of_what_they_load() -> None:
    gate = Gate()
    threaded, loader = Threaded(), FakeLoader(load_gate=gate)
    threaded.aspire({3: loader})
    gate.block_until_entered()
    assert ours() == ["inserve-handle-returns", "inserve-load-m-3", "inserve-manager"]
    gate.open()
    threaded.wait(3, AVAILABLE)
    threaded.manager.stop(LIMIT_S)
    assert set(loader.thread_names) == {"inserve-load-m-3", "inserve-unload-m-3"}


def test_without_load_threads_versions_are_loaded_by_the_managers_own() -> None:
    threaded, loader = Threaded(num_load_threads=0, num_unload_threads=0), FakeLoader()
    threaded.aspire({1: loader})
    threaded.wait(1, AVAILABLE)
    threaded.manager.stop(LIMIT_S)
    assert set(loader.thread_names) == {"inserve-manager"}


def test_the_manager_wakes_for_an_attempt_that_is_due() -> None:
    threaded = Threaded()
    failed = threading.Event()
    threaded.manager.set_num_load_threads(1)

    class Failing(FakeLoader):
        def load(self) -> None:
            try:
                super().load()
            finally:
                failed.set()

    threaded.aspire({1: Failing(load_errors=[DataLossError("broken")])})
    assert failed.wait(LIMIT_S)
    while threaded.wait(1, LOADING).last_failure is None:
        threaded.clock.block_until_waiting()
    threaded.clock.block_until_waiting()
    threaded.clock.advance(60.0)
    assert threaded.wait(1, AVAILABLE).attempts == 2
    threaded.manager.stop(LIMIT_S)


def test_the_manager_wakes_for_the_last_handle() -> None:
    threaded = Threaded()
    threaded.aspire({1: FakeLoader()})
    threaded.wait(1, AVAILABLE)
    handle = threaded.manager.servable_handle(ServableRequest.latest("m"))
    threaded.aspire({})
    threaded.wait(1, UNLOADING)
    handle.release()
    assert threaded.wait(1, END).error is None
    threaded.manager.stop(LIMIT_S)


def test_stop_is_bounded_while_a_load_hangs_and_succeeds_when_it_has_ended() -> None:
    gate = Gate()
    threaded, loader = Threaded(), FakeLoader(load_gate=gate)
    threaded.aspire({1: loader})
    gate.block_until_entered()
    with pytest.raises(DeadlineExceededError, match="version: 1} loading"):
        threaded.manager.stop(0.0)
    gate.open()
    threaded.manager.stop(LIMIT_S)
    assert not loader.is_loaded
    assert threaded.tracker.used == ResourceAllocation()
    assert ours() == []


def test_start_and_stop_may_be_repeated() -> None:
    threaded = Threaded()
    threaded.manager.start()
    assert ours() == ["inserve-handle-returns", "inserve-manager"]
    threaded.manager.stop(LIMIT_S)
    threaded.manager.stop(LIMIT_S)
    assert ours() == []


def test_the_manager_survives_a_policy_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    clock, calls, called = ManualClock(), list[int](), threading.Event()

    def policy(versions: object) -> None:
        calls.append(1)
        called.set()
        if len(calls) == 1:
            raise RuntimeError("defect")

    manager = AspiredVersionsManager(
        AspiredVersionsManagerOptions(policy=policy), bus=EventBus(), tracker=ResourceTracker({}), clock=clock
    )
    manager.start()
    manager.set_aspired_versions("m", [ServableData(ServableId("m", 1), FakeLoader())])
    assert called.wait(LIMIT_S)
    manager.stop(LIMIT_S)
    assert "The manager failed and goes on in 1.0 s" in caplog.text


def test_a_model_is_aspired_to_until_an_empty_list_was_looked_at() -> None:
    bench = ManagerBench()
    assert not bench.manager.is_aspired("m")
    entry = ServableData[Loader](ServableId("m", 1), FakeLoader())
    bench.manager.set_aspired_versions("m", [entry])
    assert bench.manager.is_aspired("m")
    bench.settle()
    bench.manager.set_aspired_versions("m", [])
    assert bench.manager.is_aspired("m")
    bench.manager.step()
    assert not bench.manager.is_aspired("m")


def test_a_failed_version_is_aspired_to_until_it_is_left_out() -> None:
    bench = ManagerBench(AspiredVersionsManagerOptions(retry=RetryPolicy(0)))
    bench.aspire("m", {1: FakeLoader(load_errors=[DataLossError("broken")])})
    bench.settle()
    assert bench.manager.is_aspired("m")
    bench.aspire("m", {})
    assert not bench.manager.is_aspired("m")
