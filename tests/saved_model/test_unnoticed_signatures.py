from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from inserve.protos import messages
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.saved_model.unnoticed_signatures import unnoticed_signatures

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


def node(name: str, op: str, inputs: Iterable[str] = (), calls: str = "") -> messages.NodeDef:
    proto = messages.NodeDef(name=name, op=op, input=list(inputs))
    if calls:
        proto.attr["f"].func.name = calls
    return proto


def function(name: str, *nodes: messages.NodeDef) -> messages.FunctionDef:
    proto = messages.FunctionDef(node_def=nodes)
    signature = messages.NodeDef(name=name)  # OpDef has its name in the same field
    proto.signature.MergeFromString(signature.SerializeToString())
    return proto


def is_unnoticed(*nodes: messages.NodeDef, functions: Iterable[messages.FunctionDef] = ()) -> bool:
    meta_graph = messages.MetaGraphDef()
    meta_graph.graph_def.node.extend(nodes)
    meta_graph.graph_def.library.function.extend(functions)
    signature = Signature("s", "", [], [TensorSpec("y", "y:0", 1, None)])
    return unnoticed_signatures(meta_graph.SerializeToString(), [signature]) == [signature]


def test_reading_a_variable_is_not_noticed() -> None:
    assert is_unnoticed(node("v", "VarHandleOp"), node("y", "ReadVariableOp", ["v"]))


@pytest.mark.parametrize(
    "op",
    [
        "AssignAddVariableOp",
        "ResourceScatterUpdate",
        "ScatterAdd",
        "ResourceApplyAdam",
        "LookupTableInsertV2",
        "QueueDequeueV2",
        "PrintV2",
        "EagerPyFunc",
        "WriteFile",
        "RandomUniform",
        "StatefulUniform",
        "ParseExampleV2",
        "DecodeJpeg",
    ],
)
def test_an_operation_that_would_be_noticed_is_found(op: str) -> None:
    assert not is_unnoticed(node("y", op))


@pytest.mark.parametrize(
    "op",
    [
        "StatelessRandomUniformV2",
        "StatefulPartitionedCall",
        "ScatterNd",
        "TensorScatterUpdate",
        "LookupTableFindV2",
        "HashTableV2",
        "MatMul",
    ],
)
def test_an_operation_with_a_similar_name_may_run(op: str) -> None:
    assert is_unnoticed(node("y", op))


def test_what_the_outputs_do_not_depend_on_does_not_count() -> None:
    assert is_unnoticed(node("y", "Const"), node("other", "AssignVariableOp"))


@pytest.mark.parametrize("edge", ["effect", "effect:1", "^effect"])
def test_every_kind_of_edge_is_followed(edge: str) -> None:
    assert not is_unnoticed(
        node("effect", "AssignVariableOp"), node("x", "Identity", [edge]), node("y", "Add", ["x:0"])
    )


def test_functions_that_functions_call_count() -> None:
    outer = function("outer", node("inner_call", "PartitionedCall", calls="inner"))
    inner = function("inner", node("effect", "AssignVariableOp"))
    call = node("y", "StatefulPartitionedCall", calls="outer")
    assert not is_unnoticed(call, functions=[outer, inner])


def test_a_function_is_known_where_its_name_is_the_operation() -> None:
    assert not is_unnoticed(node("y", "f"), functions=[function("f", node("effect", "PrintV2"))])


def test_functions_that_call_each_other_come_to_an_end() -> None:
    one = function("one", node("call", "While", calls="two"))
    two = function("two", node("call", "While", calls="one"))
    assert is_unnoticed(node("y", "While", calls="one"), functions=[one, two])


def test_a_function_nobody_calls_does_not_count() -> None:
    assert is_unnoticed(node("y", "Const"), functions=[function("f", node("effect", "AssignVariableOp"))])


def test_a_large_constant_is_passed_through() -> None:
    constant = node("constant", "Const", ["^effect"])
    constant.attr["value"].tensor.tensor_content = bytes(100_000)
    assert not is_unnoticed(constant, node("y", "Identity", ["constant"]), node("effect", "PrintV2"))


def test_of_a_graph_that_cannot_be_read_nothing_may_run() -> None:
    signature = Signature("s", "", [], [TensorSpec("y", "y:0", 1, None)])
    assert unnoticed_signatures(b"\x12\xff", [signature]) == []


def test_a_model_that_counts_its_calls_may_only_be_read() -> None:
    saved_model = messages.SavedModel.FromString((MODELS / "counter/1/saved_model.pb").read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    signatures = [
        Signature(
            key, "", [], [TensorSpec(alias, info.name, 1, None) for alias, info in proto.outputs.items()]
        )
        for key, proto in meta_graph.signature_def.items()
        if not key.startswith("__")
    ]
    unnoticed = unnoticed_signatures(meta_graph.SerializeToString(), signatures)
    assert len(signatures) > 1
    assert [signature.key for signature in unnoticed] == ["get"]
