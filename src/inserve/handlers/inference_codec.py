"""Classify, Regress and MultiInference between bytes and values.

Requests are parsed by protobuf, so that one it refuses is refused; the examples in them are then
taken as the bytes they came in. Responses are written here: a label is any bytes, which protobuf's
own classes would not put into a ``string`` field, and TensorFlow Serving sends it unchanged.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from inserve.handlers.model_spec import ModelSpec, model_spec_from_message
from inserve.handlers.predict_codec import MalformedRequestError
from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, length_delimited_fields
from inserve.tensors.tf_example import serialized_examples

__all__ = [
    "Classification",
    "ExamplesCall",
    "InferenceTask",
    "MultiInferenceCall",
    "TaskResult",
    "decode_classification_request",
    "decode_multi_inference_request",
    "decode_regression_request",
    "encode_classification_response",
    "encode_examples_request",
    "encode_multi_inference_response",
    "encode_regression_response",
]

_INPUT = 2
_RESULT = 1
_RESPONSE_SPEC = 2
_CLASSIFICATION_RESULT = 2
_REGRESSION_RESULT = 3

_LABEL_TAG = b"\x0a"
_SCORE_TAG = 0x15
_VALUE_TAG = 0x0D

_FLOAT_MESSAGE = np.dtype([("head", np.uint8, 3), ("value", "<f4")])
"""A repeated field 1 whose message holds one float: tag, length, tag of the float, the float."""


class ExamplesCall(NamedTuple):
    """What a ClassificationRequest or RegressionRequest asks for."""

    spec: ModelSpec | None
    """None where the request has no ``model_spec``."""
    examples: Sequence[bytes]
    """Serialized ``tf.Example``, one for each row."""


class InferenceTask(NamedTuple):
    """One signature of a MultiInferenceRequest, and how its outputs are to be read."""

    spec: ModelSpec
    method_name: str


class MultiInferenceCall(NamedTuple):
    """What a MultiInferenceRequest asks for."""

    tasks: Sequence[InferenceTask]
    examples: Sequence[bytes]


class Classification(NamedTuple):
    """Classes of each example, in the order of the model's outputs; one of the two may be None."""

    labels: NDArray[np.object_] | None
    """``bytes``, ``[N, C]``."""
    scores: NDArray[np.float32] | None
    """``[N, C]``."""


class TaskResult(NamedTuple):
    """The answer to one InferenceTask."""

    spec: ModelSpec
    """Name, version that answered, and signature."""
    result: Classification | NDArray[np.float32]
    """Classes, or regression values ``[N]``."""


# --- requests -------------------------------------------------------------------------------------


def decode_classification_request(data: bytes) -> ExamplesCall:
    """Return the parts of a serialized ClassificationRequest.

    Raises:
        MalformedRequestError: *data* is not such a message.
    """
    return _examples_call(messages.ClassificationRequest, data)


def decode_regression_request(data: bytes) -> ExamplesCall:
    """Return the parts of a serialized RegressionRequest.

    Raises:
        MalformedRequestError: *data* is not such a message.
    """
    return _examples_call(messages.RegressionRequest, data)


def decode_multi_inference_request(data: bytes) -> MultiInferenceCall:
    """Return the parts of a serialized MultiInferenceRequest; a task without a spec has an empty one.

    Raises:
        MalformedRequestError: *data* is not such a message.
    """
    try:
        message = messages.MultiInferenceRequest.FromString(data)
        examples = _examples(data, message.input)
    except DecodeError:
        raise MalformedRequestError from None
    tasks = [
        InferenceTask(model_spec_from_message(task.model_spec), task.method_name) for task in message.tasks
    ]
    return MultiInferenceCall(tasks, examples)


def _examples_call(message_class: Any, data: bytes) -> ExamplesCall:
    try:
        message = message_class.FromString(data)
        examples = _examples(data, message.input)
    except DecodeError:
        raise MalformedRequestError from None
    spec = model_spec_from_message(message.model_spec) if message.HasField("model_spec") else None
    return ExamplesCall(spec, examples)


def _examples(data: bytes, parsed_input: messages.Input) -> list[bytes]:
    """Return the examples of the request *data*, whose field ``input`` protobuf read as *parsed_input*."""
    try:
        serialized = _input_bytes(data)
    except (ValueError, IndexError):
        serialized = parsed_input.SerializeToString()
    return serialized_examples(serialized)


