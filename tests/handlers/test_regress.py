from __future__ import annotations

from typing import Any

import pytest

from inserve.errors import InternalError, InvalidArgumentError, NotFoundError, UnknownError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.regress import RegressHandler
from inserve.lifecycle.servable_id import ServableId
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages

SPEC = ModelSpec("m", None, None, "regress")
EXAMPLES = [b"", messages.Example().SerializeToString()]


def request(spec: messages.ModelSpec | None) -> bytes:
    message = messages.RegressionRequest(model_spec=spec)
    for _ in EXAMPLES:
        message.input.example_list.examples.add()
    return message.SerializeToString()


@pytest.fixture
def handler(one_model: Any) -> RegressHandler:
    return RegressHandler(one_model, tap=one_model.tap)


def test_values_go_in_and_come_out(handler: RegressHandler) -> None:
    assert handler.regress(SPEC, EXAMPLES).tolist() == [1.5, -2.0]


def test_the_message_form_says_which_version_and_signature_answered(handler: RegressHandler) -> None:
    spec = messages.ModelSpec(name="m", signature_name="regress")
    response = messages.RegressionResponse.FromString(handler.regress_message(request(spec), None, True))
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "regress"
    assert [one.value for one in response.result.regressions] == [1.5, -2.0]


def test_a_listener_hears_of_values_as_a_client_would_have_sent_them(
    handler: RegressHandler, one_model: Any
) -> None:
    one_model.listen()
    handler.regress(ModelSpec("m", 7, None, "regress"), EXAMPLES)
    ((servable_id, sent, answer),) = one_model.heard
    spec = messages.ModelSpec(name="m", signature_name="regress")
    spec.version.value = 7
    assert servable_id == ServableId("m", 7)
    assert sent == request(spec)
    assert answer == handler.regress_message(request(spec), None, True)


def test_a_listener_hears_of_the_message_itself(handler: RegressHandler, one_model: Any) -> None:
    one_model.listen()
    sent = request(messages.ModelSpec(name="m", signature_name="regress"))
    answer = handler.regress_message(sent, None, True)
    assert one_model.heard == [(ServableId("m", 7), sent, answer)]


def test_a_listener_hears_nothing_of_an_error(handler: RegressHandler, one_model: Any) -> None:
    one_model.listen()
    with pytest.raises(InvalidArgumentError):
        handler.regress(SPEC, [])
    assert one_model.heard == []


def test_a_record_learns_who_answered_and_what_the_run_took(handler: RegressHandler) -> None:
    record = RequestRecord()
    handler.regress(SPEC, EXAMPLES, record=record)
    assert (record.model_name, record.version, record.signature_name) == ("m", 7, "regress")
    assert record.run_s is not None
    assert record.run_s >= 0.0


@pytest.mark.parametrize(
    ("spec", "error", "known"),
    [
        (None, InvalidArgumentError, ("", None, "")),
        (messages.ModelSpec(name="x"), NotFoundError, ("x", None, "")),
        (messages.ModelSpec(name="m", signature_name="x"), InvalidArgumentError, ("m", 7, "")),
        (messages.ModelSpec(name="m"), InvalidArgumentError, ("m", 7, "serving_default")),
    ],
)
def test_a_record_of_an_error_has_what_was_known_by_then(
    spec: messages.ModelSpec | None,
    error: type[Exception],
    known: tuple[str, int | None, str],
    handler: RegressHandler,
) -> None:
    record = RequestRecord()
    with pytest.raises(error):
        handler.regress_message(request(spec), None, True, record)
    assert (record.model_name, record.version, record.signature_name) == known
    assert record.run_s is None


def test_a_record_of_a_request_that_was_not_understood_names_no_model(handler: RegressHandler) -> None:
    record = RequestRecord()
    with pytest.raises(InternalError):
        handler.regress_message(b"\xff", None, True, record)
    assert record.model_name is None


def test_a_run_that_failed_took_nothing(handler: RegressHandler, one_model: Any) -> None:
    one_model.model.error = UnknownError("graph")
    record = RequestRecord()
    with pytest.raises(UnknownError, match="graph"):
        handler.regress(SPEC, EXAMPLES, record=record)
    assert record.run_s is None


def test_a_thread_that_must_stay_free_does_not_run_what_may_be_long(handler: RegressHandler) -> None:
    with pytest.raises(WouldBlock):
        handler.regress(SPEC, EXAMPLES, may_block=False)
