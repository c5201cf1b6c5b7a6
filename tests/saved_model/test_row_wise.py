from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inserve.protos import messages
from inserve.saved_model.row_wise import row_wise_signatures
from inserve.saved_model.signature import Signature, TensorSpec, parse_signature
from inserve.tensors.dtypes import DataType

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
FLOAT, HALF, RESOURCE = DataType.DT_FLOAT, DataType.DT_HALF, DataType.DT_RESOURCE


def node(name: str, op: str, *inputs: str, **attributes: Any) -> messages.NodeDef:
    """Return a node; numbers, types and names of functions become attributes of their kind."""
    proto = messages.NodeDef(name=name, op=op, input=inputs)
    for key, value in attributes.items():
        attribute = proto.attr[key]
        if isinstance(value, bool):
            attribute.b = value
        elif isinstance(value, DataType):
            attribute.type = value.value
        elif isinstance(value, int):
            attribute.i = value
        elif key == "f":
            attribute.func.name = value
        else:
            attribute.s = value
    return proto


def placeholder(name: str) -> messages.NodeDef:
    return node(name, "Placeholder", dtype=FLOAT)


def constant(name: str, *control_edges: str) -> messages.NodeDef:
    proto = node(name, "Const", *control_edges, dtype=FLOAT)
    tensor = proto.attr["value"].tensor
    tensor.dtype = FLOAT.value
    tensor.float_val.append(2.0)
    return proto


def variable(name: str) -> messages.NodeDef:
    proto = node(name, "VarHandleOp", dtype=FLOAT)
    proto.attr["shape"].shape.SetInParent()
    return proto


def function(
    name: str,
    arguments: Iterable[str],
    nodes: Iterable[messages.NodeDef],
    returns: Mapping[str, str],
    control_returns: Iterable[str] = (),
    list_argument: bool = False,
) -> messages.FunctionDef:
    proto = messages.FunctionDef(node_def=nodes, ret=returns)
    proto.control_ret.update({one: one for one in control_returns})
    # OpDef has name, input_arg and output_arg in the fields 1, 2 and 3; a name is field 1 of each, too.
    signature = b"".join(
        [
            field(1, name.encode()),
            *(
                field(2, field(1, one.encode()) + (field(5, b"N") if list_argument else b""))
                for one in arguments
            ),
            *(field(3, field(1, one.encode())) for one in returns),
        ]
    )
    proto.signature.MergeFromString(signature)
    return proto


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def graph_of(
    nodes: Iterable[messages.NodeDef], functions: Iterable[messages.FunctionDef] = ()
) -> messages.GraphDef:
    graph = messages.GraphDef(node=nodes)
    graph.library.function.extend(functions)
    return graph


def signature_of(
    inputs: Iterable[str | TensorSpec] = ("x:0",), outputs: Iterable[str] = ("y:0",)
) -> Signature:
    specs = [
        TensorSpec(f"in{place}", one, FLOAT, (None, 3)) if isinstance(one, str) else one
        for place, one in enumerate(inputs)
    ]
    return Signature(
        "s", "", specs, [TensorSpec(f"out{place}", one, FLOAT, None) for place, one in enumerate(outputs)]
    )


def is_row_wise(
    *nodes: messages.NodeDef,
    functions: Iterable[messages.FunctionDef] = (),
    signature: Signature | None = None,
) -> bool:
    signature = signature or signature_of()
    return bool(row_wise_signatures(graph_of(nodes, functions).SerializeToString(), {"s": signature}))


X = placeholder("x")
EFFECT = node("effect", "AssignAddVariableOp", "v", "two", dtype=FLOAT)
NEGATED = [node("inner", "Neg", "a", T=FLOAT)]


