"""The JSON bodies of Classify and Regress requests, and of their answers.

A request becomes a serialized ``tensorflow.serving.Input``. What kind of feature a value is, the value says
and not the signature: ``1`` is int64, ``1.0`` is float. Messages are written byte by byte, because a
name or a string of a document is any bytes, which protobuf's own classes would not put into a ``string``.

Source: TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.protos.wire import encode_length_delimited_header
from inserve.tensors.json_document import load_document, members
from inserve.tensors.json_dump import dump, type_name
from inserve.tensors.json_predict import read_signature_name
from inserve.tensors.json_response import encode_floats, encode_string
from inserve.tensors.json_values import as_float32, decode_b64_object, encode_text, is_b64_object
from inserve.tensors.packed_varints import encode_packed_varints

__all__ = [
    "ExamplesBody",
    "encode_classification_response",
    "encode_regression_response",
    "parse_examples_body",
]

_INT64_MAX = 2**63 - 1

_EXAMPLE_LIST, _EXAMPLE_LIST_WITH_CONTEXT = 1, 2
_EXAMPLES, _CONTEXT = 1, 2
_FEATURES, _FEATURE, _KEY, _VALUE = 1, 1, 1, 2
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_KINDS = {_BYTES_LIST: "bytes", _FLOAT_LIST: "float", _INT64_LIST: "int64"}


class ExamplesBody(NamedTuple):
    """A parsed body."""

    signature_name: str
    """Empty where the body names none."""
    input: bytes
    """A serialized ``tensorflow.serving.Input``."""


def parse_examples_body(body: bytes) -> ExamplesBody:
    """Return the body of a Classify or Regress request.

    Raises:
        InvalidArgumentError: It is no JSON, or not of that form; the text is TensorFlow Serving's.
    """
    document = load_document(body)
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"JSON Value: {dump(document)} Is not object")
    signature_name = read_signature_name(document)
    context = _field(_CONTEXT, _example(document["context"])) if "context" in document else None
    if "examples" not in document:
        raise InvalidArgumentError(
            f"JSON Value: {dump(document)} When method is classify, key 'examples' is expected"
            " and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise InvalidArgumentError(
            f"JSON Value: {dump(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise InvalidArgumentError(f"JSON Value: {dump(document)} 'examples' value is an empty array")
    rows = b"".join([_field(_EXAMPLES, _example(example)) for example in examples])
    if context is None:
        return ExamplesBody(signature_name, _field(_EXAMPLE_LIST, rows))
    return ExamplesBody(signature_name, _field(_EXAMPLE_LIST_WITH_CONTEXT, rows + context))


def _field(number: int, value: bytes) -> bytes:
    return encode_length_delimited_header(number, len(value)) + value


def _example(value: Any) -> bytes:
    """Return a serialized ``tf.Example``; of a name written twice the last feature counts.

    Raises:
        InvalidArgumentError: *value* is none.
    """
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"Example must be JSON object but got JSON {type_name(value)}")
    features = {name: _feature(name, content) for name, content in members(value)}
    entries = [
        _field(_FEATURE, _field(_KEY, encode_text(name)) + _field(_VALUE, feature))
        for name, feature in features.items()
    ]
    return _field(_FEATURES, b"".join(entries)) if entries else b""


def _feature(name: str, content: Any) -> bytes:
    """Return a serialized ``tf.Feature``; an empty list has none of the kinds."""
    values = content if isinstance(content, list) else [content]
    if not values:
        return b""
    types = set(map(type, values))
    if types == {float}:
        return _WRITERS[_FLOAT_LIST](values)
    if types == {str}:
        return _WRITERS[_BYTES_LIST](list(map(encode_text, values)))
    if types == {int} and max(values) <= _INT64_MAX:
        return _WRITERS[_INT64_LIST](values)
    kind = 0
    converted = []
    for value in values:
        value_kind = _kind(name, value)
        if kind and value_kind != kind:
            raise InvalidArgumentError(
                f"Unexpected element type in feature: {name} expecting type: {_KINDS[kind]}"
            )
        kind = value_kind
        converted.append(_convert(name, value))
    return _WRITERS[kind](converted)


def _kind(name: str, value: Any) -> int:
    if isinstance(value, float):
        return _FLOAT_LIST
    if isinstance(value, int):
        return _INT64_LIST
    if isinstance(value, str) or is_b64_object(value):
        return _BYTES_LIST
    raise InvalidArgumentError(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _convert(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, dict):
        return decode_b64_object(value)
    if isinstance(value, int) and value > _INT64_MAX:
        raise InvalidArgumentError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    return value


def _bytes_list(values: list[bytes]) -> bytes:
    return _field(_BYTES_LIST, b"".join([_field(1, value) for value in values]))


def _float_list(values: list[float]) -> bytes:
    return _field(_FLOAT_LIST, _field(1, as_float32(np.array(values, np.float64)).astype("<f4").tobytes()))


def _int64_list(values: list[int]) -> bytes:
    return _field(_INT64_LIST, _field(1, encode_packed_varints(np.array(values, np.int64))))


_WRITERS: dict[int, Callable[[list[Any]], bytes]] = {
    _BYTES_LIST: _bytes_list,
    _FLOAT_LIST: _float_list,
    _INT64_LIST: _int64_list,
}


# --- answers --------------------------------------------------------------------------------------


def encode_classification_response(
    labels: NDArray[np.object_] | None, scores: NDArray[np.float32] | None, num_examples: int
) -> bytes:
    """Return the body that answers a Classify request of *num_examples* examples.

    *labels*, ``bytes`` ``[N, C]``, and *scores*, ``[N, C]``; what is None is written as ``""`` and 0.0.

    Raises:
        InvalidArgumentError: There are no examples.
    """
    if not num_examples:
        raise InvalidArgumentError("Cannot convert empty ClassificationResults to JSON")
    shape = labels.shape if labels is not None else scores.shape if scores is not None else (num_examples, 0)
    classes = shape[1]
    pairs = num_examples * classes
    names = [b'""'] * pairs if labels is None else [encode_string(label) for label in labels.reshape(-1)]
    numbers = (
        [b"0.0"] * pairs
        if scores is None or not pairs
        else encode_floats(scores.reshape(-1))[1:-1].split(b",")
    )
    written = list(map(b"[%b, %b]".__mod__, zip(names, numbers, strict=True)))
    rows = [
        b"[" + b", ".join(written[start * classes : (start + 1) * classes]) + b"]"
        for start in range(num_examples)
    ]
    return b'{"results": [' + b", ".join(rows) + b"]}"


def encode_regression_response(values: NDArray[np.float32]) -> bytes:
    """Return the body that answers a Regress request with *values*, ``[N]``.

    Raises:
        InvalidArgumentError: There are none.
    """
    if not values.size:
        raise InvalidArgumentError("Cannot convert empty RegressionResults to JSON")
    return b'{"results": ' + encode_floats(values) + b"}"
