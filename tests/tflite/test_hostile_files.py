"""Files that are damaged or made up: an error each, as far as it can be seen before LiteRT sees them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inserve.errors import AlreadyExistsError, InternalError, InvalidArgumentError
from inserve.tflite.signature_defs import make_meta_graph_def, name_endpoints
from inserve.tflite.tflite_file import parse_tflite_file

Changes = list[tuple[float, bytes]]

changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4
)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@pytest.mark.parametrize("name", ["dense", "two_signatures", "metadata"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=changes, cut=st.floats(0, 2))
def test_a_changed_file_is_read_or_refused(
    tflite_models: Path, name: str, changes: Changes, cut: float
) -> None:
    data = bytearray((tflite_models / name / "model.tflite").read_bytes())
    for place, octets in changes:
        start = int(place * len(data))
        data[start : start + len(octets)] = octets[: len(data) - start]
    content = bytes(data[: int(cut * len(data))])
    with contextlib.suppress(InvalidArgumentError, InternalError, AlreadyExistsError):
        file = parse_tflite_file(content)
        make_meta_graph_def(file, name_endpoints(file))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["dense", "image", "quantised", "two_signatures", "counter"])
def test_hardly_any_changed_file_ends_the_process(tflite_models: Path, name: str) -> None:
    """LiteRT trusts the options of operations; at most one file in a hundred may end it."""
    child = Path(__file__).with_name("hostile_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tflite_models / name / "model.tflite"), "1", "1000"],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    served, refused, ended = map(int, done.stdout.split())
    assert served > 0
    assert refused > 0
    assert ended <= 10
