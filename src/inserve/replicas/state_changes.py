"""Whether running a signature leaves something behind that another replica would not have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from inserve.errors import FailedPreconditionError, InvalidArgumentError
from inserve.protos import messages
from inserve.protos.wire import length_delimited_fields

__all__ = ["check_replicable", "state_changes"]

_CHANGES_STATE = re.compile(
    r"Assign|CountUpTo|Accumulator|MemoryCache|BoostedTrees"
    r"|^(Resource)?(Sparse)?Apply[A-Z]|^ResourceScatter"
    r"|^Scatter(Nd)?(Add|Sub|Mul|Div|Min|Max|Update)$"
    r"|Table(Insert|Import|Remove)"
    r"|Queue|^Barrier|^(Ordered)?(Map)?(Stage|Unstage)"
)
"""Names of operations that change variables, tables, queues or the like. Streams of random numbers are
left out: replicas whose numbers differ are as good as one."""

_OP_DEF_NAME = 1


def check_replicable(meta_graph_def: bytes, what: str) -> None:
    """Check that no signature of the serialized MetaGraphDef of *what* changes state.

    Raises:
        FailedPreconditionError: One does, so that replicas would drift apart.
        InvalidArgumentError: Not a MetaGraphDef.
    """
    try:
        changes = state_changes(meta_graph_def)
    except DecodeError as error:
        raise InvalidArgumentError(f"the MetaGraphDef of {what} cannot be read: {error}") from error
    if changes:
        key, op = next(iter(changes.items()))
        raise FailedPreconditionError(
            f"{what} cannot be replicated: signature {key} changes state ({op}), and a request changes that "
            "of one replica only. Serve it on one device, or replicate it nevertheless with force"
        )


def state_changes(meta_graph_def: bytes) -> dict[str, str]:
    """Return, by the signatures that change state, an operation by which they do.

    Every operation counts that an output depends on, also inside functions that are called.

    Raises:
        DecodeError: Not a MetaGraphDef.
    """
    meta_graph = messages.MetaGraphDef.FromString(meta_graph_def)
    graph = _Graph(meta_graph.graph_def)
    found: dict[str, str] = {}
    for key, signature in sorted(meta_graph.signature_def.items()):
        if not key.startswith("__"):  # else it is what TensorFlow runs while it loads
            op = graph.change_before(_tensors_of(signature))
            if op is not None:
                found[key] = op
    return found


class _Graph:
    """The nodes and functions of a graph, by name."""

    def __init__(self, graph: messages.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {_name_of(function): function for function in graph.library.function}
        self._changes: dict[str, str | None] = {}

    def change_before(self, tensors: Iterable[str]) -> str | None:
        """Return an operation that changes state and that *tensors* depend on, None if there is none."""
        waiting = list(tensors)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop().lstrip("^").partition(":")[0]
            node = self._nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            op = self._change_in(node)
            if op is not None:
                return op
            waiting.extend(node.input)
        return None

    def _change_in(self, node: messages.NodeDef) -> str | None:
        if node.op not in self._functions and _CHANGES_STATE.search(node.op):
            return node.op
        for function in _functions_of(node):
            op = self._change_in_function(function)
            if op is not None:
                return op
        return None

    def _change_in_function(self, name: str) -> str | None:
        if name not in self._changes:
            self._changes[name] = None
            waiting, seen = [name], {name}
            while waiting:
                function = self._functions.get(waiting.pop())
                for node in () if function is None else function.node_def:
                    if node.op not in self._functions and _CHANGES_STATE.search(node.op):
                        self._changes[name] = node.op
                        return node.op
                    called = set(_functions_of(node)) - seen
                    seen |= called
                    waiting.extend(called)
        return self._changes[name]


def _tensors_of(signature: messages.SignatureDef) -> Iterator[str]:
    for info in signature.outputs.values():
        if info.WhichOneof("encoding") == "coo_sparse":
            yield info.coo_sparse.values_tensor_name
            yield info.coo_sparse.indices_tensor_name
            yield info.coo_sparse.dense_shape_tensor_name
        else:
            yield info.name


def _functions_of(node: messages.NodeDef) -> Iterator[str]:
    """Yield the functions that *node* may call: by its operation, and by its attributes."""
    yield node.op
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (function.name for function in value.list.func)


def _name_of(function: messages.FunctionDef) -> str:
    """Return the name in the function's OpDef, whose fields are carried unread."""
    signature = function.signature.SerializeToString()
    for number, start, stop in length_delimited_fields(signature, 0, len(signature)):
        if number == _OP_DEF_NAME:
            return signature[start:stop].decode("utf-8", "replace")
    return ""
