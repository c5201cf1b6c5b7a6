from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from inserve.resources.allocation import ResourceAllocation
from inserve.testing import FakeLoader, Gate


def test_a_loader_gives_its_servable_and_notes_the_calls() -> None:
    loader = FakeLoader("servable", estimate=ResourceAllocation.of_ram(5))
    assert loader.estimate_resources() == ResourceAllocation.of_ram(5)
    loader.load()
    assert loader.servable() == "servable"
    loader.unload()
    assert loader.calls == ["estimate_resources", "load", "unload"]
    assert loader.violations == []


def test_errors_are_raised_in_turn_and_then_no_more() -> None:
    loader = FakeLoader(load_errors=[OSError("first"), OSError("second")])
    for text in ("first", "second"):
        with pytest.raises(OSError, match=text):
            loader.load()
    loader.load()
    assert loader.is_loaded


def test_loading_twice_is_noticed() -> None:
    loader = FakeLoader()
    loader.load()
    loader.load()
    assert loader.violations == ["load while loaded"]


def test_unloading_what_is_not_loaded_is_noticed() -> None:
    loader = FakeLoader()
    loader.unload()
    assert loader.violations == ["unload while not loaded"]


def test_asking_for_the_servable_too_early_is_noticed() -> None:
    loader = FakeLoader()
    loader.servable()
    assert loader.violations == ["servable while not loaded"]


def test_calls_that_overlap_are_noticed() -> None:
    gate = Gate()
    loader = FakeLoader(load_gate=gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(loader.load)
        gate.block_until_entered()
        loader.estimate_resources()
        gate.open()
        first.result(30.0)
    assert loader.violations == ["estimate_resources during another call"]
