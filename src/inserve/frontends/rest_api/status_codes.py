"""Canonical codes and HTTP's; what an exception becomes in an answer.

Source: TensorFlow Serving, ``model_servers/http_rest_api_util.cc``, for the codes. The reason phrases are
libevent's, which the C++ server answers with.
"""

from __future__ import annotations

import http
import logging

from inserve.errors import Code, InserveError

__all__ = ["HTTP_STATUS_BY_CODE", "code_and_message", "reason_phrase"]

HTTP_STATUS_BY_CODE: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_TIMED_OUT = "Timed out waiting for notification"
"""What the C++ server says of every run that takes longer than ``--rest_api_timeout_in_ms``."""

_PHRASES = {
    408: "Request Timeout",
    413: "Request Entity Too Large",
    429: "Client Error",
    431: "Client Error",
    499: "Client Error",
    504: "Gateway Time-out",
}

_LOGGER = logging.getLogger("inserve.rest")


def reason_phrase(status: int) -> str:
    """Return the text that follows *status* in a status line."""
    return _PHRASES.get(status) or http.HTTPStatus(status).phrase


def code_and_message(error: BaseException, target: str) -> tuple[Code, str]:
    """Return the code and text that the caller of *target* gets for *error*.

    A request too large for the memory there is gets RESOURCE_EXHAUSTED. Anything else but an
    ``InserveError`` with a failure code is a defect: its traceback is logged under ``inserve.rest`` and the
    caller learns only ``internal error``. ``message_bytes`` of an error, where it has them, are the bytes
    that its text was made of; those that are no UTF-8 come out as surrogate escapes.
    """
    if isinstance(error, InserveError) and error.code is not Code.OK:
        if error.code is Code.DEADLINE_EXCEEDED:
            return error.code, _TIMED_OUT
        raw: bytes | None = getattr(error, "message_bytes", None)
        return error.code, error.message if raw is None else raw.decode("utf-8", "surrogateescape")
    if isinstance(error, MemoryError):
        _LOGGER.warning("Out of memory in %s", target)
        return Code.RESOURCE_EXHAUSTED, "out of memory"
    _LOGGER.error("Unexpected %s in %s", type(error).__name__, target, exc_info=error)
    return Code.INTERNAL, "internal error"
