"""The parser against the recorded answers of TensorFlow Serving, and against orjson where both accept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inserve.errors import InvalidArgumentError
from inserve.tensors.json_document import TOO_DEEP, RepeatingObject, load_document, members, parse_document

GOLDEN = Path(__file__).resolve().parents[1] / "golden/rest.jsonl"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40
)


def recorded_parse_errors() -> list[Any]:
    found = []
    for line in GOLDEN.read_text().splitlines():
        case = json.loads(line)
        answer = case["response"].get("body")
        if isinstance(case["body"], str) and isinstance(answer, str) and "JSON Parse error" in answer:
            found.append(pytest.param(case["body"], json.loads(answer)["error"], id=case["id"]))
    return found


@pytest.mark.parametrize(("body", "error"), recorded_parse_errors())
def test_errors_have_the_recorded_text(body: str, error: str) -> None:
    for load in (load_document, parse_document):
        with pytest.raises(InvalidArgumentError) as raised:
            load(body.encode())
        assert raised.value.message == error


@pytest.mark.parametrize(
    ("body", "problem", "offset"),
    [
        (b"   ", "The document is empty.", 3),
        (b":", "The document is empty.", 0),
        (b"\0{}", "The document is empty.", 0),
        (b"instances = [1]", "Invalid value.", 0),
        (b'{"instances":[1,2,]}', "Invalid value.", 18),
        (b'{"instances":[1 2]}', "Missing a comma or ']' after an array element.", 16),
        (b'{"instances":[1]', "Missing a comma or '}' after an object member.", 16),
        (b'{"instances":[1],}', "Missing a name for object member.", 17),
        (b"{instances:[1]}", "Missing a name for object member.", 1),
        (b'{"instances" [1]}', "Missing a colon after a name of object member.", 13),
        (b'{"instances":[nan]}', "Invalid value.", 15),
        (b'{"instances":[1e400]}', "Number too big to be stored in double.", 14),
        (b'{"instances":[1.]}', "Miss fraction part in number.", 16),
        (b'{"instances":["\\ud83d"]}', "The surrogate pair in string is invalid.", 15),
        (b'["\\ud83d\\u12"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["a\0b"]', "Missing a closing quotation mark in string.", 3),
        (b'["a\x1fb"]', "Invalid escape character in string.", 3),
        (b'["a\\', "Invalid escape character in string.", 3),
        (b"[1,2,3,4 \0]", "Missing a comma or ']' after an array element.", 9),
        (b"[-Nan]", "Invalid value.", 4),
        (b"[1.5e]", "Miss exponent in number.", 5),
        (b"[1.5E-x]", "Miss exponent in number.", 6),
        (b"[true,fals]", "Invalid value.", 10),
        (b'{"a":{"b":[{', "Missing a name for object member.", 12),
    ],
)
def test_an_error_names_the_problem_and_its_offset(body: bytes, problem: str, offset: int) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        load_document(body)
    assert raised.value.message == f"JSON Parse error: {problem} at offset: {offset}"


def test_an_empty_body_has_no_offset() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^JSON Parse error: The document is empty$"):
        load_document(b"")


@pytest.mark.parametrize("text", ["1", "[1]", '{"a":1}', '"a"', "null", "NaN"])
@pytest.mark.parametrize("rest", ["", " ", "garbage {", '}"', "\0"])
def test_what_follows_the_first_value_is_ignored(text: str, rest: str) -> None:
    if rest == "garbage {" and text == "NaN":
        rest = " " + rest
    assert repr(load_document((text + rest).encode())) == repr(json.loads(text))


def test_a_byte_order_mark_is_skipped() -> None:
    assert load_document(b'\xef\xbb\xbf {"a":[1]}') == {"a": [1]}


def test_numbers_that_are_not_finite_have_six_spellings() -> None:
    values = load_document(b"[NaN,-NaN,Inf,-Inf,Infinity,-Infinity]")
    assert [math.isnan(value) for value in values[:2]] == [True, True]
    assert values[2:] == [math.inf, -math.inf, math.inf, -math.inf]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0", 0),
        ("-0.0", -0.0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", -(2.0**63)),
        ("1.0", 1.0),
        ("1e2", 100.0),
        ("9" * 308, 1e308),
        ("0." + "0" * 400 + "1e401", 1.0),
        ("1e-99999999999999999999", 0.0),
        ("1." + "0" * 5000, 1.0),
        ("1.5e308", 1.5e308),
        ("1.8e308", math.inf),
        ("0e309", 0.0),
        ("0.15e309", 1.5e308),
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]", "[7, {} ,\n7]"])
def test_a_number_is_an_integer_where_it_is_written_as_one_and_fits(
    text: str, value: float, form: str
) -> None:
    parsed = parse_document(form.replace("{}", text).encode())
    number = {"{}": lambda: parsed, "[{}]": lambda: parsed[0]}.get(form, lambda: parsed[1])()
    assert (type(number), repr(number)) == (type(value), repr(value))


@pytest.mark.parametrize("text", ["1e309", "-1e309", "10" * 160, "2" + "0" * 308, "0.5e310", "1e" + "9" * 99])
def test_a_number_beyond_double_is_too_big(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"too big to be stored in double\. at offset: 1$"):
        load_document(f"[{text}]".encode())


def test_a_string_keeps_bytes_that_are_not_utf_8() -> None:
    value = load_document(b'"a\xff\xfeb"')
    assert value.encode("utf-8", "surrogateescape") == b"a\xff\xfeb"


def test_a_lone_low_surrogate_becomes_its_three_bytes() -> None:
    assert load_document(b'"\\udc00"').encode("utf-8", "surrogateescape") == b"\xed\xb0\x80"


def test_escapes_are_read() -> None:
    assert (
        parse_document(b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00E9\\ud83d\\ude00 \xff"')
        == '"\\/\b\f\n\r\t\0é😀 \udcff'
    )


@pytest.mark.parametrize("load", [load_document, parse_document])
def test_of_repeated_names_the_first_counts_and_all_are_kept(load: Any) -> None:
    value = load(b'{"a":1,"b":[{"c":":"}],"\\u0061":2}')
    assert value["a"] == 1
    assert isinstance(value, RepeatingObject)
    assert list(members(value)) == [("a", 1), ("b", [{"c": ":"}]), ("a", 2)]


@pytest.mark.parametrize(
    "body", [b'{"a":{"b":1,"b":2}}', b'{"a":[{"b":1,"b":2}]}', b'[[{"b":1}],[{"b":1,"b":2}]]']
)
def test_repeated_names_are_found_at_any_depth(body: bytes) -> None:
    assert load_document(body) == parse_document(body)
    assert load_document(body) != orjson.loads(body)


@pytest.mark.parametrize("opening", [b"[", b'{"":', b'[{"a":['])
@pytest.mark.parametrize("depth", [1001, 100_000])
def test_deep_nesting_is_checked_but_not_kept(opening: bytes, depth: int) -> None:
    closing = opening[::-1].translate(bytes.maketrans(b"[{", b"]}"), b'":a')
    body = b'{"x":' + opening * depth + b"1" + closing * depth + b',"y":[2]}'
    value = parse_document(body)
    assert value["y"] == [2]
    levels = 0
    inner = value["x"]
    while inner is not TOO_DEEP:
        inner = inner[0] if isinstance(inner, list) else next(iter(inner.values()))
        levels += 1
    assert levels == 999
    with pytest.raises(InvalidArgumentError, match=f"at offset: {len(body) - 1}"):
        parse_document(body[:-1])


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"[[],", b'[{"a":1},'])
def test_a_million_open_containers_are_an_error_at_their_end(opening: bytes) -> None:
    body = opening * (1_000_000 // len(opening))
    with pytest.raises(InvalidArgumentError, match=f"at offset: {len(body)}$"):
        load_document(body)


@pytest.mark.parametrize(
    "text", [b"1" * 1_000_000, b'"' + b"a" * 1_000_000, b'"' + b"\\n" * 500_000, b"1." + b"1" * 1_000_000]
)
def test_a_million_bytes_of_one_token_are_read_in_one_go(text: bytes) -> None:
    body = b'{"a":[' + text
    with pytest.raises(InvalidArgumentError, match=r"at offset: (6|1000006|1000007|1000008)$"):
        load_document(body)


@settings(deadline=None)
@given(document=DOCUMENTS, spaced=st.booleans())
@example(document={"a": "x:y", "b": ['":', {"c": 1}]}, spaced=True)
def test_both_parsers_agree_with_the_standard_library(document: Any, spaced: bool) -> None:
    separators = (" , ", " : ") if spaced else (",", ":")
    body = json.dumps(document, ensure_ascii=False, separators=separators).encode()
    assert repr(parse_document(body)) == repr(document)
    assert repr(load_document(body)) == repr(document)


NUMBERS = st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(deadline=None)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=10), blank=st.sampled_from(["", " ", "\n\t"]))
def test_numbers_in_a_row_are_those_orjson_reads(numbers: list[str], blank: str) -> None:
    body = f"[{blank}{(blank + ',' + blank).join(numbers)}{blank}]".encode()
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    assert repr(parse_document(body)) == repr(expected)


@settings(deadline=None, max_examples=300)
@given(
    body=st.binary(max_size=60)
    | st.text(alphabet='[]{}",:\\u0dc8 1.e-+NaInfty\ntrue\0\x01é', max_size=40).map(str.encode)
)
def test_any_bytes_are_a_document_or_an_invalid_argument(body: bytes) -> None:
    try:
        value = load_document(body)
    except InvalidArgumentError:
        with pytest.raises(InvalidArgumentError, match=r"^JSON Parse error: "):
            parse_document(body)
    else:
        assert repr(parse_document(body)) == repr(value)
