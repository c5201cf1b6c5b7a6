from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from inserve.frontends.rest_api.content_encoding import MAX_DECOMPRESSED_BYTES, gunzip, is_gzip

TEXT = b'{"instances":[1.0, 2.0]}'
WHOLE = gzip.compress(TEXT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"gzip", True), (b"x-gzip", True), (b"deflate, gzip", True), (b"GZIP", False), (b"br", False)],
)
def test_the_word_is_looked_for_as_it_is_written(value: bytes, expected: bool) -> None:
    assert is_gzip(value) is expected


def test_one_member_is_decompressed() -> None:
    assert gunzip(WHOLE) == TEXT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        TEXT,
        WHOLE[:-1],
        WHOLE[:-8] + bytes(4) + WHOLE[-4:],
        WHOLE[:-4] + (5).to_bytes(4, "little"),
        WHOLE + WHOLE,
        WHOLE + b"\0",
        zlib.compress(TEXT),
    ],
)
def test_anything_else_counts_as_empty(data: bytes) -> None:
    assert gunzip(data) == b""


def test_a_body_that_declares_more_than_the_limit_counts_as_empty() -> None:
    assert gunzip(WHOLE[:-4] + (MAX_DECOMPRESSED_BYTES + 1).to_bytes(4, "little")) == b""


def test_a_bomb_takes_no_more_memory_than_it_declares() -> None:
    bomb = gzip.compress(bytes(50 << 20))[:-4] + (1000).to_bytes(4, "little")
    tracemalloc.start()
    try:
        assert gunzip(bomb) == b""
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