def recorded(model: str) -> tuple[messages.MetaGraphDef, dict[str, Signature]]:
    saved_model = messages.SavedModel.FromString((MODELS / model / "saved_model.pb").read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    return meta_graph, {key: parse_signature(key, one) for key, one in meta_graph.signature_def.items()}


@pytest.mark.parametrize(
    ("model", "row_wise"),
    [
        ("half_plus_two/1", {"serving_default"}),
        ("half_plus_two/2", {"serving_default"}),
        ("lookup/1", {"serving_default"}),
        ("batchable/1", {"two", "failing", "strs", "classify", "regress"}),
        ("multi/1", {"same_tensor"}),
        ("cnn/1", set()),
        ("counter/1", set()),
        ("strings/1", set()),
        ("error2/1", set()),
    ],
)
def test_recorded_models_are_row_wise_where_no_signature_mixes_rows(model: str, row_wise: set[str]) -> None:
    meta_graph, signatures = recorded(model)
    assert row_wise_signatures(meta_graph.graph_def.SerializeToString(), signatures) == row_wise


def test_a_tensor_that_is_fed_and_fetched_is_row_wise() -> None:
    assert is_row_wise(X, signature=signature_of(outputs=["x:0"]))


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "x:0", FLOAT, None),
        TensorSpec("x", "x:0", FLOAT, ()),
        TensorSpec("x", "x:0", FLOAT, (4, 3)),
        TensorSpec("x", "x:0", HALF, (None, 3)),
        TensorSpec("x", "x:0", RESOURCE, (None,)),
        TensorSpec("x", "", FLOAT, (None, 3)),
    ],
)
def test_inputs_without_rows_of_a_known_kind_are_refused(spec: TensorSpec) -> None:
    assert not is_row_wise(X, signature=signature_of([spec], ["x:0"]))


def test_one_input_without_rows_is_enough_to_refuse() -> None:
    inputs: list[str | TensorSpec] = ["x:0", TensorSpec("k", "k:0", FLOAT, ())]
    y = node("y", "Neg", "x", T=FLOAT)
    assert not is_row_wise(X, placeholder("k"), y, signature=signature_of(inputs))


def test_two_inputs_of_one_rank_belong_row_to_row() -> None:
    y = node("y", "Add", "a:0", "b", T=FLOAT)
    assert is_row_wise(placeholder("a"), placeholder("b"), y, signature=signature_of(["a", "b:0"]))


@pytest.mark.parametrize(("inputs", "outputs"), [([], ["y:0"]), (["x:0"], []), (["x:0", "x"], ["y:0"])])
def test_signatures_without_distinct_inputs_and_outputs_are_refused(
    inputs: list[str], outputs: list[str]
) -> None:
    y = node("y", "Neg", "x", T=FLOAT)
    assert not is_row_wise(X, y, signature=signature_of(inputs, outputs))


@pytest.mark.parametrize("output", ["two:0", "missing:0", "", "y:1", "y:-1", "y:x", "^y", "v:0"])
def test_outputs_that_are_no_rows_are_refused(output: str) -> None:
    nodes = [X, constant("two"), variable("v"), node("y", "Neg", "x", T=FLOAT)]
    assert not is_row_wise(*nodes, signature=signature_of(outputs=["y:0", output]))


def test_every_output_of_an_operation_can_be_reached() -> None:
    axis = constant("axis")
    axis.attr["dtype"].type = DataType.DT_INT32.value
    axis.attr["value"].tensor.CopyFrom(messages.TensorProto(dtype=3, int_val=[1]))
    y = node("y", "Split", "axis", "x", T=FLOAT, num_split=3)
    assert is_row_wise(X, axis, y, signature=signature_of(outputs=["y:2"]))
    assert not is_row_wise(X, axis, y, signature=signature_of(outputs=["y:3"]))


def test_nothing_behind_a_feed_counts() -> None:
    nodes = [X, node("inner", "Softmax", "x", T=FLOAT), node("y", "Neg", "inner", T=FLOAT)]
    assert is_row_wise(*nodes, signature=signature_of(["inner:0"]))
    assert not is_row_wise(*nodes)


def test_behind_another_output_of_the_same_node_everything_counts() -> None:
    nodes = [X, node("inner", "Unique", "x", T=FLOAT), node("y", "Add", "inner", "inner:1", T=FLOAT)]
    assert not is_row_wise(*nodes, signature=signature_of(["inner:0"]))
    assert is_row_wise(*nodes, signature=signature_of(["inner:0", "inner:1"]))


def test_a_control_edge_leads_behind_a_feed_unless_that_is_a_placeholder() -> None:
    y = node("y", "Neg", "x", "^x", T=FLOAT)
    assert is_row_wise(X, y)
    assert not is_row_wise(node("x", "RandomUniform", T=FLOAT), y)


