from __future__ import annotations

import logging
import re

import pytest

from inserve.cli.log_lines import LineFormatter, level_of_environment


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (None, logging.INFO),
        ("0", logging.INFO),
        ("1", logging.WARNING),
        ("2", logging.ERROR),
        ("3", logging.CRITICAL),
        ("9", logging.CRITICAL),
        ("all", logging.INFO),
    ],
)
def test_the_environment_chooses_the_lowest_level(value: str | None, level: int) -> None:
    assert level_of_environment({} if value is None else {"TF_CPP_MIN_LOG_LEVEL": value}) == level


@pytest.mark.parametrize(
    ("level", "letter"),
    [(logging.INFO, "I"), (logging.WARNING, "W"), (logging.ERROR, "E"), (logging.CRITICAL, "F")],
)
def test_a_line_starts_with_the_letter_of_its_level_and_ends_with_the_text(level: int, letter: str) -> None:
    record = logging.LogRecord("inserve", level, "/x/file.py", 7, "model %s", ("m",), None)
    line = LineFormatter("%(message)s").format(record)
    assert re.fullmatch(rf"{letter}\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} +\d+ file\.py:7\] model m", line)


def test_a_traceback_follows_its_line() -> None:
    try:
        int("why")
    except ValueError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("inserve", logging.ERROR, "f.py", 1, "what", (), caught)
    lines = LineFormatter("%(message)s").format(record).splitlines()
    assert lines[0].endswith("] what")
    assert lines[-1].startswith("ValueError: ")
