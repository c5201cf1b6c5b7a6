from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inserve.errors import InserveError, InvalidArgumentError, NotFoundError, UnimplementedError
from inserve.tensorflow_c.load_saved_model import LoadedSavedModel, load_saved_model
from inserve.tensors.dtypes import DataType

Load = Callable[[Path | str], LoadedSavedModel]

ONE_THREAD = b"\x10\x01\x28\x01"
"""``ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)``."""


def test_a_loaded_model_carries_its_meta_graph(load: Load, half_plus_two_path: str) -> None:
    model = load(half_plus_two_path)
    assert b"serving_default" in model.meta_graph_def
    assert repr(model) == f"<LoadedSavedModel <GraphSession {half_plus_two_path!r} [open]>>"


def test_a_config_is_taken(half_plus_two_path: str) -> None:
    model = load_saved_model(half_plus_two_path, config=ONE_THREAD)
    runner = model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
    assert runner.run([np.array([2], np.float32)])[0].tolist() == [3.0]
    model.close()


def test_a_config_that_is_no_message_is_refused(half_plus_two_path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Unparseable"):
        load_saved_model(half_plus_two_path, config=b"\xff")


@pytest.mark.parametrize("make", [True, False], ids=["an empty folder", "no folder"])
def test_a_folder_without_a_saved_model_is_not_found_in_the_words_of_serving(
    tmp_path: Path, make: bool
) -> None:
    path = tmp_path / "1"
    if make:
        path.mkdir()
    with pytest.raises(NotFoundError) as caught:
        load_saved_model(str(path))
    assert caught.value.message == (
        "Specified file path does not appear to contain a SavedModel bundle "
        f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
    )


def test_an_old_session_bundle_is_unimplemented(half_plus_two_path: str, tmp_path: Path) -> None:
    path = shutil.copytree(half_plus_two_path, tmp_path / "1")
    (path / "export.meta").touch()
    with pytest.raises(UnimplementedError) as caught:
        load_saved_model(str(path))
    assert caught.value.message == "Session Bundle is deprecated and removed."


def test_other_tags_than_those_of_the_model_are_not_found(half_plus_two_path: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_saved_model(half_plus_two_path, tags=("y", "x"))
    assert caught.value.message == (
        "Could not find meta graph def matching supplied tags: { x y }. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def test_a_damaged_file_is_an_error_and_the_next_model_loads(
    load: Load, half_plus_two_path: str, tmp_path: Path
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InserveError):
        load_saved_model(str(tmp_path))
    assert load(half_plus_two_path).meta_graph_def


@pytest.mark.parametrize(("path", "tags"), [("a\0b", ("serve",)), ("a", ("se\0rve",))])
def test_a_nul_character_is_a_value_error(path: str, tags: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no NUL characters"):
        load_saved_model(path, tags)


def test_a_path_may_hold_any_other_character(load: Load, half_plus_two_path: str, tmp_path: Path) -> None:
    path = shutil.copytree(half_plus_two_path, tmp_path / "b\u00fas %s \udcff")
    assert load(path).meta_graph_def


@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=pytest.mark.nightly)])
def test_loading_and_closing_leaves_no_memory_behind(
    half_plus_two_path: str, resident_bytes: Callable[[], int], times: int
) -> None:
    def load_run_close() -> None:
        model = load_saved_model(half_plus_two_path)
        runner = model.session.runner(
            [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]
        )
        runner.run([np.ones(4, np.float32)])
        model.close()

    for _ in range(times // 2):
        load_run_close()
    before = resident_bytes()
    for _ in range(times // 2):
        load_run_close()
    assert resident_bytes() - before < 24 << 20
