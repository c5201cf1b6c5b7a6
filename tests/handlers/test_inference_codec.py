from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from inserve.handlers.inference_codec import (
    Classification,
    InferenceTask,
    TaskResult,
    decode_classification_request,
    decode_multi_inference_request,
    decode_regression_request,
    encode_classification_response,
    encode_examples_request,
    encode_multi_inference_response,
    encode_regression_response,
)
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.predict_codec import MalformedRequestError
from inserve.protos import messages

SPEC = ModelSpec("m", 7, None, "s")


def classes(result: Any) -> list[list[tuple[str, float]]]:
    return [[(one.label, one.score) for one in row.classes] for row in result.classifications]


def strings(rows: list[list[bytes]]) -> Any:
    array = np.empty((len(rows), len(rows[0])), np.object_)
    array[:] = rows
    return array


def request(**fields: Any) -> messages.ClassificationRequest:
    message = messages.ClassificationRequest(**fields)
    message.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.5)
    return message


def test_examples_are_the_bytes_that_came() -> None:
    example = b"\x0a\x80\x00"  # an empty message whose length takes two bytes
    data = bytes([0x12, len(example) + 4, 0x0A, len(example) + 2, 0x0A, len(example), *example])
    assert decode_classification_request(data).examples == [example]
    assert decode_regression_request(data).examples == [example]


def test_an_input_in_two_pieces_is_their_merge() -> None:
    one = messages.ClassificationRequest()
    one.input.example_list.examples.add()
    assert decode_classification_request(one.SerializeToString() * 2).examples == [b"", b""]


@pytest.mark.parametrize(
    "unknown",
    [b"\x50\xff\x01", b"\x51" + bytes(8), b"\x55" + bytes(4), b"\x52\x01x", b"\x53\x54"],
    ids=["varint", "fixed64", "fixed32", "bytes", "group"],
)
def test_fields_nobody_knows_are_stepped_over(unknown: bytes) -> None:
    message = request(model_spec=messages.ModelSpec(name="m"))
    call = decode_classification_request(unknown + message.SerializeToString())
    assert call.spec == ModelSpec("m")
    assert call.examples == [message.input.example_list.examples[0].SerializeToString()]


@pytest.mark.parametrize(
    "message_class", [messages.ClassificationRequest, messages.RegressionRequest], ids=["classify", "regress"]
)
def test_examples_are_put_into_either_request_as_they_are(message_class: Any) -> None:
    expected = message_class()
    expected.model_spec.name = "m"
    expected.model_spec.version_label = "stable"
    expected.model_spec.signature_name = "s"
    expected.input.example_list.examples.add()
    expected.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.5)
    examples = [example.SerializeToString() for example in expected.input.example_list.examples]
    data = encode_examples_request(ModelSpec("m", None, "stable", "s"), examples)
    assert message_class.FromString(data) == expected


def test_a_request_without_a_spec_has_none() -> None:
    assert decode_regression_request(b"").spec is None


@pytest.mark.parametrize(
    "decode", [decode_classification_request, decode_regression_request, decode_multi_inference_request]
)
def test_what_is_no_message_is_refused_without_a_text(decode: Any) -> None:
    with pytest.raises(MalformedRequestError) as caught:
        decode(b"\xff\xff\xff")
    assert caught.value.message == ""


def test_an_example_that_is_no_message_is_refused() -> None:
    with pytest.raises(MalformedRequestError):
        decode_classification_request(b"\x12\x05\x0a\x03\x0a\x01\xff")


def test_tasks_keep_their_order_and_method() -> None:
    message = messages.MultiInferenceRequest()
    message.tasks.add(method_name="a").model_spec.name = "m"
    message.tasks.add(method_name="b")
    assert decode_multi_inference_request(message.SerializeToString()).tasks == [
        InferenceTask(ModelSpec("m"), "a"),
        InferenceTask(ModelSpec(), "b"),
    ]


def test_scores_alone_leave_labels_empty() -> None:
    scores = np.array([[0.5, -2.0], [1e-40, 3.0]], np.float32)
    data = encode_classification_response(Classification(None, scores), SPEC)
    response = messages.ClassificationResponse.FromString(data)
    assert classes(response.result) == [[("", float(score)) for score in row] for row in scores]
    assert response.model_spec == messages.ModelSpec(
        name="m", version=messages.Int64Value(value=7), signature_name="s"
    )


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (None, [[0.0, 1.0]]),
        ([[b"a", b""]], None),
        ([[b"a", b"b"]], [[0.25, 0.0]]),
        (None, [[1.0], [2.0]]),
        (None, [[], []]),
        (None, [[math.inf, -0.0]]),
    ],
)
def test_a_classification_is_what_protobuf_writes(
    labels: list[list[bytes]] | None, scores: list[list[float]] | None
) -> None:
    expected = messages.ClassificationResponse()
    rows: list[list[Any]] = [*(labels or scores or [])]
    for row, values in enumerate(rows):
        entry = expected.result.classifications.add()
        for column in range(len(values)):
            one = entry.classes.add()
            if labels is not None:
                one.label = labels[row][column].decode()
            if scores is not None:
                one.score = scores[row][column]
    expected.model_spec.name = "m"
    expected.model_spec.version.value = 7
    expected.model_spec.signature_name = "s"
    result = Classification(
        None if labels is None else strings(labels),
        None if scores is None else np.array(scores, np.float32),
    )
    assert encode_classification_response(result, SPEC) == expected.SerializeToString(deterministic=True)


def test_a_label_may_be_any_bytes() -> None:
    data = encode_classification_response(Classification(strings([[b"\xff\xfe"]]), None), SPEC)
    assert b"\x0a\x02\xff\xfe" in data


@pytest.mark.parametrize("values", [[1.5, -2.0], [0.0, 1.0], [-0.0], [math.nan]])
def test_a_regression_is_what_protobuf_writes(values: list[float]) -> None:
    expected = messages.RegressionResponse()
    for value in values:
        expected.result.regressions.add(value=value)
    expected.model_spec.name = "m"
    expected.model_spec.version.value = 7
    expected.model_spec.signature_name = "s"
    data = encode_regression_response(np.array(values, np.float32), SPEC)
    assert data == expected.SerializeToString(deterministic=True)


def test_each_task_has_its_result_and_its_spec() -> None:
    other = ModelSpec("m", 7, None, "t")
    data = encode_multi_inference_response(
        [
            TaskResult(SPEC, np.array([1.0, 0.0], np.float32)),
            TaskResult(other, Classification(None, np.array([[2.0]], np.float32))),
        ]
    )
    first, second = messages.MultiInferenceResponse.FromString(data).results
    assert [one.value for one in first.regression_result.regressions] == [1.0, 0.0]
    assert classes(second.classification_result) == [[("", 2.0)]]
    assert (first.model_spec.signature_name, second.model_spec.signature_name) == ("s", "t")
