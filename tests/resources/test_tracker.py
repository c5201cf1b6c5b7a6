from __future__ import annotations

import pytest

from inserve.errors import ResourceExhaustedError
from inserve.resources.allocation import ResourceAllocation
from inserve.resources.memory_limit import memory_limit_bytes
from inserve.resources.tracker import ResourceTracker


def test_reservations_are_added_up() -> None:
    tracker = ResourceTracker({"main": 10})
    tracker.reserve("a", ResourceAllocation.of_ram(4))
    tracker.reserve("b", ResourceAllocation.of_ram(6))
    assert tracker.used == ResourceAllocation.of_ram(10)


def test_a_refusal_names_what_is_needed_available_and_budgeted() -> None:
    tracker = ResourceTracker({"main": 10})
    tracker.reserve("a", ResourceAllocation.of_ram(4))
    with pytest.raises(
        ResourceExhaustedError,
        match=r"^7 bytes needed on device main, 6 available of a budget of 10$",
    ):
        tracker.reserve("b", ResourceAllocation.of_ram(7))


def test_a_refused_reservation_books_nothing() -> None:
    tracker = ResourceTracker({"main": 10, "gpu:0": 1})
    with pytest.raises(ResourceExhaustedError):
        tracker.reserve("a", ResourceAllocation({"main": 1, "gpu:0": 2}))
    assert tracker.used == ResourceAllocation()
    assert tracker.reservations == {}


def test_a_refusal_names_every_device_that_is_short() -> None:
    tracker = ResourceTracker({"main": 1, "gpu:0": 1})
    with pytest.raises(ResourceExhaustedError, match=r"device gpu:0.*; .*device main"):
        tracker.reserve("a", ResourceAllocation({"main": 2, "gpu:0": 2}))


def test_what_was_released_can_be_reserved_again() -> None:
    tracker = ResourceTracker({"main": 10})
    tracker.reserve("a", ResourceAllocation.of_ram(10))
    tracker.release("a")
    tracker.reserve("b", ResourceAllocation.of_ram(10))
    assert tracker.reservations == {"b": ResourceAllocation.of_ram(10)}


def test_what_is_booked_anew_replaces_what_was_held_also_beyond_the_budget() -> None:
    tracker = ResourceTracker({"main": 10})
    tracker.reserve("a", ResourceAllocation.of_ram(6))
    tracker.book_anew("a", ResourceAllocation.of_ram(12))
    assert tracker.used == ResourceAllocation.of_ram(12)
    with pytest.raises(ResourceExhaustedError):
        tracker.reserve("b", ResourceAllocation.of_ram(1))
    tracker.release("a")
    assert tracker.used == ResourceAllocation()


def test_only_an_owner_with_a_reservation_is_booked_anew() -> None:
    with pytest.raises(ValueError, match="expected an owner with a reservation, a has none"):
        ResourceTracker({}).book_anew("a", ResourceAllocation.of_ram(1))


def test_releasing_nothing_changes_nothing() -> None:
    tracker = ResourceTracker({"main": 10})
    tracker.release("a")
    assert tracker.used == ResourceAllocation()


def test_an_owner_has_one_reservation() -> None:
    tracker = ResourceTracker({})
    tracker.reserve("a", ResourceAllocation())
    with pytest.raises(ValueError, match="a has one"):
        tracker.reserve("a", ResourceAllocation())


def test_without_a_budget_ram_is_limited_to_what_the_process_may_use() -> None:
    assert ResourceTracker().budget == {"main": memory_limit_bytes()}
