"""Hypothesis strategies for HTTP requests no client should send, and for some that one might.

They know the signatures of the models, so that a good part of what they make gets past the first checks.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from inserve.saved_model.signature import Signature, TensorSpec
from inserve.tensors.dtypes import DataType

__all__ = ["GOOD", "GOOD_CHUNKED", "GOOD_VALUE", "Ask", "Exchange", "binary_asks", "exchanges", "json_asks"]

GOOD = (
    b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: localhost\r\n"
    b'Content-Length: 20\r\n\r\n{"instances": [3.0]}'
)
GOOD_VALUE = {"predictions": [4.5]}
"""A request that is always right, and what is answered."""

GOOD_CHUNKED = (
    b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'b;a=b\r\n{"instances\r\n9\r\n": [3.0]}\r\n0\r\nTrailer: x\r\n\r\n'
)

Signatures = Mapping[str, Mapping[str, Signature]]


class Ask(NamedTuple):
    """A POST whose framing is right."""

    target: str
    body: bytes
    headers: dict[str, str]


class Exchange(NamedTuple):
    """What is sent on one connection: *num_good* requests that are answered, then what may be anything."""

    num_good: int
    pieces: list[bytes]
    end: str
    """How the client ends: ``finish`` writing and read on, ``close``, or ``reset``."""


_chances = {sides: st.integers(0, sides - 1).map((0).__eq__) for sides in (2, 4, 6, 10, 20, 40)}
"""Dice: one in so many comes out True, and so does the simplest example."""

# --- JSON -----------------------------------------------------------------------------------------


class Literal(str):
    """JSON text that stands for itself, however wrong."""


_LITERALS = [
    "1.0", "0", "-0", "-1", "1e400", "-1e400", "1e-400", "NaN", "-NaN", "Infinity", "-Infinity", "nan", "+1",
    "01", ".5", "1.", "1e", "0x10", "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808",
    "18446744073709551615", "18446744073709551616", "-9223372036854775809", "3.4028236e38", "1" * 400,
    "0." + "1" * 5000, "1e" + "9" * 300, "true", "false", "null", "tru", "", '""', '"a"', '"\\u0000"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\x"', '"\n"', '"\U0001f600"', "'a'", "{}", "[]", "[[]]", "[1,]",
    "{,}", '{"b64": ""}', '{"b64": "YQ=="}', '{"b64": "YQ"}', '{"b64": "*"}', '{"b64": 1}',
    '{"b64": "YQ==", "c": 1}', '{"b64": "YQ==", "b64": "Yg=="}', '{"a": 1, "a": 2}', "/* */1", "1 2",
    "[" * 70 + "]" * 70, "\ufeff1",
]  # fmt: skip
_literals = st.sampled_from(_LITERALS).map(Literal)
_keys = st.sampled_from(
    ["instances", "inputs", "signature_name", "examples", "context", "x", "", "b64", "\0", "Inputs"]
)
_sizes = st.sampled_from([1, 1, 1, 2, 2, 3, 0, 5])
_short_text = st.text(max_size=6)
_integers = st.integers(-3, 300)
_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _scalars(data_type: int) -> SearchStrategy[Any]:
    if data_type == DataType.DT_STRING:
        encoded = st.binary(max_size=6).map(lambda raw: {"b64": base64.b64encode(raw).decode()})
        return st.one_of(_short_text, encoded)
    if data_type == DataType.DT_BOOL:
        return st.booleans()
    if data_type in (DataType.DT_FLOAT, DataType.DT_DOUBLE):
        return st.one_of(_floats, _integers)
    return st.integers(0, 9)


@st.composite
def _nested(draw: st.DrawFn, leaf: SearchStrategy[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return draw(_literals) if draw(_chances[40]) else draw(leaf)
    size = shape[0]
    if draw(_chances[40]):
        size = draw(_sizes)
    return [draw(_nested(leaf, shape[1:])) for _ in range(size)]


@st.composite
def _tensors(draw: st.DrawFn, spec: TensorSpec, num_rows: int, is_row: bool) -> Any:
    shape = [num_rows if size is None else min(size, 4) for size in spec.shape or (None,)]
    if is_row:
        del shape[:1]
    change = draw(st.integers(-12, 2))
    if change == 0:
        shape.insert(0, draw(_sizes))
    elif change == 1 and shape:
        del shape[0]
    elif change == 2:
        return draw(_literals)
    return draw(_nested(_scalars(spec.data_type), tuple(shape)))


@st.composite
def _predict_bodies(draw: st.DrawFn, key: str, signature: Signature) -> Any:
    is_row = draw(_chances[2])
    num_rows = draw(_sizes)
    inputs = dict(signature.inputs)
    if draw(_chances[20]) and inputs:
        del inputs[draw(st.sampled_from(sorted(inputs)))]
    body: dict[Any, Any] = {"signature_name": key}
    if draw(_chances[20]):
        body["signature_name"] = draw(st.one_of(_short_text, _literals))
    is_bare = len(inputs) == 1 and draw(_chances[2])

    def values(of_row: bool) -> Any:
        made: dict[Any, Any] = {
            alias: draw(_tensors(spec, num_rows, of_row)) for alias, spec in inputs.items()
        }
        if draw(_chances[40]):
            made[draw(_keys)] = draw(_literals)
        return next(iter(made.values())) if is_bare and made else made

    body["instances" if is_row else "inputs"] = (
        [values(True) for _ in range(num_rows)] if is_row else values(False)
    )
    if draw(_chances[20]):
        body[draw(_keys)] = draw(_literals)
    return body


_feature_values = st.one_of(
    _short_text,
    _integers,
    _floats,
    st.just({"b64": "YQ=="}),
    _literals,
    st.lists(st.one_of(_integers, _floats), max_size=3),
    st.lists(_short_text, max_size=3),
    st.lists(_literals, max_size=2),
)


@st.composite
def _examples_bodies(draw: st.DrawFn, key: str) -> Any:
    features = st.dictionaries(st.sampled_from(["x", "y", "name", ""]), _feature_values, max_size=3)
    body: dict[Any, Any] = {"signature_name": key, "examples": draw(st.lists(features, max_size=4))}
    if draw(_chances[6]):
        body["context"] = draw(features)
    if draw(_chances[20]):
        body[draw(_keys)] = draw(_literals)
    return body


def _text(value: Any) -> str:
    """Return *value* as JSON, literals as they are."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        members = ", ".join(f"{json.dumps(key)}: {_text(item)}" for key, item in value.items())
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value)