def test_a_placeholder_that_is_not_fed_is_refused() -> None:
    assert not is_row_wise(X, placeholder("k"), node("y", "Add", "x", "k", T=FLOAT))


def test_a_placeholder_with_a_default_is_its_default_unless_it_is_fed() -> None:
    default = node("d", "PlaceholderWithDefault", "two", dtype=FLOAT)
    nodes = [X, constant("two"), default, node("y", "Add", "x", "d", T=FLOAT)]
    assert is_row_wise(*nodes)
    assert is_row_wise(*nodes, signature=signature_of(["x:0", "d:0"]))
    assert not is_row_wise(*nodes, signature=signature_of(["d:0"]))


@pytest.mark.parametrize("edge_of", ["y", "two", "group"])
def test_effects_behind_control_edges_are_refused(edge_of: str) -> None:
    def edges(name: str) -> list[str]:
        return ["^effect"] if name == edge_of else []

    nodes = [
        *(X, variable("v"), EFFECT, constant("two", *edges("two"))),
        node("group", "NoOp", *edges("group")),
        node("y", "Mul", "x", "two", "^group", *edges("y"), T=FLOAT),
    ]
    assert not is_row_wise(*nodes)


def test_reads_behind_control_edges_are_harmless() -> None:
    read = node("read", "ReadVariableOp", "v", dtype=FLOAT)
    y = node("y", "Mul", "x", "read", "^group", "^group", T=FLOAT)
    assert is_row_wise(X, variable("v"), read, node("group", "NoOp", "^read"), y)


@pytest.mark.parametrize(
    "op", ["MyOwnOp", "PrintV2", "Assert", "PyFunc", "While", "If", "_Arg", "Placeholder"]
)
def test_operations_without_a_rule_are_refused(op: str) -> None:
    assert not is_row_wise(X, node("y", op, "x", T=FLOAT))


@pytest.mark.parametrize("op", ["Identity", "NextIteration", "Merge"])
def test_nodes_that_go_round_in_a_circle_are_refused(op: str) -> None:
    assert not is_row_wise(X, node("y", "Add", "x", "z", T=FLOAT), node("z", op, "y", T=FLOAT))


def test_a_node_on_itself_is_refused() -> None:
    assert not is_row_wise(X, node("y", "Add", "x", "y", T=FLOAT))


def test_operations_on_handles_in_the_place_of_values_are_refused() -> None:
    assert not is_row_wise(X, variable("v"), node("y", "Add", "x", "v", T=FLOAT))
    assert not is_row_wise(X, node("y", "ReadVariableOp", "x", dtype=FLOAT))


@pytest.mark.parametrize(
    "inputs", [(), ("x",), ("x", "two", "two"), ("x:a", "two"), ("", "two"), ("x:0:0", "x")]
)
def test_nodes_with_inputs_that_they_cannot_have_are_refused(inputs: tuple[str, ...]) -> None:
    assert not is_row_wise(X, constant("two"), node("y", "Div", *inputs, T=FLOAT))


def test_an_attribute_of_another_kind_is_refused() -> None:
    assert not is_row_wise(X, constant("two"), node("y", "Div", "x", "two", T=1))


def test_types_left_to_a_placeholder_are_refused() -> None:
    y = node("y", "Neg", "x")
    y.attr["T"].placeholder = "T"
    assert not is_row_wise(X, y)


def test_a_chain_longer_than_any_recursion_is_followed() -> None:
    chain = [node(f"n{place}", "Neg", f"n{place - 1}", T=FLOAT) for place in range(1, 9_000)]
    random.Random(1).shuffle(chain)
    nodes = [node("n0", "Neg", "x", T=FLOAT), *chain]
    assert is_row_wise(X, *nodes, signature=signature_of(outputs=["n8999:0"]))


def test_what_the_outputs_do_not_depend_on_does_not_count() -> None:
    assert is_row_wise(X, node("y", "Neg", "x", T=FLOAT), EFFECT)


def test_a_graph_with_more_than_is_looked_at_is_refused() -> None:
    nodes = [node(f"n{place}", "Neg", f"n{place - 1}" if place else "x", T=FLOAT) for place in range(11_000)]
    assert not is_row_wise(X, *nodes, signature=signature_of(outputs=["n10999:0"]))


