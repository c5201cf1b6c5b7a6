from __future__ import annotations

import math
from typing import Any

import pytest

from inserve.tensors.json_document import parse_document
from inserve.tensors.json_dump import dump, type_name


@pytest.mark.parametrize(
    ("text", "dumped"),
    [
        ('{"instances":[]}', '{\n    "instances": []\n}'),
        ('[{"instances":[1]}]', '[{\n        "instances": [1]\n    }]'),
        (
            '{"signature_name":null,"examples":[{"x":1.0}]}',
            '{\n    "signature_name": null,\n    "examples": [{\n            "x": 1.0\n        }]\n}',
        ),
        ("[1,2]", "[1, 2]"),
        ("{}", "{}"),
        ('{"a":1,"a":2}', '{\n    "a": 1,\n    "a": 2\n}'),
        ('"\\u0001\\"\\n/\x7f"', '"\\u0001\\"\\n/\x7f"'),
        ("1e3", "1000.0"),
        ("-9223372036854775809", "-9223372036854776000.0"),
        ("123456.789", "123456.789"),
        ("1e-3", "0.001"),
        ("1e-7", "1e-7"),
        ("-1.25e30", "-1.25e30"),
        ("1e21", "1e21"),
        ("1e20", "100000000000000000000.0"),
        ("-0.0", "-0.0"),
    ],
)
def test_a_value_is_printed_as_rapidjson_prints_it(text: str, dumped: str) -> None:
    assert dump(parse_document(text.encode())) == dumped


def test_the_text_stops_behind_the_token_that_reaches_256_bytes() -> None:
    document = {"instances": 5, "list": list(range(300))}
    expected = '{\n    "instances": 5,\n    "list": [' + ", ".join(map(str, range(59)))  # as recorded
    assert dump(document) == expected


def test_one_long_string_is_not_cut() -> None:
    assert dump(["x" * 1000, 1]) == '["' + "x" * 1000 + '"'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_text_stops_before_a_number_that_is_not_finite(value: float) -> None:
    assert dump({"signature_name": {"a": value}, "b": 1}) == '{\n    "signature_name": {\n        "a": '


def test_deep_nesting_is_cut_too() -> None:
    assert len(dump(parse_document(b"[" * 100_000 + b"]" * 100_000))) == 256


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "Null"),
        (True, "True"),
        (False, "False"),
        (1, "Number"),
        (1.5, "Number"),
        ("", "String"),
        ({}, "Object"),
        ([], "Array"),
    ],
)
def test_types_have_rapidjson_s_names(value: Any, name: str) -> None:
    assert type_name(value) == name
