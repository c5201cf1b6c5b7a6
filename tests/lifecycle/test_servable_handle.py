from __future__ import annotations

import gc
from queue import SimpleQueue
from typing import Any

import pytest

from inserve.errors import FailedPreconditionError
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId

M1 = ServableId("m", 1)


@pytest.fixture
def returned() -> SimpleQueue[ServableId | None]:
    return SimpleQueue()


def test_a_handle_gives_the_servable_and_its_id(returned: SimpleQueue[ServableId | None]) -> None:
    handle: ServableHandle[str] = ServableHandle(Lease(M1, "servable", returned))
    assert handle.servable == "servable"
    assert handle.id == M1


def test_the_lease_is_returned_when_the_last_of_owner_and_handles_is_gone(
    returned: SimpleQueue[ServableId | None],
) -> None:
    lease = Lease(M1, "servable", returned)
    first: ServableHandle[str] = ServableHandle(lease)
    second: ServableHandle[str] = ServableHandle(lease)
    del lease
    first.release()
    assert returned.empty()
    second.release()
    assert returned.get_nowait() == M1
    assert returned.empty()


def test_a_handle_is_released_at_the_end_of_with(returned: SimpleQueue[ServableId | None]) -> None:
    with ServableHandle[str](Lease(M1, "servable", returned)) as handle:
        assert handle.servable == "servable"
        assert returned.empty()
    assert returned.get_nowait() == M1


def test_a_handle_that_is_dropped_is_released(returned: SimpleQueue[ServableId | None]) -> None:
    handle: ServableHandle[str] = ServableHandle(Lease(M1, "servable", returned))
    del handle
    assert returned.get_nowait() == M1


def test_a_released_handle_is_not_kept_by_the_traceback_that_holds_it(
    returned: SimpleQueue[ServableId | None],
) -> None:
    def request() -> None:
        handle: ServableHandle[str] = ServableHandle(Lease(M1, "servable", returned))
        try:
            raise RuntimeError(handle.servable)
        finally:
            handle.release()

    with pytest.raises(RuntimeError) as caught:
        request()
    assert caught.value.__traceback__ is not None
    assert returned.get_nowait() == M1


def test_a_servable_is_not_to_be_had_after_the_release(returned: SimpleQueue[ServableId | None]) -> None:
    handle: ServableHandle[Any] = ServableHandle(Lease(M1, "servable", returned))
    handle.release()
    handle.release()
    with pytest.raises(FailedPreconditionError, match="handle was released"):
        _ = handle.servable
    assert handle.id == M1


def test_the_repr_says_whether_a_handle_was_released(returned: SimpleQueue[ServableId | None]) -> None:
    handle: ServableHandle[str] = ServableHandle(Lease(M1, "servable", returned))
    assert repr(handle) == "<ServableHandle {name: m version: 1}>"
    handle.release()
    assert repr(handle) == "<ServableHandle {name: m version: 1} released>"


def test_a_lease_in_a_reference_cycle_is_returned_by_the_garbage_collector(
    returned: SimpleQueue[ServableId | None],
) -> None:
    cycle: list[Any] = [ServableHandle(Lease(M1, "servable", returned))]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert returned.get_nowait() == M1
