"""Request line and headers: from their bytes to what a server has to know of them.

llhttp (through httptools) reads the headers, strictly: no folded lines, no blank before a colon, no two
lengths. The request line is read here, by the rules of libevent, which the C++ server follows: what it
refuses gets one of its HTML pages.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

from inserve.errors import Code
from inserve.frontends.rest_api.response import Response, html_page

__all__ = ["METHODS", "BadRequestError", "RequestHead", "parse_head"]

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"})
"""Every other method, also one of these in lower case, is answered with 501."""

_VERSION = re.compile(rb"HTTP/([01])\.([0-9])")
_LONGEST_LENGTH = 18
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_BAD_TARGET_BYTE = re.compile(rb"[\x00-\x20\x7f-\xff]")


class BadRequestError(Exception):
    """The head is malformed; *response* says so. The connection cannot be used any further."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class RequestHead(NamedTuple):
    """What a request says before its body. Header values are those of the first header of a name."""

    method: str
    target: bytes
    content_length: int
    is_chunked: bool
    keep_alive: bool
    is_http_1_0: bool
    expects_continue: bool
    content_type: bytes
    content_encoding: bytes
    accept: bytes
    origin: bytes


class _Headers:
    """Collects headers for llhttp; names in lower case."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"transfer-encoding" and name in self.fields:
            value = self.fields.pop(name) + b"," + value
        self.fields.setdefault(name, value)


def parse_head(head: bytes) -> RequestHead:
    """Return what *head* says, all bytes of a request up to and with its empty line.

    Raises:
        BadRequestError: It is no request, or one that this server does not take.
    """
    line, _, rest = head.partition(b"\r\n")
    method, target, version = _request_line(line)
    collected = _Headers()
    parser = httptools.HttpRequestParser(collected)
    # The target has been read; an upgrade, which nobody here wants, would hide the body from llhttp.
    try:
        parser.feed_data(method + b" / HTTP/" + version + b"\r\n" + _UPGRADE.sub(b"", b"\r\n" + rest)[2:])
    except httptools.HttpParserError:
        raise BadRequestError(html_page(400, Code.INVALID_ARGUMENT)) from None
    fields = collected.fields
    encoding = fields.get(b"transfer-encoding")
    if encoding is not None and encoding.lower() != b"chunked":
        raise BadRequestError(html_page(501, Code.UNIMPLEMENTED))
    length = fields.get(b"content-length", b"0")
    if len(length) > _LONGEST_LENGTH:
        raise BadRequestError(html_page(400, Code.INVALID_ARGUMENT))
    connection = fields.get(b"connection", b"").lower()
    is_http_1_0 = version in (b"1.0", b"0.9")
    return RequestHead(
        method.decode("ascii"),
        target,
        int(length),
        encoding is not None,
        b"keep-alive" in connection if is_http_1_0 else b"close" not in connection,
        is_http_1_0,
        fields.get(b"expect", b"").lower() == b"100-continue",
        fields.get(b"content-type", b""),
        fields.get(b"content-encoding", b""),
        fields.get(b"accept", b""),
        fields.get(b"origin", b""),
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Return method, target and version.

    Raises:
        BadRequestError: There are not these three, each parted by one blank, or they are not known.
    """
    parts = line.split(b" ")
    if len(parts) != 3 or not (version := _VERSION.fullmatch(parts[2])) or not parts[1]:
        raise BadRequestError(html_page(400, Code.INVALID_ARGUMENT))
    if parts[0].decode("latin-1") not in METHODS:
        raise BadRequestError(html_page(501, Code.UNIMPLEMENTED))
    if _BAD_TARGET_BYTE.search(parts[1]):
        raise BadRequestError(html_page(400, Code.INVALID_ARGUMENT))
    return parts[0], parts[1], version[1] + b"." + version[2]
