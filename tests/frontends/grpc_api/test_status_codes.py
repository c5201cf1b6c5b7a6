from __future__ import annotations

import grpc
import pytest

from inserve.errors import Code, InserveError, NotFoundError
from inserve.frontends.grpc_api.status_codes import GRPC_STATUS_BY_CODE, limited_message, status_of
from inserve.handlers.placement import WouldBlock


def test_every_canonical_code_has_the_grpc_status_of_its_name_and_number() -> None:
    for code in Code:
        assert GRPC_STATUS_BY_CODE[code].name == code.name
        assert GRPC_STATUS_BY_CODE[code].value[0] == code.value
    assert set(GRPC_STATUS_BY_CODE.values()) == set(grpc.StatusCode)


def test_a_text_of_1024_bytes_stays_whole() -> None:
    assert limited_message("é" * 512) == "é" * 512


def test_a_longer_text_is_cut_to_1024_bytes_and_marked() -> None:
    assert limited_message("a" * 1025) == "a" * 1024 + "...TRUNCATED"


def test_a_cut_inside_a_character_moves_back_to_its_start() -> None:
    assert limited_message("a" + "é" * 512) == "a" + "é" * 511 + "...TRUNCATED"
    assert limited_message("a" * 1022 + "€") == "a" * 1022 + "...TRUNCATED"


def test_a_lone_surrogate_becomes_an_escape() -> None:
    assert limited_message("file \udcff") == "file \\udcff"


def test_an_error_of_ours_keeps_its_code_and_text() -> None:
    assert status_of(NotFoundError("no model"), "/a/b") == (Code.NOT_FOUND, "no model")


def test_a_request_too_large_for_memory_is_resource_exhausted() -> None:
    assert status_of(MemoryError("1 TiB"), "/a/b") == (Code.RESOURCE_EXHAUSTED, "out of memory")


class _OkError(InserveError):
    code = Code.OK


@pytest.mark.parametrize("error", [KeyError("secret"), WouldBlock(), _OkError("secret"), SystemExit(3)])
def test_any_other_exception_is_internal_and_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert status_of(error, "/a/b") == (Code.INTERNAL, "internal error")
    assert "/a/b" in caplog.messages[0]
    assert caplog.records[0].exc_info is not None
