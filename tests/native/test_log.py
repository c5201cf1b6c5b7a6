from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator

import pytest

from inserve.errors import NotFoundError
from inserve.tensorflow_c import log
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.load_saved_model import load_saved_model

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

LOAD = """
import logging, sys
from inserve.tensorflow_c import log
from inserve.tensorflow_c.load_saved_model import load_saved_model
"""


@pytest.fixture
def captured_again() -> Iterator[None]:
    yield
    log.enable_capture()


def test_a_line_of_tensorflow_becomes_a_record_with_its_place(
    caplog: pytest.LogCaptureFixture, half_plus_two_path: str
) -> None:
    caplog.set_level(logging.INFO, "inserve.tensorflow")
    load_saved_model(half_plus_two_path).close()
    (record,) = [record for record in caplog.records if record.message.startswith("Reading SavedModel from")]
    assert record.message == f"Reading SavedModel from: {half_plus_two_path}"
    assert (record.name, record.levelno, record.filename) == ("inserve.tensorflow", logging.INFO, "reader.cc")
    assert record.lineno > 0


def test_nothing_of_a_load_is_written_to_stderr_while_capturing(
    run_python: RunPython, half_plus_two_path: str
) -> None:
    program = (
        LOAD
        + """
logging.getLogger("inserve.tensorflow").addHandler(logging.NullHandler())
print("mine", file=sys.stderr)
load_saved_model(sys.argv[1])
"""
    )
    finished = run_python(program, half_plus_two_path)
    assert finished.returncode == 0
    assert finished.stderr == "mine\n"


def test_without_capture_the_lines_are_on_stderr_as_tensorflow_writes_them(
    run_python: RunPython, half_plus_two_path: str
) -> None:
    program = (
        LOAD
        + """
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
log.disable_capture()
load_saved_model(sys.argv[1])
print(log.is_capturing())
"""
    )
    finished = run_python(program, half_plus_two_path)
    assert finished.stdout == "False\n"
    assert "reader.cc" in finished.stderr


def test_tensorflows_own_level_variable_holds(run_python: RunPython, half_plus_two_path: str) -> None:
    program = (
        LOAD
        + """
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
load_saved_model(sys.argv[1])
"""
    )
    every = run_python(program, half_plus_two_path, TF_CPP_MIN_LOG_LEVEL="0")
    none = run_python(program, half_plus_two_path, TF_CPP_MIN_LOG_LEVEL="3")
    assert "INFO:inserve.tensorflow:Reading SavedModel" in every.stdout
    assert none.stdout == ""


def test_capture_can_be_switched_off_and_on(
    caplog: pytest.LogCaptureFixture, captured_again: None, half_plus_two_path: str
) -> None:
    caplog.set_level(logging.INFO, "inserve.tensorflow")
    load_library()
    log.disable_capture()
    log.disable_capture()
    load_saved_model(half_plus_two_path).close()
    assert not caplog.records
    log.enable_capture()
    log.enable_capture()
    load_saved_model(half_plus_two_path).close()
    readings = [record for record in caplog.records if record.message.startswith("Reading SavedModel from")]
    assert len(readings) == 1


class _Interrupting(logging.Handler):
    """Raises what a signal handler may raise at any moment on the main thread."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_interrupt_during_a_line_is_raised_when_the_load_returns(
    half_plus_two_path: str, error: BaseException
) -> None:
    handler = _Interrupting(error)
    level = log.LOGGER.level
    log.LOGGER.setLevel(logging.INFO)
    log.LOGGER.addHandler(handler)
    try:
        with pytest.raises(type(error)) as caught:
            load_saved_model(half_plus_two_path)
    finally:
        log.LOGGER.removeHandler(handler)
        log.LOGGER.setLevel(level)
    assert caught.value is error
    load_saved_model(half_plus_two_path).close()


def test_a_defect_in_a_handler_leaves_the_load_alone(run_python: RunPython, half_plus_two_path: str) -> None:
    program = (
        LOAD
        + """
class Defective(logging.Handler):
    def emit(self, record):
        raise RuntimeError("defect")
log.LOGGER.addHandler(Defective())
log.LOGGER.setLevel(logging.INFO)
print(len(load_saved_model(sys.argv[1]).meta_graph_def) > 0)
"""
    )
    finished = run_python(program, half_plus_two_path)
    assert (finished.returncode, finished.stdout) == (0, "True\n")
    assert "RuntimeError: defect" in finished.stderr


def test_a_library_without_the_known_abseil_keeps_its_stderr(run_python: RunPython) -> None:
    program = (
        LOAD
        + """
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
log.install(object())
print(log.is_capturing())
"""
    )
    finished = run_python(program)
    assert finished.stdout.startswith("DEBUG:inserve.tensorflow:TensorFlow's log lines stay on stderr: ")
    assert finished.stdout.endswith("\nFalse\n")


def test_an_entry_whose_parts_do_not_fit_together_is_not_read() -> None:
    ffi = load_library().ffi
    name = ffi.new("char[]", b"folder/file.cc")
    text = ffi.new("char[]", b"prefix] text\n")
    entry = ffi.new("LogEntry *")
    entry.full_filename = [14, int(ffi.cast("uintptr_t", name))]
    entry.base_filename = [7, int(ffi.cast("uintptr_t", name)) + 7]
    entry.text, entry.text_length, entry.prefix_length = text, 14, 8
    assert log.fits_together(entry)
    entry.full_filename = list(reversed(list(entry.full_filename)))
    assert log.fits_together(entry)
    for field, value in {"severity": 4, "text_length": 9, "text": ffi.NULL, "base_filename": [7, 0]}.items():
        kept = entry.base_filename[0:2] if field == "base_filename" else getattr(entry, field)
        setattr(entry, field, value)
        assert not log.fits_together(entry)
        setattr(entry, field, list(kept) if field == "base_filename" else kept)


def test_a_failed_load_is_an_error_and_a_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inserve.tensorflow")
    with pytest.raises(NotFoundError):
        load_saved_model("/nowhere")
    assert any("Status: fail: NOT_FOUND" in record.message for record in caplog.records)
