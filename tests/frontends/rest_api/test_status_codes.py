from __future__ import annotations

import logging

import pytest

from inserve.errors import (
    Code,
    DeadlineExceededError,
    FailedPreconditionError,
    InserveError,
    NotFoundError,
    UnknownError,
)
from inserve.frontends.rest_api.status_codes import HTTP_STATUS_BY_CODE, code_and_message, reason_phrase

# The table of TensorFlow Serving, model_servers/http_rest_api_util.cc.
TABLE = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


def test_every_code_has_the_status_of_the_table() -> None:
    assert {code.name: status for code, status in HTTP_STATUS_BY_CODE.items()} == TABLE


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (200, "OK"),
        (400, "Bad Request"),
        (404, "Not Found"),
        (409, "Conflict"),
        (413, "Request Entity Too Large"),
        (429, "Client Error"),
        (499, "Client Error"),
        (500, "Internal Server Error"),
        (501, "Not Implemented"),
        (503, "Service Unavailable"),
        (504, "Gateway Time-out"),
    ],
)
def test_reason_phrases_are_those_of_libevent(status: int, phrase: str) -> None:
    assert reason_phrase(status) == phrase


def test_a_run_that_took_too_long_has_the_text_of_the_cpp_server() -> None:
    error = DeadlineExceededError("Deadline Exceeded")
    assert code_and_message(error, "t") == (Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def test_an_error_of_the_library_keeps_its_code_and_text() -> None:
    assert code_and_message(NotFoundError("no m"), "t") == (Code.NOT_FOUND, "no m")
    assert code_and_message(FailedPreconditionError("x" * 5000), "t")[1] == "x" * 5000


def test_the_bytes_of_a_text_that_is_no_utf8_survive() -> None:
    error = UnknownError("\xff")
    error.message_bytes = b"\xff"
    assert code_and_message(error, "t")[1].encode("utf-8", "surrogateescape") == b"\xff"


def test_a_defect_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "inserve.rest"):
        assert code_and_message(KeyError("secret"), "predict of m") == (Code.INTERNAL, "internal error")
    assert "predict of m" in caplog.text


def test_an_error_that_claims_ok_is_a_defect() -> None:
    error = InserveError("fine")
    error.code = Code.OK
    assert code_and_message(error, "t")[0] is Code.INTERNAL


def test_no_memory_is_no_defect() -> None:
    assert code_and_message(MemoryError(), "t") == (Code.RESOURCE_EXHAUSTED, "out of memory")
