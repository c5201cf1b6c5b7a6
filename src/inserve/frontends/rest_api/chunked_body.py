"""Bodies of unknown length: ``Transfer-Encoding: chunked`` (RFC 9112, section 7.1)."""

from __future__ import annotations

import re

__all__ = ["ChunkedBody", "MalformedChunkError", "TooLargeError"]

_MAX_LINE_BYTES = 4096
_MAX_TRAILER_BYTES = 16 << 10

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class MalformedChunkError(Exception):
    """A chunk does not begin with its size in hexadecimal digits, or does not end with an empty line."""


class TooLargeError(Exception):
    """The body is longer than it may be."""


class ChunkedBody:
    """Takes a chunked body apart as it comes; used by one thread.

    At most *max_bytes* of content are kept. Trailer fields are skipped.
    """

    __slots__ = ("_content", "_data", "_is_last", "_max_bytes", "_missing", "_size", "_trailer_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._content = bytearray()
        self._size = 0
        self._missing = 0
        """Bytes of the current chunk, with the line end behind it, that have not come yet."""
        self._is_last = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take *data*; return what follows the body once it is complete, None before.

        Raises:
            MalformedChunkError: This is not a chunked body.
            TooLargeError: It has more than *max_bytes*.
        """
        buffer = self._data
        buffer += data
        while True:
            if self._missing:
                if not self._take_chunk():
                    return None
                continue
            end = buffer.find(b"\r\n")
            if end < 0 or end > _MAX_LINE_BYTES:
                if len(buffer) > _MAX_LINE_BYTES:
                    raise MalformedChunkError
                return None
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._is_last:
                if not line:
                    return bytes(buffer)
                self._trailer_bytes += len(line)
                if self._trailer_bytes > _MAX_TRAILER_BYTES:
                    raise MalformedChunkError
                continue
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise MalformedChunkError
            size = int(match[1], 16)
            self._is_last = not size
            self._size += size
            if self._size > self._max_bytes:
                raise TooLargeError
            self._missing = size + 2 if size else 0

    def content(self) -> bytes:
        """Return the body, once ``feed`` has found its end."""
        return bytes(self._content)

    def received_bytes(self) -> int:
        """Return how much of the body has come."""
        return len(self._content)

    def _take_chunk(self) -> bool:
        """Move what there is of the current chunk; return whether it has come to its end."""
        buffer, missing = self._data, self._missing
        wanted = missing - 2
        if wanted > 0:
            piece = buffer[:wanted]
            self._content += piece
            del buffer[: len(piece)]
            missing -= len(piece)
            self._missing = missing
            if missing > 2:
                return False
        if len(buffer) < missing:
            return False
        if buffer[:missing] != b"\r\n"[2 - missing :]:
            raise MalformedChunkError
        del buffer[:missing]
        self._missing = 0
        return True
