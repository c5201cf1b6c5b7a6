from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from inserve.errors import (
    InvalidArgumentError,
    MissingExtraError,
    PermissionDeniedError,
    UnimplementedError,
    UnknownError,
)
from inserve.saved_model.meta_graph import parse_meta_graph
from inserve.saved_model.unnoticed_signatures import unnoticed_signatures
from inserve.tensorflow_c.interface import LoadedModel
from inserve.tensors.dtypes import DataType
from inserve.tflite.load_tflite import load_tflite, prefer_tflite
from inserve.tflite.tflite_session import LoadedTfliteModel

LoadModel = Callable[..., LoadedTfliteModel]


class LoadOther:
    """What opens SavedModels."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...], bytes]] = []
        self.model = cast(LoadedModel, object())

    def __call__(self, path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        self.calls.append((path, tuple(tags), config))
        return self.model


def test_a_folder_with_a_tflite_model_is_served_from_it(tflite_models: Path) -> None:
    other = LoadOther()
    model = prefer_tflite(other, 1)(str(tflite_models / "any_rows"), ("serve",), b"")
    runner = model.session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    assert runner.run([np.ones((1, 4), np.float32)])[0].tolist() == [[2.0] * 4]
    assert other.calls == []
    model.close()


def test_any_other_folder_is_opened_as_before(tmp_path: Path) -> None:
    other = LoadOther()
    assert prefer_tflite(other)(str(tmp_path), ("a",), b"config") is other.model
    assert other.calls == [(str(tmp_path), ("a",), b"config")]


def test_there_are_as_many_interpreters_as_asked_for_and_else_as_processors(tflite_models: Path) -> None:
    path = str(tflite_models / "any_rows" / "model.tflite")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for asked, made in ((3, 3), (0, 1), (None, processors)):
        model = load_tflite(path, asked)
        assert f"{made} of {made} idle" in repr(model.session)
        model.close()


@pytest.mark.parametrize(("name", "op"), [("custom_ops", "StringLength"), ("select_ops", "FlexStringLength")])
def test_operations_that_litert_lacks_are_unimplemented_and_named(
    load: LoadModel, name: str, op: str
) -> None:
    with pytest.raises(UnimplementedError) as raised:
        load(name)
    assert raised.value.message.startswith(
        f"the model needs operations that LiteRT does not have: {op}. Convert it with TFLITE_BUILTINS alone, "
        "or serve the SavedModel"
    )
    assert f"{name}{os.sep}model.tflite" in raised.value.message


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"x" * 100, b"\x1c\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + b"\xff" * 99]
)
def test_a_file_that_is_no_model_is_refused_in_the_words_of_tensorflow_serving(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(
        InvalidArgumentError, match=r"Cannot build FlatBufferModel from buffer\. .*model\.tflite"
    ):
        prefer_tflite(LoadOther())(str(tmp_path))


def test_a_file_cut_short_anywhere_is_refused(tflite_models: Path, tmp_path: Path) -> None:
    content = (tflite_models / "dense" / "model.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    for length in range(0, len(content) - 64, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InvalidArgumentError, match="Cannot build FlatBufferModel"):
            load_tflite(str(path), 1)


def test_a_file_that_changes_after_the_load_changes_nothing(tflite_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    shutil.copy(tflite_models / "dense" / "model.tflite", path)
    model = load_tflite(str(path), 2)
    with open(path, "r+b") as file:
        file.truncate(0)
    runner = model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
    assert runner.run([np.ones((1, 4), np.float32)])[0].tolist() == [4.0]
    model.close()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(UnknownError, match="cannot be read: Is a directory"):
        prefer_tflite(LoadOther())(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.touch(0)
    with pytest.raises(PermissionDeniedError, match="cannot be read: Permission denied"):
        prefer_tflite(LoadOther())(str(tmp_path))


def test_without_litert_the_error_names_the_extra(
    tflite_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inserve\[tflite\]'"):
        load_tflite(str(tflite_models / "dense" / "model.tflite"), 1)


def test_a_model_that_keeps_state_is_not_run_on_made_up_inputs(load: LoadModel) -> None:
    for name, expected in (("counter", []), ("dense", ["serving_default"])):
        meta_graph_def = load(name).meta_graph_def
        signatures = parse_meta_graph(meta_graph_def).signatures.values()
        unnoticed = unnoticed_signatures(meta_graph_def, signatures)
        assert [signature.key for signature in unnoticed] == expected
