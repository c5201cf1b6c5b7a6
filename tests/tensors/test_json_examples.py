"""Classify and Regress bodies against tables H and I of the REST specification and the recorded answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensors.json_examples import (
    encode_classification_response,
    encode_regression_response,
    parse_examples_body,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden/rest.jsonl"


def f32(values: list[Any]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def features(example: messages.Example) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value)) if kind else None
    return found


def read(body: str) -> tuple[str, Any, list[Any]]:
    """Return signature name, features of the context, and features of each example."""
    parsed = parse_examples_body(body.encode())
    message = messages.Input.FromString(parsed.input)
    if message.WhichOneof("kind") == "example_list":
        return parsed.signature_name, None, [features(row) for row in message.example_list.examples]
    rows = message.example_list_with_context
    return parsed.signature_name, features(rows.context), [features(row) for row in rows.examples]


@pytest.mark.parametrize(
    ("body", "signature_name", "context", "examples"),
    [
        (
            '{"examples":[{"names":["foo","bar"],"ratings":[8.0,9.0],"age":20},{"names":["baz"],"ratings":6.0}]}',
            "",
            None,
            [
                {
                    "names": ("bytes_list", [b"foo", b"bar"]),
                    "ratings": ("float_list", [8.0, 9.0]),
                    "age": ("int64_list", [20]),
                },
                {"names": ("bytes_list", [b"baz"]), "ratings": ("float_list", [6.0])},
            ],
        ),
        (
            '{"signature_name":"custom","context":{"query":"pizza","location":["sfo"]},"examples":'
            '[{"m":[1,true,false]},{"n":["baz",{"b64":"aGVsbG8="}]},{"q":-Infinity}]}',
            "custom",
            {"query": ("bytes_list", [b"pizza"]), "location": ("bytes_list", [b"sfo"])},
            [
                {"m": ("int64_list", [1, 1, 0])},
                {"n": ("bytes_list", [b"baz", b"hello"])},
                {"q": ("float_list", [-math.inf])},
            ],
        ),
        ('{"examples":[{"f":[]}]}', "", None, [{"f": None}]),
        ('{"examples":[{}]}', "", None, [{}]),
        ('{"context":{},"examples":[{}]}', "", {}, [{}]),
        (
            '{"examples":[{"a":18446744073709551616}]}',
            "",
            None,
            [{"a": ("float_list", [float(np.float32(2.0**64))])}],
        ),
        ('{"examples":[{"a":1,"a":2}]}', "", None, [{"a": ("int64_list", [2])}]),
        (
            '{"examples":[{"a":-9223372036854775808,"":1e-40}]}',
            "",
            None,
            [{"a": ("int64_list", [-(2**63)]), "": ("float_list", [0.0])}],
        ),
        ('{"examples":[{"a":true}],"inputs":5}', "", None, [{"a": ("int64_list", [1])}]),
        ('{"examples":[{"x":1.0}],"examples":[{"x":2.0}]}', "", None, [{"x": ("float_list", [1.0])}]),
    ],
)
def test_the_kind_of_a_feature_is_that_of_its_values(
    body: str, signature_name: str, context: Any, examples: list[Any]
) -> None:
    assert read(body) == (signature_name, context, examples)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"examples":[{"names":[10,null]}]}', "Feature: names has element with unexpected JSON type: Null"),
        (
            '{"examples":[{"names":[10,10.0]}]}',
            "Unexpected element type in feature: names expecting type: int64",
        ),
        ('{"examples":[{"a":[2.0,1]}]}', "Unexpected element type in feature: a expecting type: float"),
        ('{"examples":[{"a":["x",1]}]}', "Unexpected element type in feature: a expecting type: bytes"),
        (
            '{"examples":[{"names":[10,{"test":10}]}]}',
            "Feature: names has element with unexpected JSON type: Object",
        ),
        ('{"examples":[{"names":[[10],20]}]}', "Feature: names has element with unexpected JSON type: Array"),
        (
            '{"examples":[{"names":[20,18446744073709551603]}]}',
            "Feature: names has uint64_t element. Only int64_t is supported.",
        ),
        ('{"context":[{"names":["foo"]}]}', "Example must be JSON object but got JSON Array"),
        ('{"examples":[5]}', "Example must be JSON object but got JSON Number"),
        (
            '{"examples":{"names":["foo"]}}',
            'JSON Value: {\n    "examples": {\n        "names": ["foo"]\n    }\n}'
            " Expecting 'examples' value to be an list/array",
        ),
        ('{"examples":[]}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        (
            '{"foo":1}',
            'JSON Value: {\n    "foo": 1\n}'
            " When method is classify, key 'examples' is expected and was not found",
        ),
        ('{"examples":[{"x":{"b64":"***"}}]}', "Unable to base64 decode"),
        ("[1]", "JSON Value: [1] Is not object"),
        (
            '{"signature_name":5}',
            'JSON Value: {\n    "signature_name": 5\n} not formatted correctly.'
            " 'signature_name' key must be a string value.",
        ),
    ],
)
def test_what_is_no_example_is_an_invalid_argument(body: str, error: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        parse_examples_body(body.encode())
    assert raised.value.message == error


FROM_THE_BODY = (
    "JSON Value: ",
    "Feature: ",
    "Unexpected element type",
    "Example must be",
    "JSON Parse error",
    "Unable to",
)


def recorded_errors() -> list[Any]:
    found = []
    for line in GOLDEN.read_text().splitlines():
        case = json.loads(line)
        answer = case["response"].get("body")
        if case["category"] in ("classify", "regress") and isinstance(answer, str) and '"error"' in answer:
            error = json.loads(answer)["error"]
            if error.startswith(FROM_THE_BODY):
                found.append(pytest.param(case["body"], error, id=case["id"]))
    return found


@pytest.mark.parametrize(("body", "error"), recorded_errors())
def test_errors_have_the_recorded_text(body: str, error: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        parse_examples_body(body.encode())
    assert raised.value.message == error


VALUES = (
    st.lists(st.integers(-(2**63), 2**63 - 1))
    | st.lists(st.floats(width=32, allow_subnormal=False))
    | st.lists(st.text())
)


@settings(deadline=None)
@given(example=st.dictionaries(st.text(), VALUES, max_size=4))
def test_values_arrive_as_they_were_sent(example: dict[str, list[Any]]) -> None:
    kinds: dict[type, str] = {int: "int64_list", float: "float_list", str: "bytes_list"}
    expected = {
        name: (kinds[type(values[0])], [v.encode() if isinstance(v, str) else v for v in values])
        if values
        else None
        for name, values in example.items()
    }
    assert repr(sorted(read(json.dumps({"examples": [example]}))[2][0].items())) == repr(
        sorted(expected.items())
    )


def test_bytes_that_are_not_utf_8_reach_the_example() -> None:
    parsed = parse_examples_body(b'{"examples":[{"x":"\xff"}]}')
    (row,) = messages.Input.FromString(parsed.input).example_list.examples
    assert row.features.feature["x"].bytes_list.value == [b"\xff"]


def test_classes_are_pairs_of_label_and_score() -> None:
    labels = np.array([[b"car", b"b\xffs"], [b'"', b"x"]], np.object_)
    body = encode_classification_response(labels, f32([[0.2, 0.7], [np.nan, 3]]), 2)
    assert body == b'{"results": [[["car", 0.2], ["b\xffs", 0.7]], [["\\"", NaN], ["x", 3.0]]]}'


def test_a_missing_label_is_empty_and_a_missing_score_is_zero() -> None:
    assert encode_classification_response(None, f32([[3]]), 1) == b'{"results": [[["", 3.0]]]}'
    labels = np.array([[b"x"]], np.object_)
    assert encode_classification_response(labels, None, 1) == b'{"results": [[["x", 0.0]]]}'


def test_an_example_may_have_no_classes() -> None:
    assert encode_classification_response(None, np.zeros((2, 0), np.float32), 2) == b'{"results": [[], []]}'


def test_regression_values_are_a_list() -> None:
    body = encode_regression_response(f32([0.2, np.inf, 1, -np.inf, np.nan]))
    assert body.replace(b",", b", ") == b'{"results": [0.2, Infinity, 1.0, -Infinity, NaN]}'


def test_no_examples_are_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgumentError, match="Cannot convert empty ClassificationResults to JSON"):
        encode_classification_response(None, None, 0)
    with pytest.raises(InvalidArgumentError, match="Cannot convert empty RegressionResults to JSON"):
        encode_regression_response(np.zeros(0, np.float32))
