from __future__ import annotations

import pytest

from inserve.lifecycle.event_bus import EventBus


def test_every_subscriber_gets_every_event_in_order() -> None:
    bus, seen = EventBus[int](), list[tuple[str, int]]()
    bus.subscribe(lambda event: seen.append(("a", event)))
    bus.subscribe(lambda event: seen.append(("b", event)))
    bus.publish(1)
    bus.publish(2)
    assert seen == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_who_unsubscribed_gets_nothing_more() -> None:
    bus, seen = EventBus[int](), list[int]()
    unsubscribe = bus.subscribe(seen.append)
    bus.publish(1)
    unsubscribe()
    unsubscribe()
    bus.publish(2)
    assert seen == [1]


def test_one_function_may_be_subscribed_twice_and_once_taken_back() -> None:
    bus, seen = EventBus[int](), list[int]()
    unsubscribe = bus.subscribe(seen.append)
    bus.subscribe(seen.append)
    unsubscribe()
    bus.publish(1)
    assert seen == [1]


def test_a_subscriber_that_fails_is_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, seen = EventBus[int](), list[int]()

    def fail(event: int) -> None:
        raise RuntimeError("defect")

    bus.subscribe(fail)
    bus.subscribe(seen.append)
    bus.publish(1)
    assert seen == [1]
    assert "A subscriber failed on 1" in caplog.text
