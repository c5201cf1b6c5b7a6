from __future__ import annotations

import pytest

from inserve.errors import Code
from inserve.frontends.rest_api.response import error_response, html_page, json_text


def test_an_error_is_laid_out_as_the_cpp_server_does() -> None:
    response = error_response(Code.INVALID_ARGUMENT, "Malformed request: GET /v1/foo")
    assert response.status == 400
    assert response.content_type == b"application/json"
    assert response.body == b'{\n    "error": "Malformed request: GET /v1/foo"\n}'


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('a"b\\c', rb'"a\"b\\c"'),
        ("\b\f\n\r\t", rb'"\b\f\n\r\t"'),
        ("\0\x1f\x0b", rb'"\u0000\u001F\u000B"'),
        ("é/\x7f", b'"\xc3\xa9/\x7f"'),
        (b"a\xffb".decode("utf-8", "surrogateescape"), b'"a\xffb"'),
        ("\ud800", b'"\xed\xa0\x80"'),
    ],
)
def test_text_is_escaped_as_the_cpp_server_does(text: str, written: bytes) -> None:
    assert json_text(text) == written


def test_a_page_is_that_of_libevent() -> None:
    page = html_page(404, Code.NOT_FOUND)
    assert page.content_type == b"text/html"
    assert page.body == (
        b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
    )
