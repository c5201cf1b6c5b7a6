from __future__ import annotations

import pytest

from inserve.errors import InvalidArgumentError
from inserve.protos.wire import encode_length_delimited_header
from inserve.saved_model.meta_graph import parse_meta_graph


def meta_graph_with(graph: bytes) -> bytes:
    return encode_length_delimited_header(2, len(graph)) + graph


@pytest.mark.parametrize(
    "operation",
    [
        b"_FusedConv2D",
        b"DepthwiseConv2dNative",
        b"Conv3DBackpropInputV2",
        b"MaxPool3D",
        b"TensorScatterUpdate",
        b"ScatterNd",
        b"CombinedNonMaxSuppression",
        b"BlockLSTMV2",
    ],
)
def test_a_graph_with_an_operation_known_to_abort_needs_checked_shapes(operation: bytes) -> None:
    assert parse_meta_graph(meta_graph_with(b"\x0a\x04node\x12" + operation)).needs_checked_shapes


@pytest.mark.parametrize("operation", [b"MatMul", b"GatherNd", b"NonMaxSuppressionV3", b"BatchMatMulV2"])
def test_any_other_graph_does_not(operation: bytes) -> None:
    assert not parse_meta_graph(meta_graph_with(b"\x0a\x04node\x12" + operation)).needs_checked_shapes


def test_a_graph_is_kept_where_it_is_small() -> None:
    assert parse_meta_graph(meta_graph_with(b"\x0a\x04node")).small_graph == b"\x0a\x04node"
    assert parse_meta_graph(meta_graph_with(bytes(2 << 20))).small_graph == b""


def test_a_graph_in_two_parts_is_not_looked_at_closely() -> None:
    assert parse_meta_graph(meta_graph_with(b"\x0a\x00") + meta_graph_with(b"\x0a\x01a")).small_graph == b""


def test_the_name_counts_in_the_graph_alone() -> None:
    elsewhere = encode_length_delimited_header(1, 6) + b"Conv2D"
    assert not parse_meta_graph(elsewhere + meta_graph_with(b"MatMul")).needs_checked_shapes


@pytest.mark.parametrize("serialized", [b"\x12\x05abc", b"\x08\x01", b"\x2a\x02\xff\xff"])
def test_bytes_that_are_no_meta_graph_are_refused(serialized: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="the MetaGraphDef of the SavedModel cannot be read"):
        parse_meta_graph(serialized)


@pytest.mark.parametrize("operation", [b"While", b"StatelessWhile", b"NextIteration", b"ReduceDataset"])
def test_a_graph_that_repeats_operations_has_loops(operation: bytes) -> None:
    assert parse_meta_graph(meta_graph_with(b"\x0a\x04node\x12" + operation)).has_loops


def test_a_graph_without_repetition_has_no_loops() -> None:
    assert not parse_meta_graph(meta_graph_with(b"MatMul")).has_loops
