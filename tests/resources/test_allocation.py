from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inserve.resources.allocation import ResourceAllocation

allocations = st.dictionaries(st.sampled_from(["main", "gpu:0", "gpu:1"]), st.integers(0, 2**64)).map(
    ResourceAllocation
)


def test_a_device_that_is_not_named_has_no_bytes() -> None:
    allocation = ResourceAllocation({"gpu:0": 5})
    assert allocation.bytes_on("gpu:0") == 5
    assert allocation.bytes_on("main") == 0


def test_zero_bytes_are_the_same_as_none() -> None:
    assert ResourceAllocation({"main": 0}) == ResourceAllocation()
    assert hash(ResourceAllocation({"main": 0})) == hash(ResourceAllocation())


def test_a_negative_amount_is_refused_with_device_and_figure() -> None:
    with pytest.raises(ValueError, match="device gpu:0, got -1"):
        ResourceAllocation({"gpu:0": -1})


def test_sums_are_taken_per_device() -> None:
    total = ResourceAllocation({"main": 1, "gpu:0": 2}) + ResourceAllocation({"main": 10})
    assert total == ResourceAllocation({"main": 11, "gpu:0": 2})


def test_more_than_there_is_cannot_be_subtracted() -> None:
    with pytest.raises(ValueError, match="device main, got -1"):
        ResourceAllocation.of_ram(1) - ResourceAllocation.of_ram(2)


@given(allocations, allocations)
def test_subtracting_undoes_adding(a: ResourceAllocation, b: ResourceAllocation) -> None:
    assert (a + b) - b == a


def test_exactly_the_limit_fits_and_one_byte_more_does_not() -> None:
    assert ResourceAllocation.of_ram(10).fits({"main": 10})
    assert not ResourceAllocation.of_ram(11).fits({"main": 10})


def test_a_device_without_a_limit_is_not_limited() -> None:
    assert ResourceAllocation({"gpu:0": 10**15}).fits({"main": 1})


def test_a_limit_of_zero_admits_nothing() -> None:
    assert ResourceAllocation({"gpu:0": 1, "main": 1}).exceeded_devices({"gpu:0": 0}) == ("gpu:0",)


def test_the_amounts_given_may_be_changed_afterwards() -> None:
    amounts = {"main": 1}
    allocation = ResourceAllocation(amounts)
    amounts["main"] = 2
    assert allocation.bytes_on("main") == 1


def test_an_allocation_equals_nothing_of_another_type() -> None:
    assert ResourceAllocation() != {}
