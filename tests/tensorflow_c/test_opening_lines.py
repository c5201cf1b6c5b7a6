from __future__ import annotations

import logging
import os

import pytest

from inserve.tensorflow_c.opening_lines import collected_opening_lines, divide

LINE = b"I0000 00:00:1795394616.845363   11161 cudart_stub.cc:31] Could not find cuda drivers\n"


def test_tensorflows_lines_are_told_from_all_others() -> None:
    notice = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    lines, rest = divide(notice + b"mine\n" + LINE + b"\xff no newline")
    assert lines == [(0, "cudart_stub.cc", 31, "Could not find cuda drivers")]
    assert rest == b"mine\n\xff no newline"


def test_lines_of_the_block_become_records_and_the_rest_stays_on_stderr(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "inserve.tensorflow")
    with collected_opening_lines():
        os.write(2, b"mine\n" + LINE)
    assert capfd.readouterr().err == "mine\n"
    assert [(r.levelname, r.filename, r.lineno, r.getMessage()) for r in caplog.records] == [
        ("INFO", "cudart_stub.cc", 31, "Could not find cuda drivers")
    ]


def test_stderr_is_back_where_the_block_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="no such library"), collected_opening_lines():
        raise OSError("no such library")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
