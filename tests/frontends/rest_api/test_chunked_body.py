from __future__ import annotations

import pytest

from inserve.frontends.rest_api.chunked_body import ChunkedBody, MalformedChunkError, TooLargeError

WIRE = b"3\r\nabc\r\nA;name=value\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
CONTENT = b"abc0123456789"


def test_a_body_in_one_piece_is_joined_and_what_follows_is_returned() -> None:
    body = ChunkedBody(100)
    assert body.feed(WIRE + b"GET /") == b"GET /"
    assert body.content() == CONTENT


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_the_pieces_it_comes_in_make_no_difference(step: int) -> None:
    body = ChunkedBody(100)
    rest = None
    for start in range(0, len(WIRE), step):
        assert rest is None
        rest = body.feed(WIRE[start : start + step])
    assert rest == b""
    assert body.content() == CONTENT


def test_an_empty_body_ends_at_once() -> None:
    assert ChunkedBody(0).feed(b"0\r\n\r\nrest") == b"rest"


@pytest.mark.parametrize(
    "wire",
    [
        b"zz\r\n{}\r\n",
        b"-1\r\n\r\n",
        b"\r\n",
        b"0x3\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n\n",
        b"1000000000000000000\r\n",
        b"3" * 5000,
        b"0\r\n" + b"a: b\r\n" * 5000,
    ],
)
def test_what_is_not_in_chunks_is_malformed(wire: bytes) -> None:
    with pytest.raises(MalformedChunkError):
        ChunkedBody(10**9).feed(wire)


def test_a_chunk_is_refused_by_its_announced_size() -> None:
    with pytest.raises(TooLargeError):
        ChunkedBody(10).feed(b"B\r\n")


def test_many_small_chunks_are_counted_together() -> None:
    body = ChunkedBody(10)
    body.feed(b"5\r\naaaaa\r\n" * 2)
    with pytest.raises(TooLargeError):
        body.feed(b"1\r\na\r\n")


def test_what_has_come_is_known_before_the_end() -> None:
    body = ChunkedBody(100)
    body.feed(b"A\r\n0123")
    assert body.received_bytes() == 4
