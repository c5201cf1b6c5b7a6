from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import pytest

from inserve.errors import (
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from inserve.server.workers.peer import Peer

LIMIT_S = 30.0


class Pair:
    """Two peers over a pipe; *there* has the operations and notices."""

    def __init__(self) -> None:
        here, there = Pipe()
        self.told: list[Any] = []
        self.all_told = threading.Event()
        self.go_on = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.here_ended = threading.Event()
        self.there_ended = threading.Event()
        self.there = Peer(
            there,
            "here",
            {
                "add": lambda a, b: a + b,
                "lock": threading.Lock,
                "miss": self._miss,
                "break": self._break,
                "wait": self._wait,
            },
            {"note": self.told.append, "end": self.all_told.set, "bad": self._break},
            self.there_ended.set,
        )
        self.here = Peer(here, "there", {}, {}, self.here_ended.set)
        self.there.start()
        self.here.start()

    def _miss(self) -> None:
        raise NotFoundError("no such thing")

    def _break(self) -> None:
        raise LookupError("a defect")

    def _wait(self) -> None:
        self.waiting.release()
        self.go_on.wait(LIMIT_S)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.go_on.set()
    pair.here.close()
    pair.there.close()


def test_a_question_is_answered(pair: Pair) -> None:
    assert pair.here.ask("add", 2, 3, timeout_s=LIMIT_S) == 5


def test_an_error_of_the_library_is_raised_at_the_side_that_asked(pair: Pair) -> None:
    with pytest.raises(NotFoundError, match="no such thing"):
        pair.here.ask("miss", timeout_s=LIMIT_S)


def test_any_other_error_is_internal_and_the_pipe_lives_on(pair: Pair) -> None:
    with pytest.raises(InternalError, match="LookupError: a defect"):
        pair.here.ask("break", timeout_s=LIMIT_S)
    assert pair.here.ask("add", 1, 1, timeout_s=LIMIT_S) == 2


def test_what_cannot_be_pickled_is_an_internal_error_of_the_side_that_asks(pair: Pair) -> None:
    with pytest.raises(InternalError, match=r"'add' cannot be sent to there: .*lock"):
        pair.here.ask("add", threading.Lock(), 1, timeout_s=LIMIT_S)
    with pytest.raises(InternalError, match=r"cannot be sent to here: .*lock"):
        pair.here.ask("lock", timeout_s=LIMIT_S)
    assert pair.here.ask("add", 1, 1, timeout_s=LIMIT_S) == 2


def test_a_side_that_sends_what_cannot_be_read_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    here, there = Pipe()
    ended = threading.Event()
    peer = Peer(here, "there", {}, {}, ended.set)
    peer.start()
    there.send_bytes(b"no pickle")
    assert ended.wait(LIMIT_S)
    with pytest.raises(UnavailableError, match="there is gone"):
        peer.ask("add", 1, 1, timeout_s=LIMIT_S)
    assert "What there has sent cannot be read" in caplog.text
    there.close()


def test_an_unknown_question_is_internal(pair: Pair) -> None:
    with pytest.raises(InternalError, match="KeyError"):
        pair.here.ask("unknown", timeout_s=LIMIT_S)


def test_notices_arrive_in_order_and_a_bad_one_stops_nothing(pair: Pair) -> None:
    for number in range(100):
        pair.here.tell("note", number)
    pair.here.tell("bad")
    pair.here.tell("end")
    assert pair.all_told.wait(LIMIT_S)
    assert pair.told == list(range(100))


def test_a_question_that_takes_too_long_is_given_up_and_does_not_hold_up_others(pair: Pair) -> None:
    with pytest.raises(DeadlineExceededError, match=r"there has not answered within 0\.01 s"):
        pair.here.ask("wait", timeout_s=0.01)
    assert pair.here.ask("add", 1, 1, timeout_s=LIMIT_S) == 2


def test_questions_that_wait_end_when_the_other_side_is_gone(pair: Pair) -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            pair.here.ask("wait", timeout_s=LIMIT_S)
        except UnavailableError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert pair.waiting.acquire(timeout=LIMIT_S)
    pair.there.close()
    asking.join(LIMIT_S)
    assert [str(error) for error in errors] == ["there is gone"]
    assert pair.here_ended.wait(LIMIT_S)
    assert pair.there_ended.is_set()
    with pytest.raises(UnavailableError, match="there is gone"):
        pair.here.ask("add", 1, 1, timeout_s=LIMIT_S)


def test_more_questions_than_places_are_refused(pair: Pair) -> None:
    threads = [threading.Thread(target=pair.here.ask, args=("wait",)) for _ in range(64)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert pair.waiting.acquire(timeout=LIMIT_S)
    with pytest.raises(ResourceExhaustedError, match="64 questions"):
        pair.here.ask("add", 1, 1, timeout_s=LIMIT_S)
    pair.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert pair.here.ask("add", 1, 1, timeout_s=LIMIT_S) == 2
