"""Random histories: whatever happens in whatever order, some things always hold."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inserve.errors import DataLossError, InserveError, NotFoundError
from inserve.lifecycle.aspired_version_policy import (
    AspiredVersionPolicy,
    availability_preserving,
    resource_preserving,
)
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManagerOptions
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.loader_harness import RetryPolicy
from inserve.lifecycle.servable_handle import ServableHandle
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState, is_legal_transition
from inserve.resources.allocation import ResourceAllocation
from inserve.testing import FakeLoader, ManagerBench

NAMES = ("a", "b")
BUDGET = {"main": 10}
INTERVAL_S = 60.0

names = st.sampled_from(NAMES)
versions = st.integers(0, 4)
entries = st.one_of(
    st.just(None),
    st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2)),
)
"""None: an error in place of a loader; else its size and how often its load and its estimate fail."""


class ManagerHistories(RuleBasedStateMachine):
    policy: AspiredVersionPolicy = staticmethod(availability_preserving)

    def __init__(self) -> None:
        super().__init__()
        self.bench = ManagerBench()
        self.loaders: list[FakeLoader] = []
        self.handles: list[ServableHandle[Any]] = []
        self.available: dict[str, list[int]] = {}
        self.emptied: str | None = None
        self.last_state: dict[ServableId, ManagerState] = {}
        self.illegal: list[str] = []
        self.next_version = 100

    @initialize(
        num_load_threads=st.integers(0, 3),
        num_unload_threads=st.integers(0, 2),
        max_num_retries=st.integers(0, 2),
        reload_initial_s=st.sampled_from([None, 30.0]),
    )
    def begin(
        self,
        num_load_threads: int,
        num_unload_threads: int,
        max_num_retries: int,
        reload_initial_s: float | None,
    ) -> None:
        options = AspiredVersionsManagerOptions(
            num_load_threads,
            num_unload_threads,
            RetryPolicy(max_num_retries, INTERVAL_S, reload_initial_s, 120.0),
            type(self).policy,
        )
        self.bench = ManagerBench(options, BUDGET)
        self.bench.bus.subscribe(self.note)

    def note(self, event: ServableState) -> None:
        before = self.last_state.get(event.id)
        if not is_legal_transition(before, event.state):
            self.illegal.append(f"{event.id} {before} -> {event.state}")
        self.last_state[event.id] = event.state
        available = self.bench.manager.lookup(*event.id) is not None
        if available is not (event.state in (ManagerState.AVAILABLE, ManagerState.UNLOADING)):
            self.illegal.append(f"{event.id} {event.state} published, available: {available}")

    def loader(self, size: int, load_errors: int, estimate_errors: int) -> FakeLoader:
        made = FakeLoader(
            estimate=ResourceAllocation.of_ram(size),
            load_errors=[DataLossError("broken")] * load_errors,
            estimate_errors=[NotFoundError("gone")] * estimate_errors,
        )
        made.servable = lambda: made  # type: ignore[method-assign]
        self.loaders.append(made)
        return made

    @rule(name=names, wanted=st.dictionaries(versions, entries, max_size=4))
    def aspire(self, name: str, wanted: dict[int, tuple[int, int, int] | None]) -> None:
        given: dict[int, Loader | InserveError] = {
            version: NotFoundError("no path") if entry is None else self.loader(*entry)
            for version, entry in wanted.items()
        }
        self.emptied = None if given else name
        self.bench.aspire(name, given)

    @precondition(lambda self: self.bench.runner.names)
    @rule(data=st.data())
    def run_a_task(self, data: st.DataObject) -> None:
        self.bench.runner.run(data.draw(st.sampled_from(self.bench.runner.names)))
        if data.draw(st.booleans()):
            self.bench.manager.step()

    @rule()
    def settle(self) -> None:
        self.bench.settle()

    @rule(seconds=st.sampled_from([1.0, 30.0, INTERVAL_S, 600.0]))
    def advance(self, seconds: float) -> None:
        self.bench.advance(seconds)

    @rule(name=names, version=st.one_of(st.none(), versions))
    def take_a_handle(self, name: str, version: int | None) -> None:
        manager = self.bench.manager
        handle = manager.lookup_latest(name) if version is None else manager.lookup(name, version)
        if handle is not None:
            self.handles.append(handle)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def release_a_handle(self, data: st.DataObject) -> None:
        self.handles.pop(data.draw(st.integers(0, len(self.handles) - 1))).release()

    @rule(name=names)
    def retry_failed(self, name: str) -> None:
        try:
            self.bench.manager.retry_failed(name)
        except NotFoundError:
            return
        self.bench.manager.step()

    @rule(num_load_threads=st.integers(0, 3))
    def change_the_number_of_load_threads(self, num_load_threads: int) -> None:
        self.bench.manager.set_num_load_threads(num_load_threads)

    @rule(name=names)
    def a_good_version_becomes_available_in_the_end(self, name: str) -> None:
        self.next_version += 1
        self.bench.aspire(name, {self.next_version: self.loader(0, 0, 0)})
        self.release_all()
        for _ in range(4):
            self.bench.settle()
            self.bench.advance(INTERVAL_S)
        self.bench.settle()
        assert self.bench.manager.available_versions(name) == [self.next_version]

    def release_all(self) -> None:
        while self.handles:
            self.handles.pop().release()

    @invariant()
    def loads_and_unloads_alternate_and_do_not_overlap(self) -> None:
        assert [loader.violations for loader in self.loaders if loader.violations] == []

    @invariant()
    def what_a_handle_borrows_is_loaded(self) -> None:
        assert all(handle.servable.is_loaded for handle in self.handles)

    @invariant()
    def published_states_are_in_order_and_agree_with_lookups(self) -> None:
        assert self.illegal == []

    @invariant()
    def resources_are_reserved_for_all_that_is_loaded_and_never_beyond_the_budget(self) -> None:
        tracker = self.bench.tracker
        assert tracker.used.fits(BUDGET)
        loaded = sum(loader.estimate.bytes_on("main") for loader in self.loaders if loader.is_loaded)
        assert loaded <= tracker.used.bytes_on("main")

    @invariant()
    def a_stream_that_served_goes_on_serving(self) -> None:
        before, self.available = (
            self.available,
            {name: self.bench.manager.available_versions(name) for name in NAMES},
        )
        if type(self).policy is availability_preserving:
            for name in NAMES:
                assert self.available[name] or not before.get(name) or self.emptied == name
        self.emptied = None

    def teardown(self) -> None:
        self.release_all()
        self.bench.settle()
        try:
            self.bench.manager.stop(0.0)
        except InserveError:
            self.bench.settle()
            self.bench.manager.stop(0.0)
        assert [loader for loader in self.loaders if loader.is_loaded] == []
        assert self.bench.tracker.used == ResourceAllocation()
        assert set(self.last_state.values()) <= {ManagerState.END}
        self.loads_and_unloads_alternate_and_do_not_overlap()
        self.published_states_are_in_order_and_agree_with_lookups()


class ResourcePreservingHistories(ManagerHistories):
    policy: AspiredVersionPolicy = staticmethod(resource_preserving)


HISTORIES = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestAvailabilityPreservingHistories = ManagerHistories.TestCase
TestAvailabilityPreservingHistories.settings = HISTORIES
TestResourcePreservingHistories = ResourcePreservingHistories.TestCase
TestResourcePreservingHistories.settings = HISTORIES