def call(name: str, called: str, *inputs: str, **attributes: Any) -> messages.NodeDef:
    return node(name, "StatefulPartitionedCall", *inputs, f=called, **attributes)


@pytest.mark.parametrize("op", ["PartitionedCall", "StatefulPartitionedCall", "g"])
def test_functions_are_followed(op: str) -> None:
    kind = {} if op == "g" else {"f": "g"}
    good = function("g", ["a"], NEGATED, {"r": "inner:y:0"})
    bad = function("g", ["a"], [node("inner", "Softmax", "a", T=FLOAT)], {"r": "inner:softmax:0"})
    y = node("y", op, "x", **kind)
    assert is_row_wise(X, y, functions=[good])
    assert not is_row_wise(X, y, functions=[bad])


def test_functions_call_functions_by_place_and_by_name() -> None:
    pair = function(
        "pair",
        ["a", "b"],
        [*NEGATED, node("one", "Identity", "b", T=FLOAT)],
        {"r": "one:output:0", "s": "inner:y:0"},
    )
    outer = function(
        "outer",
        ["a", "b"],
        [call("by_place", "pair", "a", "b"), node("by_name", "pair", "b", "a")],
        {"p": "by_place:output:1", "q": "by_name:s:0", "a": "a"},
    )
    nodes = [X, constant("two"), call("y", "outer", "x", "two")]
    functions = [pair, outer]
    assert is_row_wise(*nodes, functions=functions, signature=signature_of(outputs=["y:0", "y:2"]))
    assert not is_row_wise(*nodes, functions=functions, signature=signature_of(outputs=["y:1"]))
    assert not is_row_wise(*nodes, functions=functions, signature=signature_of(outputs=["y:3"]))


def test_a_function_is_judged_by_what_each_call_hands_it() -> None:
    add = function("add", ["a", "b"], [node("sum", "Add", "a", "b", T=FLOAT)], {"r": "sum:z:0"})
    one_rank_more = TensorSpec("z", "z:0", FLOAT, (None, 3, 3))
    nodes = [X, placeholder("z"), call("good", "add", "x", "x"), call("bad", "add", "x", "z")]
    for outputs, expected in ((["good"], True), (["bad"], False), (["good", "bad"], False)):
        signature = signature_of(["x:0", one_rank_more], outputs)
        assert is_row_wise(*nodes, functions=[add], signature=signature) == expected


@pytest.mark.parametrize(
    "stray", [EFFECT, node("s", "Unheard", "a"), call("s", "f", "a"), node("s", "RandomUniform")]
)
def test_every_node_of_a_body_counts_whether_its_results_are_used_or_not(stray: messages.NodeDef) -> None:
    body = [*NEGATED, stray]
    called = function("f", ["a"], body, {"r": "inner:y:0"})
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_unused_nodes_of_a_body_that_leave_no_trace_are_harmless() -> None:
    called = function("f", ["a"], [*NEGATED, node("s", "Exp", "a", T=FLOAT)], {"r": "inner:y:0"})
    assert is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_what_a_function_runs_for_its_effect_counts() -> None:
    body = [*NEGATED, node("group", "NoOp", "^s"), node("s", "Exp", "a", T=FLOAT)]
    called = function("f", ["a"], body, {"r": "inner:y:0"}, control_returns=["group"])
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_control_edges_from_arguments_are_harmless() -> None:
    body = [node("inner", "Neg", "a", "^a", T=FLOAT)]
    called = function("f", ["a"], body, {"r": "inner:y:0"})
    assert is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_functions_that_call_themselves_are_refused() -> None:
    one = function("one", ["a"], [call("inner", "two", "a")], {"r": "inner:output:0"})
    two = function("two", ["a"], [call("inner", "one", "a")], {"r": "inner:output:0"})
    assert not is_row_wise(X, call("y", "one", "x"), functions=[one, two])


def tower(height: int, calls: int) -> list[messages.FunctionDef]:
    """Return functions each of which calls the next one several times; the last one negates."""
    functions = [function("f0", ["a"], NEGATED, {"r": "inner:y:0"})]
    for level in range(1, height):
        body = [
            call(f"c{place}", f"f{level - 1}", f"c{place - 1}:output:0" if place else "a")
            for place in range(calls)
        ]
        functions.append(function(f"f{level}", ["a"], body, {"r": f"c{calls - 1}:output:0"}))
    return functions


