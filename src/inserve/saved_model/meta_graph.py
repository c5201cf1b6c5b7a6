"""What serving needs of a MetaGraphDef, read without parsing its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.protos.wire import LENGTH_DELIMITED, encode_length_delimited_header, read_varint
from inserve.saved_model.signature import Signature, parse_signature

__all__ = ["MetaGraph", "parse_meta_graph"]

_GRAPH_DEF = 2
_SIGNATURE_DEF = 5
_SIGNATURE_DEF_MAP_ENTRY = 1

_ABORTING_OPERATIONS = (
    b"Conv2D",
    b"Conv2d",
    b"Conv3D",
    b"MaxPool",
    b"AvgPool",
    b"FusedBatchNorm",
    b"ScatterNd",
    b"TensorScatter",
    b"CombinedNonMaxSuppression",
    b"RaggedGather",
    b"BlockLSTM",
    b"LSTMBlockCell",
    b"FakeQuantWithMinMaxVarsPerChannel",
    b"QuantizedInstanceNorm",
)
"""Parts of the names of operations whose kernels end the process over an input of the wrong rank or size.

Found by running 400 operations of TensorFlow 2.21 on every rank. Convolutions and pooling do so where
oneDNN is in use, as it is by default on newer processors (``TF_ENABLE_ONEDNN_OPTS``).
"""


_LOOPING_OPERATIONS = (b"While", b"NextIteration", b"ReduceDataset", b"MapDefun")
"""Parts of the names of operations that repeat others as often as the values of inputs say."""


_SMALL_GRAPH_BYTES = 1 << 20


class MetaGraph(NamedTuple):
    """The signatures of a meta graph, and what has to be known of its graph."""

    signatures: Mapping[str, Signature]
    signature_def_map: bytes
    """Serialized ``tensorflow.serving.SignatureDefMap``: every signature as the model states it."""
    needs_checked_shapes: bool
    """Whether the graph has operations that no input of a wrong rank may reach."""
    has_loops: bool
    """Whether a run may take as long as the values of its inputs say, whatever their size."""
    small_graph: bytes
    """The serialized ``tensorflow.GraphDef``; empty where it is too large to be looked at closely."""


def parse_meta_graph(serialized: bytes) -> MetaGraph:
    """Return the signatures of a serialized ``tensorflow.MetaGraphDef``.

    The graph, which holds most of the bytes, is skipped.

    Raises:
        InvalidArgumentError: Not a MetaGraphDef, or a signature that cannot be read.
    """
    entries = []
    graphs = []
    needs_checked_shapes = has_loops = False
    try:
        for number, start, end in _length_delimited_fields(serialized):
            if number == _GRAPH_DEF:
                graphs.append((start, end))
                needs_checked_shapes |= any(
                    serialized.find(name, start, end) >= 0 for name in _ABORTING_OPERATIONS
                )
                has_loops |= any(serialized.find(name, start, end) >= 0 for name in _LOOPING_OPERATIONS)
            elif number == _SIGNATURE_DEF:
                entries.append(encode_length_delimited_header(_SIGNATURE_DEF_MAP_ENTRY, end - start))
                entries.append(serialized[start:end])
        signature_def_map = b"".join(entries)
        signatures = {
            key: parse_signature(key, signature)
            for key, signature in messages.SignatureDefMap.FromString(signature_def_map).signature_def.items()
        }
    except (DecodeError, ValueError, IndexError) as error:
        raise InvalidArgumentError(f"the MetaGraphDef of the SavedModel cannot be read: {error}") from error
    small_graph = b""
    if len(graphs) == 1:
        start, end = graphs[0]
        if end - start <= _SMALL_GRAPH_BYTES:
            small_graph = serialized[start:end]
    return MetaGraph(signatures, signature_def_map, needs_checked_shapes, has_loops, small_graph)


def _length_delimited_fields(serialized: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each top-level field of a message that has only such fields."""
    position = 0
    while position < len(serialized):
        tag, position = read_varint(serialized, position)
        if tag & 7 != LENGTH_DELIMITED:
            raise ValueError(f"field {tag >> 3} has wire type {tag & 7}, expected {LENGTH_DELIMITED}")
        length, position = read_varint(serialized, position)
        end = position + length
        if end > len(serialized):
            raise ValueError(f"field {tag >> 3} claims {length} bytes, {len(serialized) - position} are left")
        yield tag >> 3, position, end
        position = end
