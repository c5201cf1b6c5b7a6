from __future__ import annotations

import importlib
import struct
from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError
from inserve.tensors.dtypes import DataType
from inserve.tflite.tflite_file import TableSignature, TfliteFile, parse_tflite_file


def read(models: Path, name: str) -> TfliteFile:
    return parse_tflite_file((models / name / "model.tflite").read_bytes())


def test_inputs_and_outputs_are_read_with_type_and_shape(tflite_models: Path) -> None:
    (main,) = read(tflite_models, "image").subgraphs
    (image,) = (main.tensors[index] for index in main.inputs)
    assert image.name == "serving_default_image:0"
    assert image.data_type is DataType.DT_FLOAT
    assert image.shape == (-1, 8, 8, 2)


def test_a_dimension_of_fixed_size_stays_fixed(tflite_models: Path) -> None:
    (main,) = read(tflite_models, "no_signatures").subgraphs
    assert main.tensors[main.inputs[0]].shape == (1, 4)


def test_signatures_are_read_with_their_subgraph(tflite_models: Path) -> None:
    file = read(tflite_models, "two_signatures")
    by_key = {signature.key: signature for signature in file.signatures}
    assert sorted(by_key) == ["plus", "serving_default"]
    assert {signature.subgraph for signature in file.signatures} == {0, 1}
    plus = by_key["plus"]
    tensors = file.subgraphs[plus.subgraph].tensors
    assert {alias: tensors[index].name for alias, index in plus.inputs.items()} == {"x": "plus_x:0"}
    assert isinstance(plus, TableSignature)


def test_operations_that_are_not_tensorflow_lites_are_named(tflite_models: Path) -> None:
    assert read(tflite_models, "custom_ops").custom_operations == ("StringLength",)
    assert read(tflite_models, "select_ops").custom_operations == ("FlexStringLength",)
    assert read(tflite_models, "dense").custom_operations == ()


def test_a_variable_that_is_assigned_is_state(tflite_models: Path) -> None:
    assert any(subgraph.keeps_state for subgraph in read(tflite_models, "counter").subgraphs)
    assert not any(subgraph.keeps_state for subgraph in read(tflite_models, "dense").subgraphs)


@pytest.mark.parametrize("zero_point", [128, -129, 1 << 40, -(1 << 62)])
def test_a_zero_point_outside_of_its_type_is_refused(tflite_models: Path, zero_point: int) -> None:
    content = (tflite_models / "quantised" / "model.tflite").read_bytes()
    stated = struct.pack("<Iq", 1, output_zero_point(content))
    assert content.count(stated) >= 1
    with pytest.raises(InvalidArgumentError, match=f"has the zero point {zero_point}"):
        parse_tflite_file(content.replace(stated, struct.pack("<Iq", 1, zero_point)))


def output_zero_point(content: bytes) -> int:
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_content=content)
    zero_point: int = interpreter.get_output_details()[0]["quantization"][1]
    return zero_point
