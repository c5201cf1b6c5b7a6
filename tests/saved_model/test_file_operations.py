from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from inserve.saved_model.file_operations import FileOperations

SAVE, RESTORE = "SaveV2", "RestoreV2"
Nodes = Mapping[str, tuple[str, Sequence[str]]]
"""Operation and inputs by name."""


def meta_graph(
    nodes: Nodes, functions: Mapping[str, Nodes] | None = None, attributes: Mapping[str, str] | None = None
) -> bytes:
    """Return a graph; *attributes* names the function that an attribute of a node names."""
    message = meta_graph_pb2.MetaGraphDef()
    for name, (op, inputs) in nodes.items():
        node = message.graph_def.node.add(name=name, op=op, input=inputs)
        if attributes and name in attributes:
            node.attr["f"].func.name = attributes[name]
    for function_name, body in (functions or {}).items():
        function = message.graph_def.library.function.add()
        function.signature.name = function_name
        for name, (op, inputs) in body.items():
            function.node_def.add(name=name, op=op, input=inputs)
    serialized: bytes = message.SerializeToString()
    return serialized


def test_what_depends_on_no_file_is_free() -> None:
    graph = FileOperations(meta_graph({"x": ("Placeholder", ()), "y": ("Mul", ("x", "x:0"))}))
    assert graph.needed_for("y:0") is None
    assert graph.needed_for("nothing:0") is None


@pytest.mark.parametrize("source", ["save", "save:0", "^save"])
def test_an_input_counts_directly_and_through_others(source: str) -> None:
    nodes = {"save": (SAVE, ()), "middle": ("Identity", (source,)), "end": ("Identity", ("middle",))}
    graph = FileOperations(meta_graph(nodes))
    assert [graph.needed_for(name) for name in ("save:0", "middle", "end:1")] == [SAVE, SAVE, SAVE]


def test_a_function_counts_for_what_it_and_those_it_calls_do() -> None:
    graph = FileOperations(
        meta_graph(
            {
                "by_op": ("outer", ()),
                "by_attribute": ("PartitionedCall", ()),
                "harmless": ("PartitionedCall", ()),
            },
            {
                "outer": {"call": ("inner", ())},
                "inner": {"again": ("outer", ()), "restore": (RESTORE, ())},
                "pure": {"mul": ("Mul", ())},
            },
            {"by_attribute": "inner", "harmless": "pure"},
        )
    )
    found = [graph.needed_for(name) for name in ("by_op:0", "by_attribute:0", "harmless:0")]
    assert found == [RESTORE, RESTORE, None]


def test_a_function_named_like_an_operation_is_judged_by_its_body() -> None:
    graph = FileOperations(meta_graph({"y": ("SaveNothing", ())}, {"SaveNothing": {"mul": ("Mul", ())}}))
    assert graph.needed_for("y:0") is None


def test_a_loop_in_the_graph_comes_to_an_end() -> None:
    nodes = {"a": ("Merge", ("b",)), "b": ("NextIteration", ("a",))}
    assert FileOperations(meta_graph(nodes)).needed_for("a:0") is None


NAMES_A_FILE = {
    *("filename", "filenames", "file_pattern", "prefix", "destination_prefix", "ckpt_path", "path"),
    *("directory", "logdir", "db_uri", "snapshot_path", "chunk_file", "shard_dir", "old_vocab_file"),
    "debug_urls",
}
"""Parameters of TensorFlow's operations that say which file."""


def test_every_operation_of_tensorflow_that_takes_the_name_of_a_file_counts() -> None:
    taking = [
        name
        for name in dir(tf.raw_ops)
        if name[0].isupper() and NAMES_A_FILE & set(signature(getattr(tf.raw_ops, name)).parameters)
    ]
    assert {"SaveV2", "ReadFile", "DistributedSave", "CreateSummaryFileWriter"} <= set(taking)
    graph = FileOperations(meta_graph({name: (name, ()) for name in taking}))
    assert [name for name in taking if graph.needed_for(name) != name] == []
