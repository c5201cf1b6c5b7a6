"""Answers against table G of the REST specification, and against the standard library's parser."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, ResourceExhaustedError
from inserve.tensors.dtypes import DataType, element_type_of
from inserve.tensors.flat_tensor import shaped
from inserve.tensors.json_response import (
    encode_floats,
    encode_plain_response,
    encode_plain_row,
    encode_predict_response,
    encode_string,
)


def f32(values: list[Any]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def strings(*rows: Any) -> NDArray[np.object_]:
    return np.array(rows, np.object_)


def encode(is_row: bool, **outputs: NDArray[Any]) -> bytes:
    types = [element_type_of(tensor.dtype).data_type for tensor in outputs.values()]
    return encode_predict_response(list(outputs.items()), types, is_row)


def same(body: bytes, expected: str) -> bool:
    """Whether two bodies are the same but for blanks, order of members, and digits of equal floats."""
    return repr(parsed(body.decode())) == repr(parsed(expected))


def parsed(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=lambda pairs: dict(sorted(pairs)), parse_float=lambda t: np.float32(t)
    )


I6 = np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], np.int32)


@pytest.mark.parametrize(
    ("is_row", "outputs", "expected"),
    [
        (
            True,
            {"y": f32([[1, 2.5], [0.1, 3.3333333]])},
            '{"predictions": [[1.0, 2.5], [0.1, 3.33333325]]}',
        ),
        (
            True,
            {"y": f32([[9000000, 999999, 0.5], [0.0003, 0.00003, 555557.5]])},
            '{"predictions": [[9e+06, 999999.0, 0.5], [0.0003, 3e-05, 555557.5]]}',
        ),
        (
            True,
            {"y": f32([[np.nan, np.inf], [3, -np.inf]])},
            '{"predictions": [[NaN, Infinity], [3.0, -Infinity]]}',
        ),
        (True, {"y": I6}, '{"predictions": [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]]}'),
        (False, {"y": I6}, '{"outputs": [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]]}'),
        (True, {"y": np.arange(1, 6, dtype=np.int32)}, '{"predictions": [1, 2, 3, 4, 5]}'),
        (False, {"y": np.arange(1, 6, dtype=np.int32)}, '{"outputs": [1, 2, 3, 4, 5]}'),
        (False, {"y": np.array(7, np.int32)}, '{"outputs": 7}'),
        (False, {"y": np.array(7, np.float64)}, '{"outputs": 7.0}'),
        (False, {"y": np.array(np.nan, np.float32)}, '{"outputs": NaN}'),
        (True, {"y": np.zeros((0, 2), np.int32)}, '{"predictions": []}'),
        (True, {"y": np.zeros((2, 0), np.int32)}, '{"predictions": [[], []]}'),
        (True, {"y": np.zeros((2, 0), np.float16)}, '{"predictions": [[], []]}'),
        (
            True,
            {"y_bytes": strings([b"hello", b"world"], [b"tf", b"serving"])},
            '{"predictions": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}],'
            ' [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}]]}',
        ),
        (False, {"y_bytes": np.array(b"hello", np.object_)}, '{"outputs": {"b64": "aGVsbG8="}}'),
        (True, {"y_bytes": np.array([1], np.int32)}, '{"predictions": [1]}'),
        (
            True,
            {"a": f32([1, 2]), "b": strings([b"p", b"q"], [b"r", b"s"])},
            '{"predictions": [{"b": ["p", "q"], "a": 1.0}, {"b": ["r", "s"], "a": 2.0}]}',
        ),
        (
            True,
            {"100%": f32([1, np.nan]), "i": I6, "e": np.zeros((2, 1, 0))},
            '{"predictions": [{"100%": 1.0, "i": [[1, 2], [3, 4], [5, 6]], "e": [[]]},'
            ' {"100%": NaN, "i": [[7, 8], [9, 0], [1, 2]], "e": [[]]}]}',
        ),
        (
            False,
            {"a": f32([1, 2]), "b": np.array(5, np.float32)},
            '{"outputs": {"b": 5.0, "a": [1.0, 2.0]}}',
        ),
        (True, {"y": np.array([2**64 - 1], np.uint64)}, '{"predictions": [18446744073709551615]}'),
        (True, {"y": np.array([[1, 0]], np.bool_)}, '{"predictions": [[true, false]]}'),
        (True, {"y": I6.transpose(2, 0, 1)[:, :, 0].astype(np.int8)}, '{"predictions": [[1, 7], [2, 8]]}'),
    ],
)
def test_outputs_are_rendered_as_recorded(
    is_row: bool, outputs: dict[str, NDArray[Any]], expected: str
) -> None:
    assert same(encode(is_row, **outputs), expected)


@pytest.mark.parametrize(
    ("is_row", "outputs", "error"),
    [
        (True, {"y": np.array(7, np.int32)}, "Tensor name: y has no shape information "),
        (
            True,
            {"a": f32([1, 2]), "b": strings(b"p", b"q", b"r")},
            "Tensor name: b has inconsistent batch size: 3 expecting: 2",
        ),
        (True, {"y": np.array([1], np.float16)}, "Failed to write JSON value for tensor type: half"),
        (False, {"y": np.array(1, np.uint16)}, "Failed to write JSON value for tensor type: uint16"),
        (
            False,
            {"y": np.array([1, 2], np.complex64)},
            "Failed to write JSON value for tensor type: complex64",
        ),
    ],
)
def test_what_cannot_be_rendered_is_an_invalid_argument(
    is_row: bool, outputs: dict[str, NDArray[Any]], error: str
) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        encode(is_row, **{alias: np.asarray(tensor) for alias, tensor in outputs.items()})
    assert raised.value.message == error


def test_strings_keep_their_bytes_and_only_what_must_be_is_escaped() -> None:
    body = encode(True, y=strings(b'"\\\b\f\n\r\t\x00\x1f/\x7f\xc3\xa9\xff', b"plain"))
    assert body == b'{"predictions": ["\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001F/\x7f\xc3\xa9\xff","plain"]}'


def test_a_name_is_escaped() -> None:
    outputs = [('é"<1>&', f32([1])), ("b\udcff", f32([2]))]
    body = encode_predict_response(outputs, [DataType.DT_FLOAT] * 2, False)
    assert body == b'{"outputs": {"\xc3\xa9\\"<1>&": [1.0], "b\xff": [2.0]}}'


@pytest.mark.parametrize("dimensions", [65, 254])
def test_more_dimensions_than_an_array_has_are_rendered(dimensions: int) -> None:
    tensor = shaped(f32([1, np.inf]), (1,) * (dimensions - 1) + (2,))
    body = encode_predict_response([("y", tensor)], [DataType.DT_FLOAT], False)
    assert body == b'{"outputs": ' + b"[" * dimensions + b"1.0,Infinity" + b"]" * dimensions + b"}"


def test_lists_without_end_are_refused() -> None:
    tensor = shaped(np.zeros(0, np.float32), (2**40, 2**40, 0))
    with pytest.raises(ResourceExhaustedError):
        encode_predict_response([("y", tensor)], [DataType.DT_FLOAT], True)


@settings(deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_a_float_reads_back_as_itself(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    written = encode_floats(values)
    for value, text in zip(values, written[1:-1].split(b","), strict=True):
        assert np.float32(text.decode()).tobytes() == value.tobytes() or np.isnan(value)
        assert math.isfinite(value) == (b"n" not in text.lower())
        assert not math.isfinite(value) or b"." in text or b"e" in text


@settings(deadline=None)
@given(values=st.lists(st.floats(), min_size=1), rows=st.booleans())
def test_a_double_reads_back_as_itself(values: list[float], rows: bool) -> None:
    tensor = np.array(values, np.float64).reshape(-1, 1) if rows else np.array(values)
    outputs = [("y", tensor), ("z", tensor)]
    read = json.loads(encode_predict_response(outputs, [DataType.DT_DOUBLE] * 2, True))["predictions"]
    assert repr([row["z"] for row in read]) == repr([[value] if rows else value for value in values])


@settings(deadline=None)
@given(text=st.binary())
def test_a_string_reads_back_as_itself(text: bytes) -> None:
    read = json.loads(encode_string(text).decode("utf-8", "surrogateescape"))
    assert read.encode("utf-8", "surrogateescape") == text


# --- most answers ---------------------------------------------------------------------------------

TENSORS = st.sampled_from(
    [
        f32([1.5]),
        f32([[1, np.nan, np.inf]]),
        f32([[1.5], [2.5]]),
        f32([[[1, 2], [3, -np.inf]]]),
        np.array([7], np.int64),
        np.array([True]),
        np.array(7),
        strings(b"a"),
        f32([]),
        np.zeros((1, 0), np.int32),
        f32([[1, 2], [3, 4]]).T[:1],
        shaped(f32([1, 2]), (1,) * 70 + (2,)),
    ]
)
NAMES = st.sampled_from(["y", 'a"b', "100%", "%b", "é", "c_bytes"])


@given(outputs=st.dictionaries(NAMES, TENSORS, min_size=1, max_size=3), is_row=st.booleans())
def test_most_answers_are_written_as_all_are(outputs: dict[str, Any], is_row: bool) -> None:
    plain = None
    if len(outputs) == 1:
        plain = encode_plain_response(next(iter(outputs.values())), is_row)
    elif is_row:
        plain = encode_plain_row(list(outputs), list(outputs.values()))
    assert plain is None or plain == encode(is_row, **outputs)


def test_one_row_of_several_numbers_is_what_most_answers_are() -> None:
    plain = encode_plain_row(["class", "scores"], [np.array([7]), f32([[0.25, 0.75]])])
    assert plain == b'{"predictions": [{"class": 7, "scores": [0.25,0.75]}]}'