_JUNK = [
    b"",
    b"\0",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"[",
    b"]",
    b"{",
    b'"',
    b",",
    b"\\",
    b"\xef\xbb\xbf",
    b" " * 300,
]
_junk = st.one_of(st.sampled_from(_JUNK), st.binary(max_size=4))


@st.composite
def _mutated(draw: st.DrawFn, valid: SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([1, 1, 2, 5, 40])))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            data[start:stop] = b""
        elif kind == 1:
            data[start:start] = draw(_junk)
        elif kind == 2:
            data[stop:stop] = data[start:stop]
        elif kind == 3:
            del data[start:]
        elif start < len(data):
            data[start] = data[start] ^ 1 << draw(st.integers(0, 7))
    return bytes(data)


@st.composite
def _places(draw: st.DrawFn, signatures: Signatures) -> tuple[str, str, Signature]:
    name = draw(st.sampled_from(sorted(signatures)))
    key = draw(st.sampled_from(sorted(signatures[name])))
    return name, key, signatures[name][key]


_TARGETS = [
    "/v1/models/{}:predict", "/v1/models/{}:predict", "/v1/models/{}:predict",
    "/v1/models/{}/versions/1:predict", "/v1/models/{}:classify", "/v1/models/{}:regress",
    "/v1/models/{}/versions/99:predict", "/v1/models/{}/labels/a:predict", "/v1/models/{}:Predict",
    "/v1/models/{}", "/v1/models/{}%00:predict",
]  # fmt: skip


