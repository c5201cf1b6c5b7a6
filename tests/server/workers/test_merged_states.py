from __future__ import annotations

import pytest

from inserve.errors import UnknownError
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.server.workers.merged_states import MergedStates, worst_state

START, LOADING, AVAILABLE, UNLOADING, END = (
    ManagerState.START,
    ManagerState.LOADING,
    ManagerState.AVAILABLE,
    ManagerState.UNLOADING,
    ManagerState.END,
)
ID = ServableId("a", 1)


def at(state: ManagerState | None, failure: str | None = None) -> ServableState | None:
    if state is None:
        return None
    return ServableState(ID, state, 0.0, None if failure is None else UnknownError(failure))


@pytest.mark.parametrize(
    ("states", "merged"),
    [
        ([AVAILABLE, AVAILABLE], AVAILABLE),
        ([AVAILABLE, LOADING], LOADING),
        ([AVAILABLE, START], START),
        ([AVAILABLE, UNLOADING], UNLOADING),
        ([AVAILABLE, None], START),
        ([LOADING, None], START),
        ([UNLOADING, None], UNLOADING),
        ([END, None], END),
        ([END, END], END),
    ],
)
def test_a_version_stands_as_where_it_stands_worst(
    states: list[ManagerState | None], merged: ManagerState
) -> None:
    for order in (states, states[::-1]):
        worst = worst_state([at(state) for state in order])
        assert worst is not None
        assert worst.state is merged


def test_a_failure_at_one_process_shows_with_its_reason() -> None:
    worst = worst_state([at(AVAILABLE), at(END, "no memory"), at(LOADING)])
    assert worst is not None
    assert (worst.state, str(worst.error)) == (END, "no memory")


def test_a_version_that_nobody_knows_has_no_state() -> None:
    assert worst_state([None, None]) is None


def test_versions_of_all_processes_are_listed_highest_first() -> None:
    bus: EventBus[ServableState] = EventBus()
    monitor = ServableStateMonitor(bus)
    for state in (START, LOADING, AVAILABLE):
        bus.publish(ServableState(ServableId("a", 1), state, 0.0))
    other = {ServableId("a", 2): ServableState(ServableId("a", 2), LOADING, 0.0)}
    unrelated = {ServableId("b", 3): ServableState(ServableId("b", 3), AVAILABLE, 0.0)}
    merged = MergedStates(monitor, lambda: [{**other, **unrelated}])
    assert [(state.id.version, state.state) for state in merged.states("a")] == [(2, START), (1, START)]
    alone = MergedStates(monitor, list)
    assert [(state.id.version, state.state) for state in alone.states("a")] == [(1, AVAILABLE)]
    assert alone.state(ServableId("a", 2)) is None
    monitor.close()
