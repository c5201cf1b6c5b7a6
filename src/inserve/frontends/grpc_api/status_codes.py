"""Canonical codes and gRPC's; the text limit; what an exception becomes on the wire."""

from __future__ import annotations

import logging

import grpc

from inserve.errors import Code, InserveError

__all__ = [
    "GRPC_STATUS_BY_CODE",
    "MAX_STATUS_MESSAGE_BYTES",
    "TRUNCATION_MARK",
    "limited_message",
    "status_of",
]

MAX_STATUS_MESSAGE_BYTES = 1024
"""Longest status text, in UTF-8 bytes, that is sent whole (TensorFlow Serving, ``util/status_util``)."""

TRUNCATION_MARK = "...TRUNCATED"

GRPC_STATUS_BY_CODE: dict[Code, grpc.StatusCode] = {
    Code(status.value[0]): status for status in grpc.StatusCode
}

_LOGGER = logging.getLogger("inserve.grpc")


def limited_message(message: str) -> str:
    """Return *message*, cut to 1024 UTF-8 bytes plus ``...TRUNCATED`` where it is longer.

    TensorFlow Serving cuts at the byte, also inside a character. Text cannot hold half a character, so
    the cut moves back to the start of that character; texts of ASCII come out identical. Lone surrogates,
    which no client could decode, become backslash escapes.
    """
    if len(message) <= MAX_STATUS_MESSAGE_BYTES // 4 and message.isascii():
        return message
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= MAX_STATUS_MESSAGE_BYTES:
        return encoded.decode("utf-8")
    return encoded[:MAX_STATUS_MESSAGE_BYTES].decode("utf-8", "ignore") + TRUNCATION_MARK


def status_of(error: BaseException, path: str) -> tuple[Code, str]:
    """Return the code and text that the caller of the method *path* gets for *error*.

    A request too large for the memory there is gets RESOURCE_EXHAUSTED. Anything else but an
    ``InserveError`` with a failure code is a defect: its traceback is logged under ``inserve.grpc`` and
    the caller learns only ``internal error``.
    """
    if isinstance(error, InserveError) and error.code is not Code.OK:
        return error.code, limited_message(error.message)
    if isinstance(error, MemoryError):
        _LOGGER.warning("Out of memory in %s", path)
        return Code.RESOURCE_EXHAUSTED, "out of memory"
    _LOGGER.error("Unexpected %s in %s", type(error).__name__, path, exc_info=error)
    return Code.INTERNAL, "internal error"