@st.composite
def json_asks(draw: st.DrawFn, signatures: Signatures) -> Ask:
    """Return a POST whose body is JSON, or nearly so, or was."""
    name, key, signature = draw(_places(signatures))
    if draw(_chances[4]):
        verb = draw(st.sampled_from(["classify", "regress"]))
        target = f"/v1/models/{name}:{verb}"
        bodies = _examples_bodies(key)
    else:
        target = f"/v1/models/{name}:predict"
        bodies = _predict_bodies(key, signature)
    if draw(_chances[20]):
        target = draw(st.sampled_from(_TARGETS)).format(name)
    texts = bodies.map(_text).map(lambda text: text.encode("utf-8", "surrogatepass"))
    choice = draw(st.integers(-12, 4))
    if choice == 4:
        return Ask(target, draw(st.binary(max_size=60)), {})
    body = draw(_mutated(texts) if choice > 0 else texts)
    if draw(_chances[6]):
        return Ask(target, draw(_gzipped(body)), {"Content-Encoding": "gzip"})
    return Ask(target, body, {})


@st.composite
def _gzipped(draw: st.DrawFn, text: bytes) -> bytes:
    whole = gzip.compress(text, mtime=0)
    kind = draw(st.integers(-9, 4))
    if kind == 0:
        return draw(_mutated(st.just(whole)))
    if kind == 1:  # a size that is not so
        return whole[:-4] + draw(st.sampled_from([0, 1, 2**20, 100 << 20, 2**32 - 1])).to_bytes(4, "little")
    return whole if kind < 4 else whole + whole


# --- arrays and messages --------------------------------------------------------------------------

_NPY_TYPES = [
    "<f4", "<f4", "<f8", ">f4", "<f2", "|b1", "|i1", "<i2", "<i4", "<i8", "<u8", "<c8", "|S3", "<U3", "|V2",
    "<M8[s]", "|S0", "|V0", "<U0", "<f4,<f4",
]  # fmt: skip
_NPY_SHAPES = [(1,), (2,), (3,), (), (0,), (2, 3), (1, 2, 2), (1,) * 32, (0, 2**40)]
_NPY_HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
    b"{'descr': ('<f4', (2,)), 'fortran_order': True, 'shape': (1,), }",
    b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }",
    b"{'descr': '|S2147483647', 'fortran_order': False, 'shape': (0,), }", b"__import__('os')", b"(" * 200,
    b"{" * 200, b"[[" * 3000, b"9" * 9000, b"-" * 9000 + b"1", b"",
]  # fmt: skip


@st.composite
def _npy_files(draw: st.DrawFn) -> bytes:
    if draw(_chances[4]):
        header = draw(st.sampled_from(_NPY_HEADERS))
        version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\0\0"]))
        width = 2 if version == b"\1\0" else 4
        return (
            b"\x93NUMPY"
            + version
            + len(header).to_bytes(width, "little")
            + header
            + draw(st.binary(max_size=16))
        )
    stream = io.BytesIO()
    array: Any = np.zeros(draw(st.sampled_from(_NPY_SHAPES)), draw(st.sampled_from(_NPY_TYPES)))
    np.save(stream, array.T if draw(_chances[4]) else array, allow_pickle=False)
    return stream.getvalue()


@st.composite
def binary_asks(draw: st.DrawFn, signatures: Signatures, serialized: SearchStrategy[bytes]) -> Ask:
    """Return a POST of an array, or of a PredictRequest drawn from *serialized*."""
    name, key, _ = draw(_places(signatures))
    target = f"/v1/models/{name}:predict"
    if draw(_chances[2]):
        return Ask(target, draw(serialized), {"Content-Type": "application/x-protobuf"})
    files = _npy_files()
    body = draw(_mutated(files) if draw(_chances[4]) else files)
    headers = {"Content-Type": "application/x-npy"}
    if draw(_chances[2]):
        headers["Accept"] = "application/x-npy"
    if not draw(_chances[4]):
        target += "?signature_name=" + quote(key, safe="")
    return Ask(target, body, headers)


# --- framing --------------------------------------------------------------------------------------

