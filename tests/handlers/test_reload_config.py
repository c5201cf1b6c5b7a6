from __future__ import annotations

import pytest

from inserve.errors import InternalError, InvalidArgumentError, PermissionDeniedError, UnknownError
from inserve.handlers.placement import WouldBlock
from inserve.handlers.reload_config import ReloadConfigHandler
from inserve.protos import messages


class Scene:
    """A handler whose ``apply`` counts one load."""

    def __init__(self) -> None:
        self.applied: list[tuple[messages.ModelServerConfig, float | None]] = []
        self.counters = {"/loads": 3}
        self.error: Exception | None = None
        self.handler = ReloadConfigHandler(self.apply, lambda name: self.counters.get(name, 0))

    def apply(self, config: messages.ModelServerConfig, timeout_s: float | None) -> None:
        self.applied.append((config, timeout_s))
        self.counters["/loads"] += 1
        if self.error is not None:
            raise self.error

    def ask(
        self,
        message: messages.ReloadConfigRequest,
        timeout_s: float | None = None,
        may_block: bool = True,
        is_allowed: bool = True,
    ) -> messages.ReloadConfigResponse:
        answer = self.handler.reload_config_message(
            message.SerializeToString(), timeout_s, may_block, is_allowed
        )
        return messages.ReloadConfigResponse.FromString(answer)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def request(*metric_names: str) -> messages.ReloadConfigRequest:
    message = messages.ReloadConfigRequest(metric_names=metric_names)
    message.config.model_config_list.config.add(name="m", base_path="/m", model_platform="tensorflow")
    return message


def test_the_config_is_applied_within_the_callers_time(scene: Scene) -> None:
    response = scene.ask(request(), timeout_s=2.5)
    assert scene.applied == [(request().config, 2.5)]
    assert response.HasField("status")
    assert response.status.error_code == 0


def test_an_empty_list_is_a_config(scene: Scene) -> None:
    message = messages.ReloadConfigRequest()
    message.config.model_config_list.SetInParent()
    scene.ask(message)
    assert len(scene.applied) == 1


def test_the_answer_has_the_growth_of_each_metric_asked_for_once(scene: Scene) -> None:
    response = scene.ask(request("/loads", "/nope", "/loads"))
    assert [(metric.name, metric.int64_value_increase) for metric in response.metric] == [
        ("/loads", 1),
        ("/nope", 0),
    ]
    assert all(metric.HasField("int64_value_increase") for metric in response.metric)


def custom() -> messages.ReloadConfigRequest:
    message = messages.ReloadConfigRequest()
    message.config.custom_model_config.SetInParent()
    return message


@pytest.mark.parametrize("message", [messages.ReloadConfigRequest(), custom()], ids=["none", "custom"])
def test_anything_but_a_list_is_refused(scene: Scene, message: messages.ReloadConfigRequest) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        scene.ask(message)
    assert str(caught.value) == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )
    assert scene.applied == []


def test_who_is_not_allowed_learns_which_option_would(scene: Scene) -> None:
    with pytest.raises(PermissionDeniedError, match=r"allow_remote_reload=True .*--allow_remote_reload"):
        scene.ask(request(), is_allowed=False)
    assert scene.applied == []


def test_a_thread_that_must_stay_free_does_not_apply(scene: Scene) -> None:
    with pytest.raises(WouldBlock):
        scene.ask(request(), may_block=False)
    assert scene.applied == []


def test_what_applying_raises_reaches_the_caller(scene: Scene) -> None:
    scene.error = UnknownError("1 model(s) did not become available")
    with pytest.raises(UnknownError, match=r"1 model\(s\)"):
        scene.ask(request())


def test_garbage_is_an_internal_error_without_text(scene: Scene) -> None:
    with pytest.raises(InternalError) as caught:
        scene.handler.reload_config_message(b"\xff", None, True, True)
    assert str(caught.value) == ""
