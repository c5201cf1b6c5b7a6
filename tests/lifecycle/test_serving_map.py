from __future__ import annotations

from queue import SimpleQueue

import pytest

from inserve.errors import NotFoundError
from inserve.lifecycle.manager import Manager
from inserve.lifecycle.servable_handle import Lease
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.serving_map import ServingMap


def serving(*ids: tuple[str, int]) -> tuple[ServingMap, SimpleQueue[ServableId | None]]:
    serving_map, returned = ServingMap(), SimpleQueue[ServableId | None]()
    for name, version in ids:
        serving_map.publish(Lease(ServableId(name, version), f"{name}{version}", returned))
    return serving_map, returned


def test_a_version_is_found_by_its_number() -> None:
    manager: Manager = serving(("m", 1), ("m", 2))[0]
    assert manager.servable_handle(ServableRequest.specific("m", 1)).servable == "m1"


def test_the_latest_is_the_highest_number_whatever_was_published_last() -> None:
    manager: Manager = serving(("m", 10), ("m", 9), ("n", 11))[0]
    assert manager.servable_handle(ServableRequest.latest("m")).id == ("m", 10)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ServableRequest.specific("m", 3), "Servable not found for request: Specific(m, 3)"),
        (ServableRequest.latest("x"), "Servable not found for request: Latest(x)"),
        (ServableRequest.specific("x", 0), "Servable not found for request: Specific(x, 0)"),
    ],
)
def test_what_is_not_available_is_not_found(request_: ServableRequest, text: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        serving(("m", 1))[0].servable_handle(request_)
    assert str(caught.value) == text


def test_a_lookup_of_what_is_not_available_gives_none() -> None:
    serving_map, _ = serving(("m", 1))
    assert serving_map.lookup("m", 2) is None
    assert serving_map.lookup("x", 1) is None
    assert serving_map.lookup_latest("x") is None


def test_a_version_that_was_withdrawn_is_not_found_and_its_lease_is_returned() -> None:
    serving_map, returned = serving(("m", 1), ("m", 2))
    serving_map.withdraw(ServableId("m", 2))
    assert serving_map.lookup("m", 2) is None
    assert serving_map.available_versions("m") == [1]
    assert returned.get_nowait() == ("m", 2)


def test_a_lease_is_returned_after_the_last_handle_to_a_withdrawn_version() -> None:
    serving_map, returned = serving(("m", 1))
    handle = serving_map.lookup_latest("m")
    assert handle is not None
    serving_map.withdraw(ServableId("m", 1))
    assert returned.empty()
    assert handle.servable == "m1"
    handle.release()
    assert returned.get_nowait() == ("m", 1)


def test_a_handle_to_one_version_does_not_hold_another() -> None:
    serving_map, returned = serving(("m", 1), ("m", 2), ("n", 1))
    handles = [serving_map.lookup("m", 1), serving_map.lookup("n", 1)]
    serving_map.withdraw(ServableId("m", 2))
    assert returned.get_nowait() == ("m", 2)
    assert all(handles)


def test_available_servables_are_listed_by_name_then_highest_version_first() -> None:
    serving_map, _ = serving(("n", 1), ("m", 1), ("m", 3), ("m", 2))
    assert serving_map.available_servables() == [("m", 3), ("m", 2), ("m", 1), ("n", 1)]
    assert serving_map.available_versions("m") == [3, 2, 1]
    assert serving_map.available_versions("x") == []
