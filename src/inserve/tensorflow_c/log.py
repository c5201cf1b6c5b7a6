"""TensorFlow's log lines, handed to the logger ``inserve.tensorflow``.

TensorFlow logs through abseil inside its own library and writes to stderr. Here a sink is
registered with that abseil and stderr is left to lines that end the process. A program that wants
the lines on stderr as TensorFlow writes them calls ``disable_capture()``, before or after the first
model is loaded. ``TF_CPP_MIN_LOG_LEVEL`` works as in TensorFlow: lines below it are never made.

A sink is a C++ object. It is built here from a table of C callbacks in the order of the virtual
functions of ``absl/log/log_sink.h`` (Itanium C++ ABI, used on Linux and macOS), and the entry it gets
is read by the layout of ``absl/log/log_entry.h``. Both belong to one abseil release, so the sink is
only registered when the functions of that very release, whose name is part of the symbol, are there;
and an entry is only read when its parts fit together.

Lines arrive on any thread, also on TensorFlow's own while it holds locks. A handler of the logger
must therefore not call TensorFlow. For what TensorFlow says while its library is being opened, before
a sink can be registered, see ``opening_lines``.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Any

from inserve.tensorflow_c.declarations import ffi

__all__ = [
    "LOGGER",
    "disable_capture",
    "enable_capture",
    "fits_together",
    "handle_line",
    "install",
    "is_capturing",
    "is_handling_line",
    "is_wanted",
    "pending_interrupts",
    "raise_interrupt",
]

LOGGER = logging.getLogger("inserve.tensorflow")

_ABSEIL = "_ZN4absl12lts_20250814"
"""Mangled start of the names of the one abseil release whose layouts are declared in ``absl_log.h``."""

_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_FATAL = 3
_MAX_TEXT = 1 << 20
_MAX_FILE_NAME = 1 << 12

pending_interrupts: list[BaseException] = []
"""What a signal handler raised while a line was handed over, to be raised by ``raise_interrupt``.

TensorFlow's frames cannot be unwound by a Python exception. Whoever calls TensorFlow on the main
thread looks here when the call returns, else Ctrl-C during a load would be lost.
"""

_lock = threading.Lock()
_wanted = True
_capture: _Capture | None = None
_framework: Any = None
_local = threading.local()


class _Capture:
    """A registered sink. The objects TensorFlow points to live as long as this one."""

    def __init__(self, framework: Any) -> None:
        self._add = getattr(framework, f"{_ABSEIL}12log_internal10AddLogSinkEPNS0_7LogSinkE")
        self._remove = getattr(framework, f"{_ABSEIL}12log_internal13RemoveLogSinkEPNS0_7LogSinkE")
        is_initialized = getattr(framework, f"{_ABSEIL}12log_internal13IsInitializedEv")
        set_initialized = getattr(framework, f"{_ABSEIL}12log_internal14SetInitializedEv")
        threshold = getattr(framework, f"{_ABSEIL}15StderrThresholdEv")
        self._set_threshold = getattr(framework, f"{_ABSEIL}18SetStderrThresholdENS0_18LogSeverityAtLeastE")
        do_nothing = ffi.callback("void(LogSink *)", lambda _: None)
        send = ffi.callback("void(LogSink *, const LogEntry *)", self._send)
        self._table = ffi.new("LogSinkTable *")
        self._table.complete_destructor = do_nothing
        self._table.deleting_destructor = do_nothing
        self._table.send = send
        self._table.flush = do_nothing
        self._table.key_function = do_nothing
        self._sink = ffi.new("LogSink *")
        self._sink.methods = ffi.addressof(self._table[0], "complete_destructor")
        self._callbacks = (do_nothing, send)
        self._threshold_before: int = threshold()
        self._unreadable = False
        if not is_initialized():
            # Until then abseil copies every line to stderr, whatever the threshold.
            set_initialized()
        self._set_threshold(_FATAL)
        self._add(self._sink)

    def close(self) -> None:
        """Unregister the sink; returns once no thread is in it."""
        self._remove(self._sink)
        self._set_threshold(self._threshold_before)

    def _send(self, _: Any, entry: Any) -> None:
        _local.handling = True
        try:
            if not fits_together(entry):
                self._refuse_entry()
                return
            level = logging.DEBUG if entry.verbose_level > 0 else _LEVELS[entry.severity]
            if LOGGER.isEnabledFor(level):
                address, length = _string_view(entry.full_filename)
                file_name = _decode(ffi.cast("char *", address), length)
                # A newline and a NUL end the text.
                text = _decode(entry.text + entry.prefix_length, entry.text_length - entry.prefix_length - 2)
                _log(level, file_name, entry.line, text)
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            pending_interrupts[:] = [error]
        finally:
            _local.handling = False

    def _refuse_entry(self) -> None:
        if not self._unreadable:
            self._unreadable = True
            self._set_threshold(self._threshold_before)
            LOGGER.warning("TensorFlow's log entries have an unknown layout; its lines stay on stderr")


def handle_line(severity: int, file_name: str, line: int, text: str) -> None:
    """Log one line of TensorFlow's; *severity* is 0 (info) to 3 (fatal)."""
    level = _LEVELS[severity]
    if LOGGER.isEnabledFor(level):
        _log(level, file_name, line, text)


