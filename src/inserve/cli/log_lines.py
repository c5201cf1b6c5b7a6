"""The log of the serving commands on stderr."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping

__all__ = ["LineFormatter", "level_of_environment", "log_to_stderr"]

_LETTERS = {"DEBUG": "I", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "F"}
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class LineFormatter(logging.Formatter):
    """Lines as TensorFlow's: letter of the level, month and day, time, thread, where from, then the text."""

    def format(self, record: logging.LogRecord) -> str:
        letter = _LETTERS.get(record.levelname, "I")
        when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        record.message = record.getMessage()
        text = super().formatMessage(record)
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        thread = threading.get_native_id()  # a line is formatted on the thread that logs it
        return f"{letter}{when}.{micros:06} {thread:7} {record.filename}:{record.lineno}] {text}"


def level_of_environment(environment: Mapping[str, str]) -> int:
    """Return the lowest level that ``TF_CPP_MIN_LOG_LEVEL`` lets through: 0 all, 1 no INFO, ..."""
    text = environment.get("TF_CPP_MIN_LOG_LEVEL", "0")
    number = int(text) if text.isascii() and text.isdigit() else 0
    return _LEVELS[min(number, len(_LEVELS) - 1)]


def log_to_stderr() -> None:
    """Write what the library logs to stderr, as far as ``TF_CPP_MIN_LOG_LEVEL`` allows."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=level_of_environment(os.environ), handlers=[handler])
