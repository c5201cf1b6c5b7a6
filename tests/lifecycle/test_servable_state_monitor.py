from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from inserve.errors import DeadlineExceededError, UnknownError
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.testing import ManualClock

LATEST = ServableRequest.latest("m")


class Scene:
    def __init__(self, **options: int) -> None:
        self.clock = ManualClock()
        self.bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(self.bus, self.clock, **options)

    def publish(self, version: int, state: str, error: UnknownError | None = None, name: str = "m") -> None:
        event = ServableState(ServableId(name, version), ManagerState[state], self.clock.now(), error)
        self.bus.publish(event)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def shown(states: Iterable[ServableState]) -> list[tuple[int, str]]:
    return [(state.id.version, state.state.name) for state in states]


def test_versions_are_listed_highest_first_with_their_last_state(scene: Scene) -> None:
    for version, state in [(2, "START"), (10, "START"), (1, "START"), (2, "LOADING")]:
        scene.publish(version, state)
    assert shown(scene.monitor.states("m")) == [(10, "START"), (2, "LOADING"), (1, "START")]


def test_a_model_never_seen_has_no_versions(scene: Scene) -> None:
    assert scene.monitor.states("m") == []
    assert scene.monitor.state(ServableId("m", 1)) is None
    assert not scene.monitor.is_available(ServableId("m", 1))


def test_a_version_that_failed_stays_listed_with_its_error(scene: Scene) -> None:
    scene.publish(1, "END", UnknownError("no luck"))
    state = scene.monitor.state(ServableId("m", 1))
    assert state is not None
    assert state.error is not None
    assert state.error.message == "no luck"


def test_the_record_of_a_version_starts_over(scene: Scene) -> None:
    scene.publish(1, "END", UnknownError("no luck"))
    scene.publish(1, "START")
    state = scene.monitor.state(ServableId("m", 1))
    assert state is not None
    assert (state.state, state.error) == (ManagerState.START, None)


def test_all_models_are_listed_by_name(scene: Scene) -> None:
    scene.publish(1, "START", name="b")
    scene.publish(1, "AVAILABLE", name="a")
    assert {name: shown(states) for name, states in scene.monitor.all_states().items()} == {
        "a": [(1, "AVAILABLE")],
        "b": [(1, "START")],
    }
    assert list(scene.monitor.all_states()) == ["a", "b"]
    assert scene.monitor.is_available(ServableId("a", 1))


def test_the_versions_that_ended_first_are_dropped_beyond_the_limit() -> None:
    scene = Scene(max_ended_versions=2)
    scene.publish(9, "AVAILABLE")
    for version in (5, 3, 4):
        scene.clock.advance(1.0)
        scene.publish(version, "END")
    assert shown(scene.monitor.states("m")) == [(9, "AVAILABLE"), (4, "END"), (3, "END")]


def test_a_closed_monitor_keeps_what_it_knows_and_hears_no_more(scene: Scene) -> None:
    scene.publish(1, "START")
    scene.monitor.close()
    scene.publish(1, "LOADING")
    assert shown(scene.monitor.states("m")) == [(1, "START")]


def test_a_wait_for_what_is_there_already_returns_at_once(scene: Scene) -> None:
    scene.publish(1, "AVAILABLE")
    request = ServableRequest.specific("m", 1)
    decided = scene.monitor.wait_until_reached([request, LATEST])
    assert {asked: state.id.version for asked, state in decided.items()} == {request: 1, LATEST: 1}


def test_a_wait_for_nothing_returns_at_once(scene: Scene) -> None:
    assert scene.monitor.wait_until_reached([]) == {}


def test_a_wait_ends_when_the_last_of_its_requests_is_decided(scene: Scene) -> None:
    other = ServableRequest.latest("n")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(scene.monitor.wait_until_reached, [LATEST, other])
        scene.clock.block_until_waiting()
        scene.publish(1, "AVAILABLE")
        assert not result.done()
        scene.publish(7, "END", UnknownError("no luck"), name="n")
        decided = result.result(30.0)
    assert decided[LATEST].state is ManagerState.AVAILABLE
    assert decided[other].state is ManagerState.END


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ([(1, "AVAILABLE"), (2, "LOADING")], (1, "AVAILABLE")),
        ([(2, "END"), (1, "AVAILABLE")], (2, "END")),
        ([(1, "END"), (2, "AVAILABLE")], (1, "END")),
        ([(2, "AVAILABLE"), (1, "END")], (2, "AVAILABLE")),
    ],
)
def test_the_first_version_to_end_or_reach_the_goal_decides_for_the_latest(
    scene: Scene, published: list[tuple[int, str]], expected: tuple[int, str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(scene.monitor.wait_until_reached, [LATEST])
        scene.clock.block_until_waiting()
        for version, state in published:
            scene.publish(version, state)
        assert shown(result.result(30.0).values()) == [expected]


def test_of_versions_that_are_decided_already_the_highest_counts(scene: Scene) -> None:
    scene.publish(1, "AVAILABLE")
    scene.publish(2, "END")
    assert shown(scene.monitor.wait_until_reached([LATEST]).values()) == [(2, "END")]


def test_a_wait_that_takes_too_long_names_what_is_missing(scene: Scene) -> None:
    scene.publish(1, "LOADING")
    scene.publish(1, "AVAILABLE", name="n")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(
            scene.monitor.wait_until_reached, [LATEST, ServableRequest.latest("n")], timeout_s=5.0
        )
        scene.clock.block_until_waiting()
        scene.clock.advance(5.0)
        with pytest.raises(
            DeadlineExceededError, match=r"^after 5.0 s not yet AVAILABLE or END: Latest\(m\)$"
        ):
            result.result(30.0)


def test_a_limit_that_would_keep_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_ended_versions: expected at least 1, got 0"):
        Scene(max_ended_versions=0)


def test_waiting_for_a_condition_looks_at_once_and_after_each_event(scene: Scene) -> None:
    looks: list[int] = []

    def is_so() -> bool:
        looks.append(len(scene.monitor.states("m")))
        return looks[-1] == 2

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scene.monitor.wait_until, is_so, 10.0)
        for version in (1, 2):
            scene.clock.block_until_waiting(1)
            scene.publish(version, "START")
        assert waiting.result(30.0) is True
    assert (looks[0], looks[-1]) == (0, 2)


def test_a_condition_that_is_not_met_in_time_is_not_so(scene: Scene) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scene.monitor.wait_until, lambda: False, 10.0)
        scene.clock.block_until_waiting(1)
        scene.clock.advance(10.0)
        assert waiting.result(30.0) is False


def test_a_condition_is_looked_at_as_often_as_asked_without_an_event(scene: Scene) -> None:
    met = iter([False, True])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scene.monitor.wait_until, lambda: next(met), 10.0, 0.5)
        scene.clock.block_until_waiting(1)
        scene.clock.advance(0.5)
        assert waiting.result(30.0) is True


def test_what_a_condition_raises_ends_the_wait(scene: Scene) -> None:
    def fail() -> bool:
        raise UnknownError("no more")

    with pytest.raises(UnknownError, match="no more"):
        scene.monitor.wait_until(fail)
