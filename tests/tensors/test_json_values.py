from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inserve.errors import InvalidArgumentError
from inserve.tensors.json_document import load_document
from inserve.tensors.json_values import decode_b64_object, is_b64_object


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("aGVsbG8=", b"hello"),
        ("d29ybGQ", b"world"),
        ("a GVs\nbG\t8=\r", b"hello"),
        ("YQ =\v=\f", b"a"),
        ("YR==", b"a"),
        ("YQ..", b"a"),
        ("YQ=.", b"a"),
        ("YWI.", b"ab"),
        ("YWJj", b"abc"),
        ("", b""),
        (" ", b""),
        ("/////w==", b"\xff" * 4),
    ],
)
def test_base64_is_read_as_absl_reads_it(text: str, decoded: bytes) -> None:
    assert decode_b64_object({"b64": text}) == decoded


@pytest.mark.parametrize(
    "text",
    ["-_8=", "Yg=", "YQ===", "Y", "YWJjZ", "Y.g=", "====", "=", "YWJj=", "YQ==YQ==", "***", "é", "YQ\0=="],
)
def test_what_is_no_base64_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Unable to base64 decode$"):
        decode_b64_object({"b64": text})


@given(raw=st.binary(), padded=st.booleans())
def test_any_bytes_can_be_sent_as_base64(raw: bytes, padded: bool) -> None:
    text = base64.b64encode(raw).decode()
    assert decode_b64_object({"b64": text if padded else text.rstrip("=")}) == raw


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ('{"b64":""}', True),
        ('{"b64":5}', False),
        ('{"b64":null}', False),
        ('{"B64":""}', False),
        ('{"b64":"","x":1}', False),
        ('{"b64":"","b64":""}', False),
        ("{}", False),
        ('"b64"', False),
    ],
)
def test_a_b64_object_has_exactly_that_string(text: str, is_one: bool) -> None:
    assert is_b64_object(load_document(text.encode())) is is_one
