from __future__ import annotations

from collections.abc import Mapping

import pytest

from inserve.errors import DataLossError, InserveError, InternalError, InvalidArgumentError, NotFoundError
from inserve.handlers.model_status import ModelStatusHandler
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.protos import messages


class Scene:
    def __init__(self) -> None:
        self.bus: EventBus[ServableState] = EventBus()
        self.waiting: dict[str, Mapping[int, str]] = {}
        self.handler = ModelStatusHandler(
            ServableStateMonitor(self.bus), lambda name: self.waiting.get(name, {})
        )

    def publish(self, version: int, state: str, error: InserveError | None = None) -> None:
        self.bus.publish(ServableState(ServableId("m", version), ManagerState[state], 0.0, error))

    def ask(self, request: messages.GetModelStatusRequest) -> list[tuple[int, int, int, str]]:
        answer = self.handler.get_model_status_message(request.SerializeToString())
        response = messages.GetModelStatusResponse.FromString(answer)
        assert all(entry.HasField("status") for entry in response.model_version_status)
        return [
            (entry.version, entry.state, entry.status.error_code, entry.status.error_message)
            for entry in response.model_version_status
        ]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def request(name: str = "m", version: int | None = None, label: str = "") -> messages.GetModelStatusRequest:
    message = messages.GetModelStatusRequest()
    message.model_spec.name = name
    if version is not None:
        message.model_spec.version.value = version
    if label:
        message.model_spec.version_label = label
    return message


def test_every_version_ever_seen_is_listed_highest_first(scene: Scene) -> None:
    for version, state in [(2, "START"), (10, "LOADING"), (1, "AVAILABLE"), (3, "UNLOADING"), (-4, "END")]:
        scene.publish(version, state)
    assert scene.ask(request()) == [
        (10, 20, 0, ""),
        (3, 40, 0, ""),
        (2, 10, 0, ""),
        (1, 30, 0, ""),
        (-4, 50, 0, ""),
    ]


def test_one_version_is_shown_when_asked_for(scene: Scene) -> None:
    scene.publish(1, "AVAILABLE")
    scene.publish(2, "LOADING")
    assert scene.ask(request(version=1)) == [(1, 30, 0, "")]


def test_a_label_is_ignored(scene: Scene) -> None:
    scene.publish(1, "AVAILABLE")
    assert scene.ask(request(label="nope")) == [(1, 30, 0, "")]


def test_a_failed_version_shows_code_and_whole_text(scene: Scene) -> None:
    scene.publish(1, "END", DataLossError("x" * 5000))
    assert scene.ask(request()) == [(1, 50, 15, "x" * 5000)]


def test_a_version_that_is_not_complete_shows_what_it_waits_for(scene: Scene) -> None:
    scene.publish(1, "AVAILABLE")
    scene.publish(2, "END")
    scene.waiting["m"] = {2: "waiting for saved_model.pb", 3: "waiting for its files to stop changing"}
    assert scene.ask(request()) == [
        (3, 10, 0, "waiting for its files to stop changing"),
        (2, 10, 0, "waiting for saved_model.pb"),
        (1, 30, 0, ""),
    ]
    assert scene.ask(request(version=3)) == [(3, 10, 0, "waiting for its files to stop changing")]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request("n"), "Could not find any versions of model n"),
        (request(""), "Could not find any versions of model "),
        (request(version=7), "Could not find version 7 of model m"),
        (request(version=0), "Could not find version 0 of model m"),
    ],
)
def test_what_was_never_seen_is_not_found(
    scene: Scene, asked: messages.GetModelStatusRequest, text: str
) -> None:
    scene.publish(1, "AVAILABLE")
    with pytest.raises(NotFoundError) as caught:
        scene.ask(asked)
    assert str(caught.value) == text


def test_a_request_without_a_model_is_refused(scene: Scene) -> None:
    with pytest.raises(InvalidArgumentError, match="Missing ModelSpec"):
        scene.ask(messages.GetModelStatusRequest())


def test_garbage_is_an_internal_error_without_text(scene: Scene) -> None:
    with pytest.raises(InternalError) as caught:
        scene.handler.get_model_status_message(b"\xff")
    assert str(caught.value) == ""
