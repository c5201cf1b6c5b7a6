"""Which tensors of a graph take reading or writing files to compute.

A SavedModel carries the operations that save and restore its variables, and the path is a tensor: whoever
may feed and fetch any tensor could write a file anywhere, or load other weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from inserve.protos import messages
from inserve.protos.wire import length_delimited_fields

__all__ = ["FileOperations"]

_OP_DEF_NAME = 1

_TOUCHES_FILES = re.compile(
    r"^(Save|DistributedSave|Restore|MergeV2Checkpoints|CheckpointHasTensor|ReadFile|WriteFile|MatchingFiles"
    r"|LoadAndRemapMatrix|GenerateVocabRemapping|InitializeTableFromTextFile|ImmutableConst|Print|Debug|Dump|CreateSummary"
    r"|WriteSummary|FileSystem|RecordInput)"
    r"|Reader|Dataset|SummaryWriter"
)
"""Names of such operations of TensorFlow; of operations a model brings along nothing is known."""


class FileOperations:
    """The operations of a serialized ``tensorflow.MetaGraphDef`` that read or write files.

    Its constants are read with it, so making one takes about as much memory as *meta_graph_def*.
    """

    def __init__(self, meta_graph_def: bytes) -> None:
        graph = messages.MetaGraphDef.FromString(meta_graph_def).graph_def
        bodies = {_function_name(function): function.node_def for function in graph.library.function}
        self._in_function: dict[str, str | None] = {}
        for name in bodies:
            self._in_function[name] = _first_in(name, bodies)
        self._inputs: dict[str, tuple[str, ...]] = {}
        self._at: dict[str, str] = {}
        for node in graph.node:
            self._inputs[node.name] = tuple(map(_operation_name, node.input))
            found = self._of_node(node)
            if found is not None:
                self._at[node.name] = found

    def needed_for(self, tensor_name: str) -> str | None:
        """Return an operation that *tensor_name* depends on and that touches files, such as ``SaveV2``.

        None if there is none, or no such tensor.
        """
        waiting = [_operation_name(tensor_name)]
        seen = set(waiting)
        while waiting:
            name = waiting.pop()
            if name in self._at:
                return self._at[name]
            new = [source for source in self._inputs.get(name, ()) if source not in seen]
            seen.update(new)
            waiting += new
        return None

    def _of_node(self, node: messages.NodeDef) -> str | None:
        for name in _called(node):
            if name in self._in_function:
                if self._in_function[name] is not None:
                    return self._in_function[name]
            elif name == node.op and _TOUCHES_FILES.search(name):
                return name
        return None


def _function_name(function: messages.FunctionDef) -> str:
    signature = function.signature.SerializeToString()
    for number, start, stop in length_delimited_fields(signature, 0, len(signature)):
        if number == _OP_DEF_NAME:
            return signature[start:stop].decode()
    return ""


def _operation_name(source: str) -> str:
    return source.removeprefix("^").partition(":")[0]


def _called(node: messages.NodeDef) -> Iterator[str]:
    """Yield the operation of *node*, which may be a function, and the functions in its attributes."""
    yield node.op
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (function.name for function in value.list.func)


def _first_in(function: str, bodies: dict[str, Any]) -> str | None:
    """Return an operation in *function*, or in one that it calls, that touches files."""
    waiting, seen = [function], {function}
    while waiting:
        nodes: Iterable[messages.NodeDef] = bodies[waiting.pop()]
        for node in nodes:
            if node.op not in bodies and _TOUCHES_FILES.search(node.op):
                return node.op
            called = {name for name in _called(node) if name in bodies} - seen
            seen |= called
            waiting += called
    return None