def test_a_call_like_an_earlier_one_is_not_followed_again() -> None:
    assert is_row_wise(X, call("y", "f15", "x"), functions=tower(16, calls=50))


def test_calls_nested_deeper_than_is_looked_at_are_refused() -> None:
    assert not is_row_wise(X, call("y", "f99", "x"), functions=tower(100, calls=1))


@pytest.mark.parametrize("name", ["_XlaMustCompile", "_xla_compile_id", "_kernel"])
def test_operations_that_other_kernels_may_compute_are_refused(name: str) -> None:
    assert not is_row_wise(X, node("y", "Neg", "x", T=FLOAT, **{name: b"1"}))


def test_functions_that_a_compiler_computes_are_refused() -> None:
    called = function("f", ["a"], NEGATED, {"r": "inner:y:0"})
    assert is_row_wise(X, call("y", "f", "x", _XlaMustCompile=False), functions=[called])
    assert not is_row_wise(X, call("y", "f", "x", _XlaMustCompile=True), functions=[called])
    called.attr["_XlaMustCompile"].b = True
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_functions_that_may_be_exchanged_for_others_are_refused() -> None:
    called = function("f", ["a"], NEGATED, {"r": "inner:y:0"})
    called.attr["api_implements"].s = b"lstm"
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_functions_made_for_several_types_are_refused() -> None:
    y = call("y", "f", "x")
    y.attr["f"].func.attr["T"].type = FLOAT.value
    assert not is_row_wise(X, y, functions=[function("f", ["a"], NEGATED, {"r": "inner:y:0"})])


def test_functions_with_arguments_that_are_lists_are_refused() -> None:
    called = function("f", ["a"], NEGATED, {"r": "inner:y:0"}, list_argument=True)
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


@pytest.mark.parametrize("inputs", [(), ("x", "x")])
def test_calls_with_another_number_of_arguments_are_refused(inputs: tuple[str, ...]) -> None:
    called = function("f", ["a"], NEGATED, {"r": "inner:y:0"})
    assert not is_row_wise(X, call("y", "f", *inputs), functions=[called])


@pytest.mark.parametrize("returned", ["inner", "inner:y", "inner:y:1", "missing:y:0", "b", "inner:y:0:0"])
def test_functions_whose_results_cannot_be_found_are_refused(returned: str) -> None:
    called = function("f", ["a"], NEGATED, {"r": returned})
    assert not is_row_wise(X, call("y", "f", "x"), functions=[called])


def test_two_nodes_or_functions_of_one_name_are_refused() -> None:
    y = node("y", "Neg", "x", T=FLOAT)
    called = function("f", ["a"], NEGATED, {"r": "inner:y:0"})
    assert not is_row_wise(X, y, node("y", "Abs", "x", T=FLOAT))
    assert not is_row_wise(X, y, functions=[called, called])
    twice = function("f", ["a"], [*NEGATED, *NEGATED], {"r": "inner:y:0"})
    assert not is_row_wise(X, call("y", "f", "x"), functions=[twice])


def test_the_other_signatures_of_a_graph_are_judged_for_themselves() -> None:
    graph = graph_of([X, node("y", "Neg", "x", T=FLOAT), node("z", "Exp", "x", T=FLOAT)])
    signatures = {"bad": signature_of(outputs=["z:0"]), "good": signature_of(), "worse": signature_of([])}
    assert row_wise_signatures(graph.SerializeToString(), signatures) == {"good"}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_graph_raises_nothing(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(["half_plus_two/1", "lookup/1", "batchable/1"]))
    meta_graph, signatures = recorded(model)
    graph = bytearray(meta_graph.graph_def.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    assert row_wise_signatures(bytes(graph), signatures) <= signatures.keys()


@pytest.mark.parametrize("length", range(0, 9700, 97))
def test_a_graph_that_breaks_off_raises_nothing(length: int) -> None:
    meta_graph, signatures = recorded("half_plus_two/1")
    graph = meta_graph.graph_def.SerializeToString()
    assert row_wise_signatures(graph[:length], signatures) == set()