def _log(level: int, file_name: str, line: int, text: str) -> None:
    LOGGER.handle(LOGGER.makeRecord(LOGGER.name, level, file_name, line, "%s", (text,), None))


def is_wanted() -> bool:
    """Return whether lines are to go to the logger, now or once the library is open."""
    return _wanted


def install(framework: Any) -> None:
    """Remember the open framework library and start capturing, unless capturing was disabled."""
    global _framework
    with _lock:
        _framework = framework
        _apply()


def enable_capture() -> None:
    """Hand TensorFlow's lines to the logger from now on; the default."""
    _set_wanted(True)


def disable_capture() -> None:
    """Let TensorFlow write its lines to stderr itself; before the first load, or at any time after.

    Returns once no line is being handed over, so a handler of the logger must not call it.
    """
    _set_wanted(False)


def is_capturing() -> bool:
    """Return whether lines go to the logger now; False before TensorFlow's library is open."""
    return _capture is not None


def is_handling_line() -> bool:
    """Return whether this thread is inside TensorFlow's logging, perhaps under TensorFlow's locks."""
    return getattr(_local, "handling", False)


def raise_interrupt() -> None:
    """Raise what a signal handler raised while a line was handed over, if anything."""
    try:
        interrupt = pending_interrupts.pop()
    except IndexError:
        return
    raise interrupt


def _set_wanted(wanted: bool) -> None:
    global _wanted
    with _lock:
        _wanted = wanted
        _apply()


def _apply() -> None:
    global _capture
    if _framework is None:
        return
    if not _wanted:
        capture, _capture = _capture, None
        if capture is not None:
            capture.close()
    elif _capture is None:
        try:
            _capture = _Capture(_framework)
        except (AttributeError, MemoryError) as error:
            LOGGER.debug("TensorFlow's log lines stay on stderr: %s", error)


def fits_together(entry: Any) -> bool:
    """Return whether the parts of *entry* agree, as they do in the layout that is declared.

    Nothing is followed here: only numbers and addresses are compared.
    """
    file_address, file_length = _string_view(entry.full_filename)
    base_address, base_length = _string_view(entry.base_filename)
    return (
        0 <= entry.severity < len(_LEVELS)
        and 0 < file_length < _MAX_FILE_NAME < file_address <= base_address
        and base_address + base_length == file_address + file_length
        and entry.line >= 0
        and entry.text != ffi.NULL
        and entry.prefix_length + 2 <= entry.text_length < _MAX_TEXT
    )


def _string_view(words: Any) -> tuple[int, int]:
    """Return address and length of a ``std::string_view``.

    libstdc++ puts the length first, libc++ the address; no address is as small as a length here.
    """
    return max(words[0], words[1]), min(words[0], words[1])


def _decode(text: Any, length: int) -> str:
    return bytes(ffi.buffer(text, length)).decode("utf-8", "replace")


def _renew_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_after_fork)
# A line that arrives while the interpreter ends would find no interpreter.
atexit.register(disable_capture)