_LINES = [
    b"POST /v1/models/half_plus_two:predict HTTP/1.1", b"POST /v1/models/half_plus_two:predict HTTP/1.0",
    b"GET /v1/models/half_plus_two HTTP/1.1", b"HEAD /v1/models/half_plus_two HTTP/1.1",
    b"OPTIONS /v1/models/half_plus_two HTTP/1.1", b"GET /v1/models/half_plus_two", b"GET  / HTTP/1.1",
    b"BREW / HTTP/1.1", b"get / HTTP/1.1", b"GET / HTTP/2.0", b"GET / HTTP/1.1.1", b"GET /\0 HTTP/1.1",
    b"GET * HTTP/1.1", b"CONNECT localhost:1 HTTP/1.1",
    b"GET http://localhost/v1/models/half_plus_two HTTP/1.1", b"PRI * HTTP/2.0", b"GET /%zz HTTP/1.1",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"",
]  # fmt: skip
_HEADERS = [
    b"Content-Length: 20", b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 1000",
    b"Content-Length: -1", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: 0x5",
    b"Content-Length: 9223372036854775807", b"Content-Length: 99999999999999999999",
    b"Content-Length: 999999999999999999", b"Content-Length:", b"Content-Length : 5", b"Content-Length: 5 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding:\x0bchunked", b"Expect: 100-continue",
    b"Expect: 200", b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: h2c",
    b"Upgrade: websocket", b"Host: ", b"Content-Encoding: gzip", b"Content-Type: application/x-npy",
    b" folded: 1", b"no colon", b": no name", b"a\0: 1", b"x: \xff\xfe", b"x: " + b"a" * 70_000,
    b"Cookie: a\r\nCookie: b", b"Origin: http://a",
]  # fmt: skip
_CHUNKS = [
    b"0\r\n\r\n", b"5\r\nhello\r\n", b'14\r\n{"instances": [3.0]}\r\n', b"14;ext=\"a\"\r\n",
    b"FFFFFFFFFFFFFFF\r\n", b"FFFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"0x5\r\n", b"5\nhello\n", b"5\r\nhello",
    b"5\r\nhellooo\r\n", b"\r\n", b" 5\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n" + b"T: t\r\n" * 4000 + b"\r\n",
    b"g\r\n", b"5;" + b"e" * 5000 + b"\r\nhello\r\n",
]  # fmt: skip
_TARGET_PARTS = [
    b"/v1", b"/models", b"/half_plus_two", b"/", b"//", b"..", b":predict", b":classify", b":", b"/versions",
    b"/labels", b"/1", b"/2", b"/9223372036854775807", b"/99999999999999999999", b"/-1", b"/stable",
    b"/metadata", b"/openapi.json", b"%2F", b"%00", b"%ff", b"%", b"?", b"?signature_name=a", b"#", b"@",
    b"\xc3\xa9", b"http://a", b"[", b"/V1/MODELS",
]  # fmt: skip
_targets = st.lists(st.sampled_from(_TARGET_PARTS), max_size=8).map(b"".join)
_known_targets = st.builds(b"/v1/models/half_plus_two%b".__mod__, _targets)
_methods = st.sampled_from([b"GET", b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE"])
_lines_of_targets = st.builds(
    b" ".join, st.tuples(_methods, st.one_of(_targets, _known_targets), st.just(b"HTTP/1.1"))
)
_bodies = st.one_of(
    st.just(b'{"instances": [3.0]}'),
    st.lists(st.sampled_from(_CHUNKS), max_size=6).map(b"".join),
    st.binary(max_size=40),
    st.just(GOOD),
    st.just(b""),
)
_good = st.sampled_from([GOOD, GOOD, GOOD_CHUNKED])


@st.composite
def _wild_requests(draw: st.DrawFn) -> bytes:
    if draw(_chances[4]):
        return draw(_mutated(_good))
    kind = draw(st.integers(0, 2))
    line = draw(st.sampled_from(_LINES[:3] if kind == 0 else _LINES) if kind < 2 else _lines_of_targets)
    headers = draw(st.lists(st.sampled_from(_HEADERS), max_size=4))
    end = b"\r\n" if not draw(_chances[20]) else b"\n"
    head = end.join([line, *headers, b"", b""])
    return head + draw(_bodies)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Return good requests, pipelined, and behind them some of any kind, cut into pieces anywhere."""
    good = draw(st.lists(_good, max_size=3))
    data = b"".join([*good, *draw(st.lists(_wild_requests(), max_size=3))])
    cuts = sorted({draw(st.integers(0, len(data))) for _ in range(draw(st.sampled_from([0, 0, 1, 3, 10])))})
    pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    end = draw(st.sampled_from(["finish", "finish", "finish", "close", "reset"]))
    return Exchange(len(good), pieces, end)
