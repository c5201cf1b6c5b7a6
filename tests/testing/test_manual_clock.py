from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inserve.testing import ManualClock


def test_time_passes_only_when_told() -> None:
    clock = ManualClock(10.0)
    assert clock.now() == 10.0
    clock.advance(2.5)
    assert clock.now() == 12.5


def test_a_wait_for_an_event_that_is_set_ends_at_once() -> None:
    event = threading.Event()
    event.set()
    assert ManualClock().wait(event, 5.0) is True


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_wait_without_time_ends_at_once(timeout_s: float) -> None:
    assert ManualClock().wait(threading.Event(), timeout_s) is False


def test_a_wait_ends_when_its_time_has_passed_and_not_before() -> None:
    clock = ManualClock()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(clock.wait, threading.Event(), 5.0)
        clock.block_until_waiting()
        clock.advance(4.0)
        assert not result.done()
        clock.advance(1.0)
        assert result.result(30.0) is False


def test_a_wait_ends_when_its_event_is_set() -> None:
    clock, event = ManualClock(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(clock.wait, event, None)
        clock.block_until_waiting()
        clock.advance(1e9)
        event.set()
        assert result.result(30.0) is True


def test_advance_returns_after_the_waits_it_ended() -> None:
    clock = ManualClock()
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(clock.wait, threading.Event(), timeout_s) for timeout_s in (1.0, 2.0)]
        clock.block_until_waiting(2)
        clock.advance(2.0)
        assert repr(clock) == "<ManualClock 2.0 s, waiting: 0>"
        assert [result.result(30.0) for result in results] == [False, False]


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="got -1"):
        ManualClock().advance(-1)
