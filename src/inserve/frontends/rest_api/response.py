"""Answers: JSON, errors as JSON, and the HTML pages of the C++ server's HTTP library."""

from __future__ import annotations

from typing import NamedTuple

from inserve.errors import Code
from inserve.frontends.rest_api.status_codes import HTTP_STATUS_BY_CODE, reason_phrase

__all__ = [
    "CORS_HEADERS",
    "JSON_TYPE",
    "Response",
    "empty_response",
    "error_response",
    "html_page",
    "json_response",
    "json_text",
]

JSON_TYPE = b"application/json"
_HTML_TYPE = b"text/html"

CORS_HEADERS = (
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Methods", b"POST, GET"),
    (b"Access-Control-Allow-Headers", b"Content-Type"),
)

_ESCAPES = {
    **{number: f"\\u{number:04X}" for number in range(0x20)},
    **{ord(raw): "\\" + letter for raw, letter in zip('\b\f\n\r\t"\\', 'bfnrt"\\', strict=True)},
}


class Response(NamedTuple):
    """An answer without its framing: no Date, no Content-Length, nothing of the connection."""

    status: int
    content_type: bytes
    body: bytes
    code: Code = Code.OK
    """The canonical code that *status* stands for; metrics count by it."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Headers beside Content-Type."""


def json_response(body: bytes) -> Response:
    """Return *body*, which is JSON, with status 200."""
    return Response(200, JSON_TYPE, body)


def error_response(code: Code, message: str, status: int | None = None) -> Response:
    """Return the JSON object with the single key ``error``, laid out as the C++ server does.

    *status* is the one of *code* if None. Bytes that *message* carries as surrogate escapes, because
    they are no UTF-8, come out unchanged.
    """
    body = b'{\n    "error": ' + json_text(message) + b"\n}"
    return Response(HTTP_STATUS_BY_CODE[code] if status is None else status, JSON_TYPE, body, code)


def empty_response(status: int, content_type: bytes, code: Code = Code.OK) -> Response:
    """Return an answer that has no body."""
    return Response(status, content_type, b"", code)


def html_page(status: int, code: Code) -> Response:
    """Return the page that libevent writes for what does not reach the REST API."""
    phrase = reason_phrase(status)
    page = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    return Response(status, _HTML_TYPE, page.encode(), code)


def json_text(text: str) -> bytes:
    """Return *text* as a JSON string, quotes included, escaped as the C++ server does."""
    escaped = f'"{text.translate(_ESCAPES)}"'
    try:
        return escaped.encode()
    except UnicodeEncodeError:
        return b"".join(_encode_any(character) for character in escaped)


def _encode_any(character: str) -> bytes:
    """Encode one character; a surrogate is an escaped byte, else the three bytes it would have."""
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")
