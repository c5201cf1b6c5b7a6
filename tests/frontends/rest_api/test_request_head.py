from __future__ import annotations

import pytest

from inserve.frontends.rest_api.request_head import BadRequestError, parse_head


def status_of(head: bytes) -> int:
    with pytest.raises(BadRequestError) as caught:
        parse_head(head)
    return caught.value.response.status


def test_what_a_server_has_to_know_is_read() -> None:
    head = parse_head(
        b"POST /v1/x?y HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH: 12\r\ncontent-type: a/b\r\n"
        b"Content-Encoding: gzip\r\nAccept: c/d\r\nOrigin: http://h\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert (head.method, head.target, head.content_length, head.is_chunked) == ("POST", b"/v1/x?y", 12, False)
    assert (head.keep_alive, head.is_http_1_0, head.expects_continue) == (True, False, True)
    assert (head.content_type, head.content_encoding) == (b"a/b", b"gzip")
    assert (head.accept, head.origin) == (b"c/d", b"http://h")


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: TE, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_a_connection_is_kept_by_the_rules_of_http(
    version: bytes, connection: bytes, keep_alive: bool
) -> None:
    assert parse_head(b"GET / HTTP/" + version + b"\r\n" + connection + b"\r\n").keep_alive is keep_alive


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/models/m",
        b"GET /v1/models/m  HTTP/1.1",
        b"GET  /v1/models/m HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /a HTTP/2.0",
        b"GET /a http/1.1",
        b"GET /a HTTP/1.1 ",
        b"GET /a\x01 HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"garbage",
        b"",
    ],
)
def test_a_line_that_is_no_request_line_is_a_bad_request(line: bytes) -> None:
    assert status_of(line + b"\r\n\r\n") == 400


@pytest.mark.parametrize("method", [b"get", b"post", b"FOO", b"TRACE", b"CONNECT", b"PROPFIND"])
def test_methods_that_nobody_answers_are_not_implemented(method: bytes) -> None:
    assert status_of(method + b" /v1/models/m HTTP/1.1\r\n\r\n") == 501


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: abc",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Content-Length: 99999999999999999999999",
        b"X : y",
        b"X: y\r\n z",
        b"X: y\nContent-Length: 5",
        b"X",
    ],
)
def test_headers_that_two_servers_may_read_differently_are_refused(header: bytes) -> None:
    assert status_of(b"POST /a HTTP/1.1\r\n" + header + b"\r\n\r\n") == 400


def test_an_encoding_of_the_transfer_that_is_unknown_is_not_implemented() -> None:
    assert status_of(b"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n") == 501


def test_a_wish_to_upgrade_is_ignored() -> None:
    head = parse_head(
        b"POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\n"
    )
    assert head.content_length == 2
