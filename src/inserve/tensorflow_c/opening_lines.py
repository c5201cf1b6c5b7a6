"""What TensorFlow prints while its library is being opened, before a log sink can exist.

Constructors of the library log to stderr. For the fraction of a second that opening it takes, the
process's stderr is a temporary file; TensorFlow's lines in it then go to the logger, and whatever
else was written there meanwhile, by other threads say, goes to stderr unchanged.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator

from inserve.tensorflow_c.log import handle_line

__all__ = ["collected_opening_lines", "divide"]

_STDERR = 2
_MAX_COLLECTED_BYTES = 1 << 20

# absl/log/internal/log_format.cc: severity, month and day, time, thread, file and line.
_LINE = re.compile(rb"([IWEF])\d{4} [0-9:.]+ +\d+ ([^\s:\]]+):(\d+)\] (.*)")
_NOTICE = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"


@contextlib.contextmanager
def collected_opening_lines() -> Iterator[None]:
    """Hand TensorFlow's lines of this block to ``inserve.tensorflow``, also where it raises.

    Does nothing where stderr is closed or no temporary file can be had. One thread at a time.
    """
    with contextlib.ExitStack() as undo:
        try:
            collected = undo.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(_STDERR)
            undo.callback(os.close, stderr)
            _flush_python_stderr()
            os.dup2(collected.fileno(), _STDERR)
        except OSError:
            yield
            return
        try:
            yield
        finally:
            _flush_python_stderr()
            os.dup2(stderr, _STDERR)
            collected.seek(0)
            lines, rest = divide(collected.read(_MAX_COLLECTED_BYTES))
            rest += collected.read()
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[os.write(_STDERR, rest) :]
            for severity, file_name, line, text in lines:
                if severity >= _least_severity():
                    try:
                        handle_line(severity, file_name, line, text)
                    except Exception:  # a defect of a handler must not fail the load
                        traceback.print_exc()


def divide(printed: bytes) -> tuple[list[tuple[int, str, int, str]], bytes]:
    """Return TensorFlow's lines, as severity 0 to 3, file, line number and text, and all other bytes.

    The notice that lines go to stderr, which is not so, is in neither.
    """
    lines = []
    rest = []
    for line in printed.splitlines(keepends=True):
        bare = line.rstrip(b"\r\n")
        match = _LINE.fullmatch(bare)
        if match is not None:
            lines.append(
                (
                    b"IWEF".index(match[1]),
                    match[2].decode("utf-8", "replace"),
                    int(match[3]),
                    match[4].decode("utf-8", "replace"),
                )
            )
        elif bare != _NOTICE:
            rest.append(line)
    return lines, b"".join(rest)


def _least_severity() -> int:
    """Return ``TF_CPP_MIN_LOG_LEVEL``, which TensorFlow itself has not read when these lines are made."""
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "")
    return int(level) if level.isascii() and level.isdigit() else 0


def _flush_python_stderr() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
