from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from inserve.errors import FailedPreconditionError, MissingExtraError
from inserve.tensorflow_c.library import check_version, find_library, load_library

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_library_is_opened_once_whoever_asks() -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = set(map(id, threads.map(lambda _: load_library(), range(8))))
    assert len(opened) == 1
    assert load_library().version == metadata.version("tensorflow")


def test_importing_every_module_opens_nothing_and_parses_no_c(run_python: RunPython) -> None:
    program = """
import sys
from inserve.tensorflow_c import custom_ops, devices, load_saved_model, session
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
print("libtensorflow" in maps, "tensorflow" in sys.modules, "cffi" in sys.modules, "pycparser" in sys.modules)
"""
    assert run_python(program).stdout.split() == ["False"] * 4


def test_loading_a_model_does_not_import_tensorflow(run_python: RunPython, half_plus_two_path: str) -> None:
    program = """
import sys
from inserve.tensorflow_c.load_saved_model import load_saved_model
load_saved_model(sys.argv[1])
print("tensorflow" in sys.modules)
"""
    assert run_python(program, half_plus_two_path).stdout == "False\n"


@pytest.mark.parametrize("first", ["tensorflow", "inserve"])
def test_a_process_may_import_tensorflow_before_and_after(
    run_python: RunPython, half_plus_two_path: str, first: str
) -> None:
    program = """
import sys
import numpy as np
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType
def ours():
    runner = load_saved_model(sys.argv[1]).session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
    return runner.run([np.array([2], np.float32)])[0]
def theirs():
    import tensorflow as tf
    return tf.saved_model.load(sys.argv[1]).signatures["serving_default"](x=tf.constant([2.0]))["y"].numpy()
calls = [theirs, ours, theirs] if sys.argv[2] == "tensorflow" else [ours, theirs, ours]
print([float(call()[0]) for call in calls])
"""
    finished = run_python(program, half_plus_two_path, first)
    assert (finished.returncode, finished.stdout) == (0, "[3.0, 3.0, 3.0]\n")


@pytest.mark.parametrize("module", ["hashlib", "ssl", "sqlite3", "urllib.request"])
def test_a_module_with_a_c_library_that_tensorflow_carries_too_works_afterwards(
    run_python: RunPython, half_plus_two_path: str, module: str
) -> None:
    program = """
import importlib, sys
from inserve.tensorflow_c.load_saved_model import load_saved_model
load_saved_model(sys.argv[1])
module = importlib.import_module(sys.argv[2])
assert module.sha256(b"").hexdigest().startswith("e3b0c442") if sys.argv[2] == "hashlib" else True
assert module.create_default_context() if sys.argv[2] == "ssl" else True
assert module.connect(":memory:").execute("select 1").fetchone() if sys.argv[2] == "sqlite3" else True
"""
    finished = run_python(program, half_plus_two_path, module)
    assert finished.returncode == 0, finished.stderr


def test_without_tensorflow_the_error_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        find_library()
    for extra in ("inserve[cpu]", "inserve[tensorflow]", "inserve[gpu]"):
        assert extra in caught.value.message


def test_a_tensorflow_without_its_libraries_is_named_with_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = types.ModuleType("tensorflow")
    module.__spec__ = ModuleSpec("tensorflow", None, is_package=True)
    module.__spec__.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    with pytest.raises(FailedPreconditionError) as caught:
        find_library()
    assert f"the TensorFlow installed in {tmp_path} has no libtensorflow_framework" in caught.value.message


@pytest.mark.parametrize("version", ["2.20.0", "2.21.0", "2.21.0-rc1", "3.0.0"])
def test_a_supported_version_is_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["2.19.1", "1.15.5", "2.9.0", "unknown", ""])
def test_an_older_version_is_refused_with_what_is_expected(version: str) -> None:
    with pytest.raises(
        FailedPreconditionError, match=rf"TensorFlow {version} is installed, expected 2\.20 or newer"
    ):
        check_version(version)
