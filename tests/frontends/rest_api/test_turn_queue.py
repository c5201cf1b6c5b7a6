"""Receivers and a loop that note what happens in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from inserve.frontends.rest_api.response import Response, json_response
from inserve.frontends.rest_api.turn_queue import Answer, TurnQueue
from inserve.testing import ManualClock


class Loop:
    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.calls.append(call)

    def turn(self) -> int:
        """Run what is to be called in this turn; return how much that was."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return len(calls)


class Scene:
    """*events* has what was read, begun and taken."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.events: list[Any] = []
        self.seconds_per_request = 0.0
        self.clock = ManualClock()
        self.merges: Callable[[bytes], bool] = lambda _: False
        """Which requests are answered together, if two at least are."""
        self.queue = TurnQueue(cast(Any, self.loop), self.begin, self.begin_together, self.clock.now)

    def begin_together(self, requests: Sequence[tuple[Any, bytes]]) -> list[Answer | None]:
        merged = [body for _, body in requests if self.merges(body)]
        if len(merged) < 2:
            return [None] * len(requests)
        self.events.append([body[:4] for body in merged])
        self.clock.advance(self.seconds_per_request)
        return [json_response(body) if body in merged else None for _, body in requests]

    def begin(self, route: Any, body: bytes) -> Answer:
        del route
        self.events.append(b"begin " + body[:4])
        self.clock.advance(self.seconds_per_request)
        return json_response(body)


class Receiver:
    """Submits what it reads as a request; fails where it reads ``fail``."""

    def __init__(self, scene: Scene, fails_to_take: bool = False) -> None:
        self._scene = scene
        self._fails_to_take = fails_to_take
        self.is_aborted = False

    def read(self, data: bytes) -> None:
        if data == b"fail":
            raise ZeroDivisionError
        self._scene.events.append(b"read " + data[:4])
        self._scene.queue.submit(self, cast(Any, None), data)

    def take(self, answer: Answer) -> None:
        if self._fails_to_take:
            raise ZeroDivisionError
        assert isinstance(answer, Response)
        self._scene.events.append(b"take " + answer.body[:4])

    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_arrives_in_one_turn_is_read_then_answered_then_sent(scene: Scene) -> None:
    for name in (b"a", b"b", b"c"):
        scene.queue.arrived(Receiver(scene), name)
    assert scene.events == []
    assert scene.loop.turn() == 1
    assert scene.events == [
        *(b"read a", b"read b", b"read c"),
        *(b"begin a", b"begin b", b"begin c"),
        *(b"take a", b"take b", b"take c"),
    ]
    assert scene.loop.turn() == 0


def test_pieces_for_one_receiver_are_read_in_their_order(scene: Scene) -> None:
    receiver = Receiver(scene)
    scene.queue.arrived(receiver, b"1")
    scene.queue.arrived(receiver, b"2")
    scene.loop.turn()
    assert scene.events[:2] == [b"read 1", b"read 2"]


def test_no_answer_waits_for_many_requests(scene: Scene) -> None:
    for _ in range(40):
        scene.queue.arrived(Receiver(scene), b"x")
    sent = []
    while scene.loop.turn():
        sent.append(scene.events.count(b"take x"))
    assert sent == [16, 32, 40]


def test_no_answer_waits_for_long_requests(scene: Scene) -> None:
    scene.seconds_per_request = 1.2e-3
    for name in (b"a", b"b", b"c"):
        scene.queue.arrived(Receiver(scene), name)
    scene.loop.turn()
    assert scene.events[3:] == [b"begin a", b"begin b", b"take a", b"take b"]
    scene.loop.turn()
    assert scene.events[7:] == [b"begin c", b"take c"]


def test_the_only_receiver_is_answered_at_once(scene: Scene) -> None:
    scene.queue.arrived(Receiver(scene), b"a", is_only=True)
    assert scene.events == [b"read a", b"begin a", b"take a"]
    assert scene.loop.turn() == 0


def test_the_loop_stays_awake_for_a_moment_for_a_lone_client_that_asks_again_at_once(scene: Scene) -> None:
    receiver = Receiver(scene)
    scene.queue.arrived(receiver, b"a", is_only=True)
    scene.clock.advance(1.0)
    scene.queue.arrived(receiver, b"b", is_only=True)
    assert scene.loop.turn() == 0
    scene.clock.advance(100e-6)
    scene.queue.arrived(receiver, b"c", is_only=True)
    scene.clock.advance(15e-6)
    assert scene.loop.turn() == 1
    scene.clock.advance(15e-6)
    assert scene.loop.turn() == 1
    assert scene.loop.turn() == 0


def test_a_large_piece_is_read_at_once_but_after_what_came_before(scene: Scene) -> None:
    scene.queue.arrived(Receiver(scene), b"a")
    scene.queue.arrived(Receiver(scene), bytes(100_000))
    assert scene.events[:2] == [b"read a", b"read " + bytes(4)]


def test_draining_leaves_nothing_for_the_next_turn(scene: Scene) -> None:
    for _ in range(20):
        scene.queue.arrived(Receiver(scene), b"x")
    scene.queue.drain()
    assert scene.events.count(b"take x") == 20
    scene.events.clear()
    scene.loop.turn()
    assert scene.events == []


def test_a_request_that_is_submitted_outside_a_turn_gets_one(scene: Scene) -> None:
    scene.queue.submit(Receiver(scene), cast(Any, None), b"a")
    scene.loop.turn()
    assert scene.events == [b"begin a", b"take a"]


def test_turns_go_on_after_a_drain(scene: Scene) -> None:
    scene.queue.arrived(Receiver(scene), b"a")
    scene.queue.drain()
    scene.loop.turn()
    scene.queue.arrived(Receiver(scene), b"b")
    scene.loop.turn()
    assert scene.events[-1] == b"take b"


@pytest.mark.parametrize("fails_to_take", [False, True])
def test_a_receiver_that_fails_is_aborted_and_the_others_go_on(scene: Scene, fails_to_take: bool) -> None:
    bad, good = Receiver(scene, fails_to_take), Receiver(scene)
    scene.queue.arrived(bad, b"x" if fails_to_take else b"fail")
    scene.queue.arrived(good, b"good")
    scene.loop.turn()
    assert scene.events[-1] == b"take good"
    assert bad.is_aborted
    assert not good.is_aborted


# --- requests that are answered together ----------------------------------------------------------


def test_requests_of_one_turn_are_offered_together_and_the_others_answered_alone(scene: Scene) -> None:
    scene.merges = lambda body: body != b"b"
    for name in (b"a", b"b", b"c"):
        scene.queue.arrived(Receiver(scene), name)
    scene.loop.turn()
    assert scene.events[3:] == [[b"a", b"c"], b"begin b", b"take a", b"take b", b"take c"]


def test_a_single_request_is_not_offered(scene: Scene) -> None:
    scene.merges = lambda _: True
    scene.queue.arrived(Receiver(scene), b"a")
    scene.loop.turn()
    assert scene.events == [b"read a", b"begin a", b"take a"]


def test_what_was_answered_together_is_sent_though_it_took_long_and_the_others_have_another_turn(
    scene: Scene,
) -> None:
    scene.merges = lambda body: body != b"b"
    scene.seconds_per_request = 1.0
    for name in (b"a", b"b", b"c"):
        scene.queue.arrived(Receiver(scene), name)
    scene.loop.turn()
    assert scene.events[3:] == [[b"a", b"c"], b"take a", b"take c"]
    scene.loop.turn()
    assert scene.events[6:] == [b"begin b", b"take b"]


def answered_together(scene: Scene, count: int = 2) -> list[Receiver]:
    """Have so many receivers answered together, and forget what happened."""
    scene.merges = lambda _: True
    receivers = [Receiver(scene) for _ in range(count)]
    for receiver in receivers:
        scene.queue.arrived(receiver, b"old")
    scene.loop.turn()
    scene.events.clear()
    return receivers


def test_a_turn_waits_until_those_are_back_that_were_answered_together(scene: Scene) -> None:
    first, second = answered_together(scene)
    scene.queue.arrived(first, b"a")
    scene.loop.turn()
    assert scene.events == []
    scene.queue.arrived(second, b"b")
    scene.loop.turn()
    assert scene.events == [b"read a", b"read b", [b"a", b"b"], b"take a", b"take b"]


def test_a_turn_waits_for_nobody_else(scene: Scene) -> None:
    first, second = answered_together(scene)
    scene.queue.arrived(second, b"a")
    scene.queue.arrived(first, b"b")
    scene.queue.arrived(Receiver(scene), b"c")
    scene.loop.turn()
    assert scene.events[3] == [b"a", b"b", b"c"]


def test_who_does_not_come_back_is_waited_for_a_few_times_and_once(scene: Scene) -> None:
    first, _ = answered_together(scene)
    scene.queue.arrived(first, b"a")
    for _ in range(3):
        scene.loop.turn()
        assert scene.events == []
    scene.loop.turn()
    assert scene.events == [b"read a", b"begin a", b"take a"]
    scene.queue.arrived(first, b"b")
    scene.loop.turn()
    assert scene.events[3:] == [b"read b", b"begin b", b"take b"]


def test_a_turn_long_after_waits_for_nobody(scene: Scene) -> None:
    first, _ = answered_together(scene)
    scene.clock.advance(0.001)
    scene.queue.arrived(first, b"a")
    scene.loop.turn()
    assert scene.events == [b"read a", b"begin a", b"take a"]


def test_requests_that_were_answered_one_by_one_are_not_waited_for(scene: Scene) -> None:
    receivers = [Receiver(scene) for _ in range(2)]
    for receiver in receivers:
        scene.queue.arrived(receiver, b"old")
    scene.loop.turn()
    scene.queue.arrived(receivers[0], b"a")
    scene.loop.turn()
    assert scene.events[-1] == b"take a"
