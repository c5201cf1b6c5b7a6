from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

import pytest

from inserve.errors import DeadlineExceededError, FailedPreconditionError
from inserve.testing.manual_clock import ManualClock
from inserve.tflite.interpreter_pool import InterpreterPool


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def start(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run *call* on a thread; the list gets what it returns or raises."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_each_item_has_one_user_at_a_time_and_the_last_one_back_goes_out_first(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a", "b"], clock)
    first, second = pool.take(), pool.take()
    assert {first, second} == {"a", "b"}
    pool.give_back(first)
    pool.give_back(second)
    assert pool.take() == second


def test_those_who_wait_get_their_turn_in_the_order_they_came(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a"], clock)
    pool.take()
    order: list[int] = []
    threads = []

    def wait_and_pass_on(number: int) -> None:
        pool.take()
        order.append(number)
        pool.give_back("a")

    for number in range(3):
        threads.append(start(partial(wait_and_pass_on, number)))
        clock.block_until_waiting(number + 1)
    pool.give_back("a")
    for thread, _ in threads:
        thread.join(10)
    assert order == [0, 1, 2]


def test_a_wait_ends_at_its_deadline_and_the_next_in_line_is_served(clock: ManualClock) -> None:
    pool = InterpreterPool("model m", ["a"], clock)
    pool.take()
    impatient, refused = start(lambda: pool.take(2.0))
    clock.block_until_waiting(1)
    patient, served = start(pool.take)
    clock.block_until_waiting(2)
    clock.advance(2.0)
    impatient.join(10)
    (error,) = refused
    assert isinstance(error, DeadlineExceededError)
    assert error.message == "none of the 1 interpreters of model m was free within 2.0 s"
    pool.give_back("a")
    patient.join(10)
    assert served == ["a"]


def test_no_time_to_wait_is_enough_for_what_is_free(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a"], clock)
    assert pool.take(0.0) == "a"
    with pytest.raises(DeadlineExceededError):
        pool.take(0.0)


def test_closing_waits_for_what_is_out_and_for_those_in_line(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a"], clock)
    pool.take()
    waiting, served = start(pool.take)
    clock.block_until_waiting(1)
    closing, closed = start(pool.close)
    pool.give_back("a")
    waiting.join(10)
    assert served == ["a"]
    assert closing.is_alive()
    pool.give_back("a")
    closing.join(10)
    assert closed == [None]


def test_a_closed_pool_gives_out_nothing_and_closes_again(clock: ManualClock) -> None:
    pool = InterpreterPool("model m", ["a"], clock)
    pool.close()
    pool.close()
    with pytest.raises(FailedPreconditionError, match="the session of model m is closed"):
        pool.take()


def test_closing_drops_the_items(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a", "b"], clock)
    pool.close()
    assert repr(pool) == "<InterpreterPool 'm' [closed, 0 of 2 idle, 0 waiting]>"


def test_a_wait_that_is_interrupted_leaves_the_line(clock: ManualClock) -> None:
    class Interrupted(ManualClock):
        def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
            raise KeyboardInterrupt

    pool = InterpreterPool("m", ["a"], Interrupted())
    pool.take()
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    pool.give_back("a")
    assert pool.take() == "a"


def test_a_wait_that_is_interrupted_when_its_turn_has_come_passes_it_on() -> None:
    class InterruptedLate(ManualClock):
        def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
            pool.give_back("a")
            raise KeyboardInterrupt

    pool = InterpreterPool("m", ["a"], InterruptedLate())
    pool.take()
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    assert pool.take() == "a"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused_though_the_parent_held_the_item(clock: ManualClock) -> None:
    pool = InterpreterPool("m", ["a"], clock)
    pool.take()
    child = os.fork()
    if not child:
        try:
            pool.take(0.0)
        except FailedPreconditionError as error:
            os._exit(0 if "forked" in error.message else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.give_back("a")
    assert pool.take() == "a"
