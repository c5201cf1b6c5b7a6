"""Request bodies that come compressed.

Source: TensorFlow Serving, ``util/net_http/server/internal/evhttp_request.cc`` and
``compression/gzip_zlib.cc``: what cannot be decompressed is treated as an empty body.
"""

from __future__ import annotations

import zlib

__all__ = ["MAX_DECOMPRESSED_BYTES", "declared_bytes", "gunzip", "is_gzip"]

MAX_DECOMPRESSED_BYTES = 100 << 20
"""The largest size a gzip body may declare."""

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"
_TRAILER_BYTES = 8


def is_gzip(content_encoding: bytes) -> bool:
    """Return whether the value of a Content-Encoding header asks for ``gunzip``."""
    return b"gzip" in content_encoding


def gunzip(data: bytes) -> bytes:
    """Return the one gzip member that *data* is, decompressed; empty where it is anything else.

    Takes no more memory than the member declares, which is at most ``MAX_DECOMPRESSED_BYTES``.
    """
    declared = declared_bytes(data)
    if declared > MAX_DECOMPRESSED_BYTES:
        return b""
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    try:
        text = decompressor.decompress(data, declared + 1)
    except zlib.error:
        return b""
    return text if decompressor.eof and not decompressor.unused_data and len(text) == declared else b""


def declared_bytes(data: bytes) -> int:
    """Return the size that the trailer of a gzip member states, 0 where *data* is none."""
    is_member = data.startswith(_MAGIC) and len(data) >= _TRAILER_BYTES
    return int.from_bytes(data[-4:], "little") if is_member else 0
