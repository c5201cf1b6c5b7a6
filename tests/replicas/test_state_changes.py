from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from inserve.errors import FailedPreconditionError, InvalidArgumentError
from inserve.protos import messages
from inserve.replicas.state_changes import check_replicable, state_changes

MODELS = Path(__file__).parent.parent / "golden" / "models"


def node(
    name: str, op: str, inputs: Iterable[str] = (), calls: str = "", branch: str = ""
) -> messages.NodeDef:
    proto = messages.NodeDef(name=name, op=op, input=list(inputs))
    if calls:
        proto.attr["f"].func.name = calls
    if branch:
        proto.attr["branches"].list.func.add(name=branch)
    return proto


def function(name: str, *nodes: messages.NodeDef) -> messages.FunctionDef:
    proto = messages.FunctionDef(node_def=nodes)
    named = messages.NodeDef(name=name)  # OpDef has its name in the same field
    proto.signature.MergeFromString(named.SerializeToString())
    return proto


def change(
    *nodes: messages.NodeDef, functions: Iterable[messages.FunctionDef] = (), key: str = "s"
) -> str | None:
    """Return the operation by which a signature with the output ``y:0`` changes state."""
    meta_graph = messages.MetaGraphDef()
    meta_graph.graph_def.node.extend(nodes)
    meta_graph.graph_def.library.function.extend(functions)
    meta_graph.signature_def[key].outputs["y"].name = "y:0"
    return state_changes(meta_graph.SerializeToString()).get(key)


@pytest.mark.parametrize(
    "op",
    [
        "AssignVariableOp", "AssignAddVariableOp", "Assign", "ScatterNdUpdate", "ResourceScatterAdd",
        "ResourceApplyAdam", "SparseApplyFtrl", "CountUpTo", "LookupTableInsertV2", "LookupTableRemoveV2",
        "QueueEnqueueV2", "QueueDequeueManyV2", "Stage", "OrderedMapUnstage", "BarrierTakeMany",
    ],
)  # fmt: skip
def test_an_output_that_depends_on_a_change_of_state_is_found(op: str) -> None:
    assert change(node("c", op), node("x", "Neg", ["c:1"]), node("y", "Identity", ["x"])) == op


@pytest.mark.parametrize(
    "op",
    [
        "ReadVariableOp", "VarHandleOp", "LookupTableFindV2", "HashTableV2", "RandomUniform", "AddV2",
        "Where", "TensorScatterUpdate", "ScatterNd", "StatefulPartitionedCall", "AccumulateNV2",
        "XlaOptimizationBarrier",
    ],
)  # fmt: skip
def test_reading_and_random_numbers_change_nothing(op: str) -> None:
    assert change(node("c", op), node("y", "Identity", ["c"])) is None


def test_a_change_counts_that_only_has_to_come_first() -> None:
    assert change(node("c", "AssignVariableOp"), node("y", "Identity", ["^c"])) == "AssignVariableOp"


def test_a_change_on_which_no_output_depends_is_not_one() -> None:
    assert change(node("restore", "AssignVariableOp"), node("y", "Const")) is None


@pytest.mark.parametrize("key", ["__saved_model_init_op", "__saved_model_train_op"])
def test_what_runs_while_a_model_loads_is_not_one(key: str) -> None:
    assert change(node("y", "AssignVariableOp"), key=key) is None


def test_functions_are_looked_into_however_they_are_called() -> None:
    inner = function("inner", node("a", "AssignVariableOp"))
    outer = function("outer", node("o", "PartitionedCall", calls="inner"))
    harmless = function("harmless", node("o", "Neg"))
    functions = [inner, outer, harmless]
    for calling in (
        node("y", "StatefulPartitionedCall", calls="outer"),
        node("y", "Case", branch="outer"),
        node("y", "outer"),
    ):
        assert change(calling, functions=functions) == "AssignVariableOp"
    assert change(node("y", "StatefulPartitionedCall", calls="harmless"), functions=functions) is None


def test_functions_that_call_each_other_end() -> None:
    one = function("one", node("o", "PartitionedCall", calls="two"))
    two = function("two", node("o", "PartitionedCall", calls="one"))
    assert change(node("y", "PartitionedCall", calls="one"), functions=[one, two]) is None


def test_sparse_outputs_count() -> None:
    meta_graph = messages.MetaGraphDef()
    meta_graph.graph_def.node.extend([node("y", "Assign")])
    meta_graph.signature_def["s"].outputs["y"].coo_sparse.indices_tensor_name = "y:0"
    assert state_changes(meta_graph.SerializeToString()) == {"s": "Assign"}


@pytest.mark.parametrize(
    ("model", "changing"),
    [
        ("counter", {"incr", "incr_by", "incr_vec", "reset"}),
        ("half_plus_two", set()),
        ("lookup", set()),
        ("tf1_examples", set()),
    ],
)
def test_signatures_of_real_models_that_change_state_are_found(model: str, changing: set[str]) -> None:
    serialized = (MODELS / model / "1" / "saved_model.pb").read_bytes()
    (meta_graph,) = messages.SavedModel.FromString(serialized).meta_graphs
    assert set(state_changes(meta_graph.SerializeToString())) == changing


def test_the_refusal_names_model_signature_and_operation() -> None:
    serialized = (MODELS / "counter" / "1" / "saved_model.pb").read_bytes()
    (meta_graph,) = messages.SavedModel.FromString(serialized).meta_graphs
    with pytest.raises(FailedPreconditionError) as raised:
        check_replicable(meta_graph.SerializeToString(), "/models/counter/1")
    assert raised.value.message.startswith(
        "/models/counter/1 cannot be replicated: signature incr changes state (AssignAddVariableOp)"
    )


def test_what_is_no_meta_graph_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="the MetaGraphDef of m cannot be read"):
        check_replicable(b"graph", "m")