def _input_bytes(data: bytes) -> bytes:
    """Return the bytes of field ``input``; several pieces in a row are their merge.

    Raises:
        ValueError, IndexError: The message has a field this cannot step over (a group, say).
    """
    fields = length_delimited_fields(data, 0, len(data))
    return b"".join([data[start:stop] for number, start, stop in fields if number == _INPUT])


def encode_examples_request(spec: ModelSpec, examples: Sequence[bytes]) -> bytes:
    """Return *spec* and serialized *examples* as a ClassificationRequest, or RegressionRequest.

    The fields of the two are the same.
    """
    model_spec = messages.ModelSpec(
        name=spec.name,
        version=None if spec.version is None else messages.Int64Value(value=spec.version),
        version_label=spec.version_label,
        signature_name=spec.signature_name,
    )
    rows = messages.SerializedInput(example_list=messages.SerializedExampleList(examples=examples))
    head = messages.ClassificationRequest(model_spec=model_spec).SerializeToString()
    return head + _field(_INPUT, rows.SerializeToString())


# --- responses ------------------------------------------------------------------------------------


def encode_classification_response(result: Classification, spec: ModelSpec) -> bytes:
    """Return the serialized ClassificationResponse; *spec* says who answered."""
    return _field(_RESULT, _classification_result(result)) + _field(_RESPONSE_SPEC, _spec_bytes(spec))


def encode_regression_response(values: NDArray[np.float32], spec: ModelSpec) -> bytes:
    """Return the serialized RegressionResponse for *values*, ``[N]``; *spec* says who answered."""
    return _field(_RESULT, _regression_result(values)) + _field(_RESPONSE_SPEC, _spec_bytes(spec))


def encode_multi_inference_response(results: Iterable[TaskResult]) -> bytes:
    """Return the serialized MultiInferenceResponse, one result for each of *results*."""
    pieces = []
    for spec, result in results:
        if isinstance(result, Classification):
            body = _field(_CLASSIFICATION_RESULT, _classification_result(result))
        else:
            body = _field(_REGRESSION_RESULT, _regression_result(result))
        pieces.append(_field(1, _field(1, _spec_bytes(spec)) + body))
    return b"".join(pieces)


def _field(number: int, value: bytes) -> bytes:
    return encode_length_delimited_header(number, len(value)) + value


@functools.lru_cache(maxsize=256)
def _spec_bytes(spec: ModelSpec) -> bytes:
    message = messages.ModelSpec(name=spec.name, signature_name=spec.signature_name)
    if spec.version is not None:
        message.version.value = spec.version
    return message.SerializeToString()


def _classification_result(result: Classification) -> bytes:
    labels, scores = result
    if labels is None and scores is not None:
        records = _float_messages(scores, _SCORE_TAG)
        if records is not None:
            return b"".join([_field(1, row.tobytes()) for row in records])
    shape = scores.shape if labels is None and scores is not None else labels.shape  # type: ignore[union-attr]
    label_rows = [[b""] * shape[1]] * shape[0] if labels is None else labels.tolist()
    score_rows = [[b""] * shape[1]] * shape[0] if scores is None else _float_fields(scores, _SCORE_TAG)
    return b"".join(
        [
            _field(1, b"".join([_field(1, _label(label) + score) for label, score in zip(*row, strict=True)]))
            for row in zip(label_rows, score_rows, strict=True)
        ]
    )


def _label(label: bytes) -> bytes:
    return _field(1, label) if label else b""


def _regression_result(values: NDArray[np.float32]) -> bytes:
    records = _float_messages(values, _VALUE_TAG)
    if records is not None:
        return records.tobytes()
    return b"".join([_field(1, value) for value in _float_fields(values.reshape(1, -1), _VALUE_TAG)[0]])


def _float_messages(values: NDArray[np.float32], tag: int) -> NDArray[np.void] | None:
    """Return *values* each as a whole message, or None where one is 0.0, which has no field."""
    if not np.ascontiguousarray(values).view(np.uint32).all():
        return None
    records = np.empty(values.shape, _FLOAT_MESSAGE)
    records["head"] = (0x0A, 5, tag)
    records["value"] = values
    return records


def _float_fields(values: NDArray[np.float32], tag: int) -> list[list[bytes]]:
    """Return the field with *tag* for each of *values*, ``[N, C]``; empty for 0.0 (not for -0.0)."""
    zero = b"\0\0\0\0"
    head = bytes([tag])
    return [
        [b"" if packed == zero else head + packed for packed in (struct.pack("<f", value) for value in row)]
        for row in values.tolist()
    ]
