"""Which signatures may run on made-up inputs without anybody noticing.

A signature may not where an operation that its outputs depend on changes variables, tables or queues,
writes, prints, talks to something outside, or takes from a stream of random numbers. Nor where one
parses or decodes strings: TensorFlow logs that it cannot. Every operation of a function that is
called counts: TensorFlow prunes no stateful one inside a function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from inserve.protos import messages
from inserve.protos.wire import length_delimited_fields
from inserve.saved_model.signature import Signature

__all__ = ["unnoticed_signatures"]

_NOTICED = re.compile(
    r"Assign|CountUpTo|Accumulator|MemoryCache|PyFunc|Print|Summary"
    r"|^(Resource)?(Sparse)?Apply[A-Z]|^ResourceScatter"
    r"|^Scatter(Nd)?(Add|Sub|Mul|Div|Min|Max|Update)$"
    r"|Table(Insert|Import|Remove)|InitializeTable"
    r"|Queue|Barrier|[Ss]tage|Iterator|Dataset|Reader"
    r"|^Write|^Save|^Merge|^Delete|^Destroy|^Configure|^Shutdown"
    r"|Send|Recv|Rpc|Collective|Nccl|Infeed|Outfeed|TPU|BoostedTrees"
    r"|(?<!Stateless)(Random|Multinomial|TruncatedNormal)|^Stateful(?!PartitionedCall)|^Rng|CandidateSampler"
    r"|^Parse\w*Example|^ParseTensor|^Decode"
)
"""Names of such operations of TensorFlow; of operations a model brings along nothing is known."""

_GRAPH_DEF = 2  # of MetaGraphDef
_NODE, _LIBRARY = 1, 2  # of GraphDef
_FUNCTION = 1  # of FunctionDefLibrary
_FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 3  # of FunctionDef
_NAME = 1  # of OpDef
_NODE_NAME, _NODE_OP, _NODE_INPUT = 1, 2, 3  # of NodeDef

_LARGE_NODE_BYTES = 1 << 16
"""Nodes above this hold a constant; it is not worth a copy."""


class _Node(NamedTuple):
    name: str
    op: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]
    """The functions that its attributes name."""


def unnoticed_signatures(meta_graph_def: bytes, signatures: Iterable[Signature]) -> list[Signature]:
    """Return those of *signatures* that may run unnoticed; none where the graph cannot be read."""
    try:
        graph = _Graph(meta_graph_def)
        return [signature for signature in signatures if not graph.is_noticed(signature)]
    except (DecodeError, ValueError, IndexError):
        return []


class _Graph:
    """The nodes of a serialized MetaGraphDef; functions are read when they are first reached."""

    def __init__(self, meta_graph_def: bytes) -> None:
        self._data = meta_graph_def
        self._nodes: dict[str, _Node] = {}
        self._functions: dict[str, tuple[int, int]] = {}
        self._noticed: dict[str, bool] = {}
        for start, stop in self._fields(_GRAPH_DEF, 0, len(meta_graph_def)):
            for node in self._fields(_NODE, start, stop):
                read = self._node(*node)
                self._nodes[read.name] = read
            for library in self._fields(_LIBRARY, start, stop):
                for function in self._fields(_FUNCTION, *library):
                    self._functions[self._function_name(*function)] = function

    def is_noticed(self, signature: Signature) -> bool:
        waiting = [spec.tensor_name for spec in signature.outputs.values()]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop().lstrip("^").partition(":")[0]
            node = self._nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if self._is_noticed_node(node):
                return True
            waiting.extend(node.inputs)
        return False

    def _is_noticed_node(self, node: _Node) -> bool:
        if node.op not in self._functions and _NOTICED.search(node.op):
            return True
        return any(self._is_noticed_function(name) for name in (node.op, *node.functions))

    def _is_noticed_function(self, name: str) -> bool:
        """Return whether the function, or one it calls, is noticed; False for what is no function."""
        known = self._noticed.get(name)
        if known is None:
            known = False
            waiting, seen = [name], {name}
            while waiting and not known:
                for start, stop in self._function_nodes(waiting.pop()):
                    node = self._node(start, stop)
                    known |= node.op not in self._functions and _NOTICED.search(node.op) is not None
                    called = {node.op, *node.functions} - seen
                    seen |= called
                    waiting.extend(called)
            self._noticed[name] = known
        return known

    def _function_nodes(self, name: str) -> Iterator[tuple[int, int]]:
        function = self._functions.get(name)
        return iter(()) if function is None else self._fields(_FUNCTION_NODE, *function)

    def _function_name(self, start: int, stop: int) -> str:
        for signature in self._fields(_FUNCTION_SIGNATURE, start, stop):
            for name in self._fields(_NAME, *signature):
                return self._text(*name)
        raise ValueError(f"the function at byte {start} of the MetaGraphDef has no name")

    def _node(self, start: int, stop: int) -> _Node:
        if stop - start > _LARGE_NODE_BYTES:
            texts: Mapping[int, list[str]] = {_NODE_NAME: [], _NODE_OP: [], _NODE_INPUT: []}
            for number, first, last in length_delimited_fields(self._data, start, stop):
                if number in texts:
                    texts[number].append(self._text(first, last))
            return _Node("".join(texts[_NODE_NAME]), "".join(texts[_NODE_OP]), tuple(texts[_NODE_INPUT]), ())
        proto = messages.NodeDef.FromString(self._data[start:stop])
        functions = []
        for value in proto.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func":
                functions.append(value.func.name)
            elif kind == "list":
                functions.extend(function.name for function in value.list.func)
        return _Node(proto.name, proto.op, tuple(proto.input), tuple(functions))

    def _fields(self, number: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for found, first, last in length_delimited_fields(self._data, start, stop):
            if found == number:
                yield first, last

    def _text(self, start: int, stop: int) -> str:
        return self._data[start:stop].decode("utf-8")
