from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from inserve.errors import AlreadyExistsError, InternalError, InvalidArgumentError
from inserve.protos import messages
from inserve.tensors.dtypes import DataType
from inserve.tflite.signature_defs import find_endpoint, make_meta_graph_def, name_endpoints
from inserve.tflite.tflite_file import Subgraph, TableSignature, TfliteFile, TfliteTensor, parse_tflite_file

WARNING = "No signature def found in TFLite model. Generating one."


def tensor(name: str, shape: tuple[int, ...] = (-1, 4)) -> TfliteTensor:
    return TfliteTensor(name, DataType.DT_FLOAT, 0, shape)


def subgraph(inputs: Sequence[str], outputs: Sequence[str], keeps_state: bool = False) -> Subgraph:
    tensors = [tensor(name) for name in (*inputs, *outputs)]
    return Subgraph(tensors, tuple(range(len(inputs))), tuple(range(len(inputs), len(tensors))), keeps_state)


def file(*subgraphs: Subgraph, signatures: Sequence[TableSignature] = ()) -> TfliteFile:
    return TfliteFile(subgraphs, signatures, {}, ())


def meta_graph(model: TfliteFile) -> messages.MetaGraphDef:
    return messages.MetaGraphDef.FromString(make_meta_graph_def(model, name_endpoints(model)))


def read(models: Path, name: str) -> TfliteFile:
    return parse_tflite_file((models / name / "model.tflite").read_bytes())


def names(infos: object) -> dict[str, str]:
    return {alias: info.name for alias, info in infos.items()}  # type: ignore[attr-defined]


def test_a_model_without_signatures_gets_one_of_its_tensors_by_their_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "inserve.tflite"):
        proto = meta_graph(file(subgraph(["x:0", "y"], ["out:0"])))
    (key,) = proto.signature_def
    signature = proto.signature_def[key]
    assert (key, signature.method_name) == ("serving_default", "tensorflow/serving/predict")
    assert names(signature.inputs) == {"x": "x:0", "y": "y"}
    assert names(signature.outputs) == {"out": "out:0"}
    assert caplog.messages == [WARNING]


def test_dtype_and_shape_are_those_of_the_tensor() -> None:
    info = meta_graph(file(subgraph(["x"], ["y"]))).signature_def["serving_default"].inputs["x"]
    assert info.dtype == DataType.DT_FLOAT
    assert [dim.size for dim in info.tensor_shape.dim] == [-1, 4]


def test_of_names_that_differ_after_the_colon_the_last_one_is_short_as_in_tensorflow_serving() -> None:
    signature = meta_graph(file(subgraph(["x"], ["P:0", "P:1"]))).signature_def["serving_default"]
    assert names(signature.outputs) == {"P": "P:1", "P:0": "P:0"}


def test_a_table_of_signatures_counts_and_a_default_is_added_where_it_has_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = file(subgraph(["f_x:0"], ["P:0"]), signatures=[TableSignature("f", 0, {"x": 0}, {"y": 1})])
    with caplog.at_level(logging.WARNING, "inserve.tflite"):
        proto = meta_graph(model)
    assert names(proto.signature_def["f"].inputs) == {"x": "f_x:0"}
    assert names(proto.signature_def["f"].outputs) == {"y": "P:0"}
    assert names(proto.signature_def["serving_default"].inputs) == {"f_x": "f_x:0"}
    assert caplog.messages == []


def test_tensors_of_one_name_in_two_subgraphs_are_told_apart() -> None:
    model = file(
        subgraph(["x"], ["P:0"]),
        subgraph(["x"], ["P:0"]),
        signatures=[
            TableSignature("serving_default", 0, {"a": 0}, {"b": 1}),
            TableSignature("other", 1, {"a": 0}, {"b": 1}),
        ],
    )
    proto = meta_graph(model)
    assert names(proto.signature_def["serving_default"].outputs) == {"b": "P:0"}
    assert names(proto.signature_def["other"].inputs) == {"a": "x@1"}
    assert names(proto.signature_def["other"].outputs) == {"b": "P:0@1"}


def test_two_inputs_of_one_name_are_refused_in_the_words_of_tensorflow_serving() -> None:
    with pytest.raises(AlreadyExistsError, match="Input tensor name: x has multiple indices"):
        name_endpoints(file(subgraph(["x", "x"], ["y"])))


def test_a_tensor_of_a_type_without_arrays_is_refused() -> None:
    model = file(Subgraph([TfliteTensor("r", None, 13, ())], (0,), (), False))
    with pytest.raises(InternalError, match=r"Unknown TfLite type: 13 \(tensor r\)"):
        meta_graph(model)


def test_signatures_in_the_metadata_come_first_and_early_names_are_found(tflite_models: Path) -> None:
    proto = meta_graph(read(tflite_models, "metadata_of_two"))
    assert sorted(proto.signature_def) == ["again", "serving_default"]
    signature = proto.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/regress"
    assert names(signature.inputs) == {"a": "x"}
    assert names(signature.outputs) == {"a_very_long_name" * 9: "Identity"}


def test_a_signature_in_the_metadata_must_name_tensors_of_the_model(tflite_models: Path) -> None:
    with pytest.raises(InternalError) as raised:
        meta_graph(read(tflite_models, "unknown_tensor"))
    assert raised.value.message == ("Unknown tensor 'z:0'.\n\tSignature input a references an unknown tensor")


def test_metadata_that_holds_no_signature_is_refused(tflite_models: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Invalid SignatureDefs found in TfLite model: "):
        meta_graph(read(tflite_models, "no_signature_def"))


@pytest.mark.parametrize(
    "metadata", [b"", b"\x00", b"\x01\x02\x03", b"abc\x00\xff\xff\x01", b"\xff" * 64, b"%\t%%"]
)
def test_metadata_that_is_no_flexbuffer_is_refused(metadata: bytes) -> None:
    model = file(subgraph(["x"], ["y"]))._replace(metadata={"signature_defs_metadata": metadata})
    with pytest.raises(InvalidArgumentError, match="Invalid SignatureDefs"):
        meta_graph(model)


def test_outputs_that_depend_on_earlier_runs_have_a_node_that_says_so() -> None:
    nodes = meta_graph(file(subgraph(["x"], ["y:0"], keeps_state=True))).graph_def.node
    assert [(node.name, node.op) for node in nodes] == [("y", "StatefulTfliteSubgraph")]
    assert not meta_graph(file(subgraph(["x"], ["y:0"]))).graph_def.node


def test_a_name_is_found_with_and_without_its_index() -> None:
    inputs = name_endpoints(file(subgraph(["x", "z:0"], ["y"]))).inputs
    assert find_endpoint(inputs, "x:0") == "x"
    assert find_endpoint(inputs, "x") == "x"
    assert find_endpoint(inputs, "z:0") == "z:0"
    assert find_endpoint(inputs, "z") is None
