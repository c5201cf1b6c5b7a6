"""Predict bodies against tables A to F of the REST specification and the recorded answers.

What the fast ways make of a body is compared with what the general way makes of it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inserve.errors import InserveError, InvalidArgumentError, UnimplementedError
from inserve.protos import messages
from inserve.tensors import json_predict
from inserve.tensors.dtypes import DataType, element_type
from inserve.tensors.flat_tensor import is_flat
from inserve.tensors.json_document import parse_document
from inserve.tensors.json_predict import bind_rows_together, encode_predict_response, parse_predict_body

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

X = {"x": DataType.DT_FLOAT}
I = {"x": DataType.DT_INT32}  # noqa: E741
S = {"s": DataType.DT_STRING}
AB = {"a": DataType.DT_FLOAT, "b": DataType.DT_STRING}
ISFD = {"i": DataType.DT_INT32, "s": DataType.DT_STRING, "f": DataType.DT_FLOAT, "d": DataType.DT_DOUBLE}
ISZ = {"i": DataType.DT_INT32, "s": DataType.DT_STRING, "z": DataType.DT_STRING}

INF, NAN = math.inf, math.nan
Expected = dict[str, tuple[list[int], list[Any]]]


def typed(name: str) -> dict[str, int]:
    return {"x": DataType[f"DT_{name.upper()}"]}


def bind(body: str | bytes, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    return parse_predict_body(body.encode() if isinstance(body, str) else body).bind(data_types)


def bind_generally(body: bytes, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    document = parse_document(body)
    json_predict.read_signature_name(document)
    return json_predict._bind(document, data_types)


def seen(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """What makes arrays equal: dtype, shape and values, the sign of zero included."""
    return {
        alias: (str(a.dtype), a.shape, repr(a.reshape(-1).tolist())) for alias, a in sorted(arrays.items())
    }


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return seen(function(*arguments))
    except InserveError as error:
        return type(error), error.message


@pytest.mark.parametrize(
    ("data_types", "body", "expected"),
    [
        (X, '{"instances":[1, 2.0, -3, 4e2, 0.1]}', {"x": ([5], [1, 2, -3, 400, 0.1])}),
        (X, '{"instances":[[1,2],[3,4]]}', {"x": ([2, 2], [1, 2, 3, 4])}),
        (I, '{"instances":[[1,2],[3,4],[5,6]]}', {"x": ([3, 2], [1, 2, 3, 4, 5, 6])}),
        (I, '{"signature_name":"predict_images","instances":[[1,2]]}', {"x": ([1, 2], [1, 2])}),
        (X, '{"instances":[NaN,Infinity,-Infinity,Inf,-NaN]}', {"x": ([5], [NAN, INF, -INF, INF, NAN])}),
        (X, '{"instances":[1435774380]}', {"x": ([1], [1435774336])}),
        (X, '{"instances":[1e300,-1e300,1e-300,-0,-0.0]}', {"x": ([5], [INF, -INF, 0.0, 0.0, -0.0])}),
        (X, '{"instances":[18446744073709551616]}', {"x": ([1], [2.0**64])}),
        (X, '{"instances":[[],[]]}', {"x": ([2, 0], [])}),
        (X, '{"instances":[[[]]]}', {"x": ([1, 1, 0], [])}),
        (X, '{"instances":[{"x":1},{"x":2}]}', {"x": ([2], [1, 2])}),
        (X, '{"instances":[1],"nested":' + "[" * 500_000 + "]" * 500_000 + "}", {"x": ([1], [1])}),
        (X, '{"instances":[1]} trailing garbage {', {"x": ([1], [1])}),
        (X, '\ufeff{"instances":[1]}', {"x": ([1], [1])}),
        (X, '{"instances":[1],"instances":[2]}', {"x": ([1], [1])}),
        (
            AB,
            '{"instances":[{"a":1,"b":"x"},{"a":2,"b":"y"}]}',
            {"a": ([2], [1, 2]), "b": ([2], [b"x", b"y"])},
        ),
        (
            ISFD,
            '{"instances":[{"i":[[1,2],[3,4],[5,6]],"s":["foo","bar"],"f":[1.0,NaN],"d":[NaN]},'
            '{"i":[[7,8],[9,0],[1,2]],"s":["baz","bat"],"f":[2.0,Infinity],"d":[2.0]}]}',
            {
                "i": ([2, 3, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]),
                "s": ([2, 2], [b"foo", b"bar", b"baz", b"bat"]),
                "f": ([2, 2], [1, NAN, 2, INF]),
                "d": ([2, 1], [NAN, 2]),
            },
        ),
        (X, '{"inputs":1.5}', {"x": ([], [1.5])}),
        (X, '{"inputs":[1.5,2]}', {"x": ([2], [1.5, 2])}),
        (X, '{"inputs":{"x":[1.5,2]}}', {"x": ([2], [1.5, 2])}),
        (I, '{"inputs":[[[1,2],[3,4],[5,6]]]}', {"x": ([1, 3, 2], [1, 2, 3, 4, 5, 6])}),
        (X, '{"inputs":{"x":1,"zzz":2}}', {"x": ([], [1])}),
        (X, '{"inputs":[]}', {"x": ([0], [])}),
        (AB, '{"inputs":{"a":[1,2,3],"b":"x"}}', {"a": ([3], [1, 2, 3]), "b": ([], [b"x"])}),
        (
            ISZ,
            '{"inputs":{"i":[[[1,2],[3,4],[5,6]]],"s":["foo","bar"],"z":{"b64":"aGVsbG8="}}}',
            {"i": ([1, 3, 2], [1, 2, 3, 4, 5, 6]), "s": ([2], [b"foo", b"bar"]), "z": ([], [b"hello"])},
        ),
        (I, '{"instances":[2147483647,-2147483648]}', {"x": ([2], [2147483647, -2147483648])}),
        (typed("uint8"), '{"instances":[255,256,300,-1]}', {"x": ([4], [255, 0, 44, 255])}),
        (typed("int8"), '{"instances":[127,128,-128,-129]}', {"x": ([4], [127, -128, -128, 127])}),
        (typed("int16"), '{"instances":[32768]}', {"x": ([1], [-32768])}),
        (typed("uint32"), '{"instances":[4294967295]}', {"x": ([1], [4294967295])}),
        (typed("uint64"), '{"instances":[18446744073709551615]}', {"x": ([1], [2**64 - 1])}),
        (typed("bool"), '{"instances":[true,false]}', {"x": ([2], [True, False])}),
        (typed("half"), '{"inputs":[[],[]]}', {"x": ([2, 0], [])}),
        (S, r'{"instances":["a","b\u00e9\n\u0000z"]}', {"s": ([2], [b"a", b"b\xc3\xa9\n\0z"])}),
        (S, '{"instances":[{"b64":"aGVsbG8="},{"b64":"d29ybGQ"}]}', {"s": ([2], [b"hello", b"world"])}),
        (
            S,
            '{"instances":[[{"b64":"aGVsbG8="}],[{"b64":"d29ybGQ="}]]}',
            {"s": ([2, 1], [b"hello", b"world"])},
        ),
        (
            S,
            '{"instances":[{"s":[[{"b64":"aGVsbG8="}],[{"b64":"d29ybGQ="}]]}]}',
            {"s": ([1, 2, 1], [b"hello", b"world"])},
        ),
        (S, '{"instances":[["a",{"b64":"Yg=="}]]}', {"s": ([1, 2], [b"a", b"b"])}),
        (S, '{"instances":[{"b64":"a GVs\\nbG8="}]}', {"s": ([1], [b"hello"])}),
        (S, '{"inputs":{"b64":"Yg=="}}', {"s": ([], [b"b"])}),
        (
            {"b64": DataType.DT_STRING, "i": DataType.DT_INT32},
            '{"instances":[{"b64":"Yg==","i":1}]}',
            {"b64": ([1], [b"Yg=="]), "i": ([1], [1])},
        ),
        (X, '{"instances":[{"x":1,"x":2}]}', {"x": ([1], [1])}),
        (X, '{"inputs":{"x":1,"x":2}}', {"x": ([], [1])}),
        (
            typed("double"),
            '{"inputs":[5e-324,-1e-310,2.2250738585072014e-308]}',
            {"x": ([3], [0.0, -0.0, 2.2250738585072014e-308])},
        ),
        (
            X,
            '{"inputs":[1e-38,-1e-45,1.17549435e-38,1e-37,-3.5e38]}',
            {"x": ([5], [0.0, -0.0, 1.17549435e-38, 1e-37, -INF])},
        ),
    ],
)
def test_values_become_the_tensors_that_are_fed(
    data_types: Mapping[str, int], body: str, expected: Expected
) -> None:
    arrays = {}
    for alias, (shape, values) in expected.items():
        dtype = element_type(data_types[alias]).numpy
        flat = np.empty(len(values), dtype)
        with np.errstate(over="ignore"):
            flat[:] = values
        arrays[alias] = flat.reshape(shape)
    assert seen(bind(body, data_types)) == seen(arrays)
    assert seen(bind_generally(body.encode(), data_types)) == seen(arrays)


def process(index: int, inner: str, key: str = "") -> str:
    place = f"{index} key: {key}" if key else str(index)
    return f"Failed to process element: {place} of 'instances' list. Error: INVALID_ARGUMENT: {inner}"


def not_of_type(value: str, kind: str, name: str) -> str:
    return f"JSON Value: {value} Type: {kind} is not of expected type: {name}"


SEVERAL = " as multiple input tensors required as per tensorinfo_map"
PLAIN_LIST = "instances is a plain list, but expecting list of objects" + SEVERAL
PLAIN_VALUE = "inputs is a plain value/list, but expecting an object" + SEVERAL
NO_INPUT = "JSON object: does not have named input: "


@pytest.mark.parametrize(
    ("data_types", "body", "error"),
    [
        (X, '{"instances":[]}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (
            X,
            '{"instances":5}',
            "JSON Value: {\n    \"instances\": 5\n} Expecting 'instances' to be an list/array",
        ),
        (X, '{"instances":[1.0,"a"]}', process(1, not_of_type('"a"', "String", "float"))),
        (X, '{"instances":[1.0,true]}', process(1, not_of_type("true", "True", "float"))),
        (X, '{"instances":[1.0,null]}', process(1, not_of_type("null", "Null", "float"))),
        (X, '{"instances":["NaN"]}', process(0, not_of_type('"NaN"', "String", "float"))),
        (X, '{"instances":[[1,2],[3]]}', process(1, "Expecting tensor size: 2 but got: 1")),
        (I, '{"instances":[[1,2],[3,4],[5,6,7]]}', process(2, "Expecting tensor size: 2 but got: 3")),
        (I, '{"instances":[[1,2],[3,4],[[5,6]]]}', process(2, "Expecting shape [2] but got: [1,2]")),
        (X, '{"instances":[1,[1]]}', process(1, "Expecting shape [] but got: [1]")),
        (X, '{"instances":[[1],1]}', process(1, "Expecting shape [1] but got: []")),
        (
            X,
            '{"instances":[[1,2],[3,[4]]]}',
            process(1, "Encountered list at unexpected level: 1 expected < 1"),
        ),
        (
            X,
            '{"instances":[[[1,2],[3]]]}',
            process(0, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ),
        (X, '{"instances":[{"x":1},{"x":[2]}]}', process(1, "Expecting shape [] but got: [1]", "x")),
        (X, '{"instances":[{"y":1}]}', process(0, NO_INPUT + "y", "y")),
        (X, '{"instances":[{"x":1,"y":2}]}', process(0, NO_INPUT + "y", "y")),
        (
            X,
            '{"instances":[{}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x",
        ),
        (X, '{"instances":[{"x":1},5]}', "Expecting object but got list at item 1 of input list"),
        (X, '{"instances":[5,{"x":1}]}', "Expecting value/list but got object at item 1 of input list"),
        (
            X,
            '{"instances":[{"b64":"aGVsbG8="}]}',
            process(0, not_of_type('{\n    "b64": "aGVsbG8="\n}', "Object", "float")),
        ),
        (AB, '{"instances":[1,2]}', PLAIN_LIST),
        (
            AB,
            '{"instances":[{"a":1}]}',
            "Failed to process element: 0 of 'instances' list."
            ' JSON object: {\n    "a": 1\n} keys must be equal to: a,b',
        ),
        (
            AB,
            '{"instances":[{"a":1,"b":"x"},{"a":2}]}',
            "Failed to process element: 1 of 'instances' list."
            ' JSON object: {\n    "a": 2\n} keys must be equal to: a,b',
        ),
        (AB, '{"instances":[{"a":"1","b":"x"}]}', process(0, not_of_type('"1"', "String", "float"), "a")),
        (X, '{"inputs":{"y":[1]}}', "Missing named input: x in 'inputs' object."),
        (X, '{"inputs":{}}', "Missing named input: x in 'inputs' object."),
        (AB, '{"inputs":{"a":[1,2,3]}}', "Missing named input: b in 'inputs' object."),
        (AB, '{"inputs":[1,2]}', PLAIN_VALUE),
        (X, '{"inputs":null}', not_of_type("null", "Null", "float")),
        (X, '{"inputs":[[1],[]]}', "Encountered list at unexpected size: 0 at level: 1 expected size: 1"),
        (
            X,
            '{"inputs":[[1],2]}',
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (X, '{"inputs":[1,[2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            X,
            '{"inputs":[1],"instances":[1]}',
            'JSON Value: {\n    "inputs": [1],\n    "instances": [1]\n} Not formatted correctly'
            " expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (X, '{"foo":1}', "Missing 'inputs' or 'instances' key"),
        (I, '{"instances":[2147483648]}', process(0, not_of_type("2147483648", "Number", "int32"))),
        (I, '{"instances":[1.0]}', process(0, not_of_type("1.0", "Number", "int32"))),
        (I, '{"instances":[1e3]}', process(0, not_of_type("1000.0", "Number", "int32"))),
        (typed("uint32"), '{"instances":[-1]}', process(0, not_of_type("-1", "Number", "uint32"))),
        (
            typed("uint32"),
            '{"instances":[4294967296]}',
            process(0, not_of_type("4294967296", "Number", "uint32")),
        ),
        (
            typed("int64"),
            '{"instances":[9223372036854775808]}',
            process(0, not_of_type("9223372036854775808", "Number", "int64")),
        ),
        (typed("bool"), '{"instances":[1]}', process(0, not_of_type("1", "Number", "bool"))),
        (
            typed("uint16"),
            '{"instances":[1]}',
            process(0, "").replace("INVALID_ARGUMENT", "UNIMPLEMENTED")
            + "Conversion of JSON Value: 1 to type: uint16",
        ),
        (S, '{"instances":[{"b64":"-_8="}]}', process(0, "Unable to base64 decode")),
        (S, '{"instances":[{"b64":"Yg="}]}', process(0, "Unable to base64 decode")),
        (S, '{"instances":[{"b64":5}]}', process(0, NO_INPUT + "b64", "b64")),
        (S, '{"instances":[{"b64":"Yg==","x":1}]}', process(0, NO_INPUT + "b64", "b64")),
        (
            S,
            '{"instances":[["a",{"foo":"Yg=="}]]}',
            process(0, 'JSON Value: {\n    "foo": "Yg=="\n} not formatted correctly for base64 data'),
        ),
        (S, '{"instances":[5]}', process(0, not_of_type("5", "Number", "string"))),
        (X, "[1,2]", "JSON Value: [1, 2] Is not object"),
        (X, '"abc"', 'JSON Value: "abc" Is not object'),
        (
            X,
            '{"signature_name":5,"instances":[1]}',
            'JSON Value: {\n    "signature_name": 5,\n    "instances": [1]\n} not formatted correctly.'
            " 'signature_name' key must be a string value.",
        ),
        (X, '{"inputs":' + "[" * 255 + "1" + "]" * 255 + "}", "tensor parsing error: x"),
        (X, '{"instances":' + "[" * 255 + "1" + "]" * 255 + "}", "tensor parsing error: x"),
        (X, '{"instances":[{"x":' + "[" * 254 + "1" + "]" * 254 + "}]}", "tensor parsing error: x"),
        (X, '{"instances":' + "[" * 200_000 + "]" * 200_000 + "}", "tensor parsing error: x"),
        (X, '{"inputs":{"x":' + "[" * 1_000_000 + "]" * 1_000_000 + "}}", "tensor parsing error: x"),
    ],
)
def test_a_body_that_does_not_fit_is_an_invalid_argument(
    data_types: Mapping[str, int], body: str, error: str
) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        bind(body, data_types)
    assert raised.value.message == error


def test_a_type_that_json_does_not_know_is_unimplemented_outside_rows() -> None:
    with pytest.raises(UnimplementedError, match=r"^Conversion of JSON Value: 1 to type: half$"):
        bind('{"inputs":[1]}', typed("half"))


def test_the_signature_is_named_or_not() -> None:
    assert parse_predict_body(b'{"inputs":1}').signature_name == ""
    assert parse_predict_body(b'{"signature_name":"a\\"b","inputs":1}').signature_name == 'a"b'


def test_rows_are_told_from_columns() -> None:
    assert parse_predict_body(b'{"instances":[1]}').is_row
    assert not parse_predict_body(b'{"inputs":[1]}').is_row


def test_a_body_can_be_bound_more_than_once() -> None:
    body = parse_predict_body(json.dumps({"inputs": [[0.5] * 1000, [1]]}).encode())
    with pytest.raises(InvalidArgumentError):
        body.bind(X)
    with pytest.raises(InvalidArgumentError, match="unexpected size: 1 at level: 1 expected size: 1000"):
        body.bind(X)


def test_254_dimensions_are_a_tensor() -> None:
    array = bind('{"inputs":' + "[" * 254 + "1,2" + "]" * 254 + "}", X)["x"]
    assert is_flat(array)
    assert array.shape == (1,) * 253 + (2,)
    assert array.ravel().tolist() == [1, 2]


def test_the_first_of_several_inputs_is_fed_where_the_first_row_is_a_b64_object() -> None:
    data_types = {"s": DataType.DT_STRING, "t": DataType.DT_STRING}
    assert seen(bind('{"instances":[{"b64":"Yg=="},"c"]}', data_types)) == {
        "s": ("object", (2,), "[b'b', b'c']")
    }


# --- the recorded answers -------------------------------------------------------------------------

IDENTITIES = ("coercion", "dtype_row", "dtype_columnar", "shapes", "row_kinds", "declared_rank", "strings")


def signatures(model: str) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    (path,) = sorted((GOLDEN / "models" / model).glob("*/saved_model.pb"))[:1]
    graph = messages.SavedModel.FromString(path.read_bytes()).meta_graphs[0]
    return {
        name: (
            {alias: tensor.dtype for alias, tensor in signature.inputs.items()},
            {alias: tensor.dtype for alias, tensor in signature.outputs.items()},
        )
        for name, signature in graph.signature_def.items()
    }


def recorded() -> list[Any]:
    known: dict[str, Any] = {}
    found = []
    for line in (GOLDEN / "rest.jsonl").read_text().splitlines():
        case = json.loads(line)
        target, answer = case["target"].split("/"), case["response"].get("body")
        if case["category"] not in (*IDENTITIES, "json", "multi") or not target[-1].endswith(":predict"):
            continue
        if case["response"].get("status") not in (200, 400, 501) or len(target) != 4:
            continue
        model = target[-1].partition(":")[0]
        known[model] = known.get(model) or signatures(model)
        body = (
            base64.b64decode(case["body"]["b64"]) if isinstance(case["body"], dict) else case["body"].encode()
        )
        text = base64.b64decode(answer["b64"]) if isinstance(answer, dict) else answer.encode()
        found.append(pytest.param(known[model], case["category"], body, text, id=case["id"]))
    return found


def comparable(value: Any) -> Any:
    """What is contractual: a float is a single, and which missing input is named is open."""
    if isinstance(value, float):
        return repr(np.float32(value)) if abs(value) < 1e38 else f"{value:.15g}"
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in sorted(value.items())}
    if isinstance(value, str):
        return re.sub(r"(?<=named input: )\w+(?= in 'inputs')|(?<=\d{15})\d+", "", value)
    return value


@pytest.mark.parametrize(("known", "category", "body", "answer"), recorded())
def test_bodies_are_read_as_recorded(known: Any, category: str, body: bytes, answer: bytes) -> None:
    expected = json.loads(answer.decode("utf-8", "surrogateescape"), strict=False)
    problem = ""
    try:
        parsed = parse_predict_body(body)
        inputs, outputs = known.get(parsed.signature_name or "serving_default", ({}, {}))
        if not inputs:
            pytest.skip("the signature is not there, or has no inputs")
        arrays = parsed.bind(inputs)
    except InserveError as error:
        problem = error.message
    if problem:
        assert comparable(problem) == comparable(expected["error"])
        return
    if "error" in expected:
        assert category == "multi"  # the error is that of the run
        assert re.match("Tensor name|.* is both fed|Must specify", expected["error"])
    elif category in IDENTITIES and list(inputs.values()) == list(outputs.values()) and len(inputs) == 1:
        if parsed.signature_name in ("upper", "b64"):
            return
        encoded = encode_predict_response(
            [(*outputs, *arrays.values())], list(outputs.values()), parsed.is_row
        )
        read = json.loads(encoded.decode("utf-8", "surrogateescape"), strict=False)
        assert comparable(read) == comparable(expected)


# --- fast and general way -------------------------------------------------------------------------

NUMBER = st.integers(-300, 300) | st.floats(allow_nan=False, allow_infinity=False)
ODD = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats()
TEXT = st.text(max_size=5) | st.builds(
    lambda raw: {"b64": base64.b64encode(raw).decode()}, st.binary(max_size=5)
)
LEAF: st.SearchStrategy[Any] = NUMBER | TEXT | ODD | st.just({"b64": "!"}) | st.just({})
KINDS = st.sampled_from(
    [
        DataType[f"DT_{name}"]
        for name in ("FLOAT", "DOUBLE", "INT32", "INT8", "UINT64", "BOOL", "STRING", "HALF")
    ]
)


def rectangular(leaf: Any, shape: list[int]) -> Any:
    strategy = leaf
    for size in reversed(shape):
        strategy = st.lists(strategy, min_size=size, max_size=size)
    return strategy


SHAPES = st.lists(st.integers(0, 3), max_size=3)
LEAVES = st.sampled_from([NUMBER, st.integers(-300, 300), st.booleans(), TEXT, LEAF])
TENSORS = st.tuples(LEAVES, SHAPES).flatmap(lambda drawn: rectangular(*drawn)) | st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3), max_leaves=8
)
MEMBERS = st.dictionaries(st.sampled_from(["x", "y", "b64"]), TENSORS, max_size=3)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "instances": st.lists(TENSORS, max_size=3) | st.lists(MEMBERS, max_size=3) | TENSORS,
        "inputs": TENSORS | MEMBERS,
        "signature_name": st.text(max_size=3),
    },
)


def written(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@settings(deadline=None, max_examples=400)
@given(document=BODIES, first=KINDS, second=KINDS, two=st.booleans())
def test_the_fast_way_gives_what_the_general_way_gives(
    document: Any, first: int, second: int, two: bool
) -> None:
    data_types = {"x": first, "y": second} if two else {"x": first}
    body = written(document)
    assert outcome(bind, body, data_types) == outcome(bind_generally, body, data_types)


@st.composite
def dense_lists(draw: Any) -> Any:
    """A list of numbers large enough for the dense way, perhaps with one thing wrong somewhere in it."""
    shape = draw(st.sampled_from([[300], [150, 2], [1, 150, 1], [2, 1, 80], [7, 7, 3, 1], [40, 3, 1]]))
    pick = draw(st.integers(0, 2**32))
    random = np.random.default_rng(pick)
    numbers = random.random(shape) * 10.0 ** random.integers(-45, 45)
    value: Any = (numbers if draw(st.booleans()) else random.integers(-100, 100, shape)).tolist()
    if draw(st.booleans()):
        spot, index = value, 0
        for _ in range(draw(st.integers(0, len(shape) - 1))):
            spot = spot[draw(st.integers(0, len(spot) - 1))]
        index = draw(st.integers(0, len(spot) - 1))
        wrong = draw(
            st.sampled_from(
                ["drop", "repeat", 5, 0.5, [], [1], None, True, "[,]", {"a": 1}, {"b64": "YQ=="}, 2**63]
            )
        )
        if wrong == "drop":
            del spot[index]
        elif wrong == "repeat":
            spot.insert(index, spot[index])
        else:
            spot[index] = wrong
    return value


@st.composite
def dense_bodies(draw: Any) -> Any:
    value, other = draw(dense_lists()), draw(dense_lists())
    document = draw(
        st.sampled_from(
            [
                {"instances": value},
                {"inputs": value},
                {"inputs": {"x": value, "y": other}},
                {"instances": [{"x": value, "y": 1}, {"x": value, "y": 2}]},
                {"instances": [{"x": value, "y": 1}, {"x": other, "y": 2}]},
                {"instances": [{"x": value}], "other": {"deep": [{"list": other}]}},
                {"signature_name": value, "instances": [1]},
                {"instances": value, "inputs": other},
            ]
        )
    )
    names = draw(st.sampled_from([{}, {"signature_name": "[a],{"}, {"signature_name": 'tab\tquote"'}]))
    return {**names, **document} if draw(st.booleans()) else {**document, **names}


@settings(deadline=None, max_examples=200)
@given(
    document=dense_bodies(),
    kind=KINDS,
    tail=st.sampled_from(["", " ", "}", '"instances":[1', "\n"]),
    compact=st.booleans(),
)
def test_the_dense_way_gives_what_the_general_way_gives(
    document: Any, kind: int, tail: str, compact: bool
) -> None:
    separators = (",", ":") if compact else (" ,\n ", ": ")
    body = (json.dumps(document, separators=separators) + tail).encode()
    for data_types in ({"x": kind}, {"x": kind, "y": DataType.DT_FLOAT}):
        assert outcome(bind, body, data_types) == outcome(bind_generally, body, data_types)


@pytest.mark.parametrize("shape", [(1, 28, 28, 1), (3, 500), (2000,), (1, 1, 800), (40, 4, 3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_arrive_as_they_were_sent(shape: tuple[int, ...], dtype: Any) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    body = orjson.dumps({"instances": values}, option=orjson.OPT_SERIALIZE_NUMPY)
    kind = DataType.DT_FLOAT if dtype is np.float32 else DataType.DT_DOUBLE
    assert seen(bind(body, {"x": kind})) == seen({"x": values})


@pytest.mark.parametrize(("row", "drop"), [(0, 1), (17, 27), (27, 0)])
def test_a_ragged_image_is_refused_with_its_place(row: int, drop: int) -> None:
    image = np.random.default_rng(1).random((28, 28, 1)).tolist()
    del image[row][drop]
    expected = 27 if row == 0 else 28
    found = 28 if row == 0 else 27
    message = f"Encountered list at unexpected size: {found} at level: 1 expected size: {expected}"
    with pytest.raises(InvalidArgumentError) as raised:
        bind(json.dumps({"instances": [image]}), X)
    assert raised.value.message == process(0, message)


@settings(deadline=None, max_examples=300)
@given(
    body=st.binary(max_size=40)
    | st.text(alphabet='[]{}",:\\ub64x1.e-N\n', max_size=40).map(
        lambda text: ('{"instances":' + text).encode()
    )
    | st.text(alphabet='[]{}",:\\ub64x1.e-N\n', max_size=40).map(
        lambda text: ('{"inputs":[[1],' + text + "]}").encode()
    ),
    kind=KINDS,
)
def test_any_bytes_are_bound_or_refused(body: bytes, kind: int) -> None:
    outcome(bind, body, {"x": kind})
    outcome(bind, b'{"y":[' + b"1.5," * 300 + b"1]," + body[1:], {"x": kind})


# --- bodies that came together --------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-(2**33), 2**33), st.floats(allow_nan=False, allow_infinity=False, width=32))
INSTANCES: st.SearchStrategy[list[Any]] = st.one_of(
    st.lists(NUMBERS, max_size=4),
    st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=4),
    st.lists(
        st.sampled_from(["a", "", {"b64": "YQ=="}, {"b64": "?"}, {"x": "a"}, True, None, []]), max_size=3
    ),
    st.integers(200, 600).map(lambda size: [[0.5, 1.5]] * size),
    st.integers(400, 800).map(lambda size: [7] * size),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(INSTANCES, min_size=2, max_size=4),
    st.sampled_from(["float", "double", "int32", "string", "bool"]),
)
def test_bodies_that_came_together_have_the_rows_that_each_has_alone(instances: list[Any], name: str) -> None:
    types = typed(name)
    bodies = [json.dumps({"instances": rows}).encode() for rows in instances]
    together = bind_rows_together(bodies, types)
    if together is None:
        return
    arrays, rows = together
    alone = [bind(body, types)["x"] for body in bodies]
    assert rows == [len(array) for array in alone]
    assert seen(arrays) == seen({"x": np.concatenate(alone)})


@pytest.mark.parametrize("instances", [[1.0, 2.0], [[1.0, 2.0]], [[0.5, 1.5]] * 400])
def test_bodies_of_one_kind_are_put_together(instances: list[Any]) -> None:
    body = json.dumps({"instances": instances}).encode()
    together = bind_rows_together([body, body, body], X)
    assert together is not None
    assert together[1] == [len(instances)] * 3


@pytest.mark.parametrize(
    ("other", "types"),
    [
        ('{"instances": [1.0], "signature_name": "s"}', X),
        ('{"inputs": [1.0]}', X),
        ('{"instances": []}', X),
        ('{"instances": 1.0}', X),
        ('{"instances": [[1.0]]}', X),
        ('{"instances": ["a"]}', X),
        ('{"instances": [{"x": 1.0}]}', X),
        ('{"instances": [1.0]', X),
        ("[1.0]", X),
        (json.dumps({"instances": [[1.0]] * 600}), X),
        ('{"instances": [1.0]}', AB),
    ],
)
def test_bodies_that_need_a_closer_look_are_not_put_together(other: str, types: Mapping[str, int]) -> None:
    assert bind_rows_together([b'{"instances": [1.0, 2.0]}', other.encode()], types) is None


def test_lists_of_unequal_rows_are_not_put_together() -> None:
    bodies = [json.dumps({"instances": [[0.5] * size] * 400}).encode() for size in (2, 3)]
    assert bind_rows_together(bodies, X) is None
