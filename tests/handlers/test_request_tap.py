from __future__ import annotations

import logging

import pytest

from inserve.handlers.request_tap import LogType, RequestTap, ServedRequest
from inserve.lifecycle.servable_id import ServableId
from inserve.protos import messages


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[LogType, str, bytes, bytes]] = []

    def hear(self, served: ServedRequest) -> None:
        self.heard.append((served.log_type, served.id.name, served.request(), served.response()))


class Failing:
    def hear(self, served: ServedRequest) -> None:
        raise RuntimeError(served.id.name)


def tell(tap: RequestTap) -> None:
    tap.tell(LogType.PREDICT, ServableId("m", 1), lambda: b"request", lambda: b"response")


def test_every_listener_hears_of_a_request() -> None:
    tap, listeners = RequestTap(), [Listener(), Listener()]
    for listener in listeners:
        tap.add(listener)
    tell(tap)
    heard = [(LogType.PREDICT, "m", b"request", b"response")]
    assert [listener.heard for listener in listeners] == [heard, heard]


def test_a_removed_listener_hears_no_more() -> None:
    tap, listener = RequestTap(), Listener()
    tap.add(listener)
    tap.remove(listener)
    tap.remove(listener)
    assert tap.listeners == ()


def test_a_listener_that_fails_is_logged_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    tap, listener = RequestTap(), Listener()
    tap.add(Failing())
    tap.add(listener)
    with caplog.at_level(logging.ERROR, "inserve.request_tap"):
        tell(tap)
    assert len(listener.heard) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("log_type", list(LogType))
def test_log_types_have_the_numbers_of_the_message(log_type: LogType) -> None:
    fields = messages.PredictionLog.DESCRIPTOR.fields_by_number
    assert fields[int(log_type)].name == f"{log_type.name.lower()}_log"
