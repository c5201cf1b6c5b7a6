from __future__ import annotations

from pathlib import Path

import pytest

from inserve.tensorflow_c import declarations
from inserve.tensorflow_c.declarations import ffi

generate = pytest.importorskip("inserve.tensorflow_c.cdef.generate")


def test_the_generated_declarations_are_those_of_the_headers() -> None:
    assert Path(declarations.__file__).read_text(encoding="ascii") == generate.generated_source()


def test_a_log_entry_has_the_offsets_of_its_header() -> None:
    """``absl/log/log_entry.h`` on a 64-bit machine."""
    offsets = {name: field.offset for name, field in ffi.typeof("LogEntry").fields}
    assert (offsets["line"], offsets["severity"], offsets["text"], offsets["prefix_length"]) == (
        32,
        40,
        64,
        80,
    )
