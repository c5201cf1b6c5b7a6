"""Which signatures treat each row for itself, read from the graph.

A signature is row-wise where row *i* (along dimension 0) of every output depends on row *i* of the
inputs alone, and has the same bits whatever other rows the run has. Calls of such a signature that
arrive together may run as one. The proof follows the graph from the outputs, through every edge and into
functions, with the rules of ``row_wise_operations``; whatever it does not know makes the answer no.

It holds

* for runs in which all inputs have the same dimension 0, and the ranks and sizes that the signature
  states;
* as long as variables have the shapes that the graph states;
* for TensorFlow's kernels on CPUs;
* between runs on threads that treat denormal numbers alike: TensorFlow takes them for zero on its own
  threads, to which it gives parts of large tensors as well, and not on the calling thread. That is so
  for one and the same request, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from inserve.errors import InserveError
from inserve.protos import messages
from inserve.protos.wire import length_delimited_fields
from inserve.saved_model.row_wise_operations import RULES
from inserve.saved_model.row_wise_values import (
    SAME_BITS_TYPES,
    Known,
    Operation,
    Rows,
    Rule,
    UnprovenError,
    require_usual_kernels,
)
from inserve.saved_model.signature import Signature, TensorSpec

__all__ = ["row_wise_signatures"]

_MOST_STEPS = 20_000
"""Nodes and edges looked at for all signatures together; what is left then is not proven."""
_MOST_CALLS_DEEP = 16

_NAME, _INPUT_ARG, _OUTPUT_ARG = 1, 2, 3  # of OpDef
_ARG_NAME, _NUMBER_ATTR, _TYPE_LIST_ATTR = 1, 5, 6  # of OpDef.ArgDef

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderWithDefault"})
_UNREADABLE = (
    UnprovenError,
    InserveError,
    DecodeError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
)
"""What reading a malformed graph may raise."""


class _Reference(NamedTuple):
    """One input of a node."""

    node: str
    place: int
    """Which output; -1 for a control edge."""
    output: str = ""
    """Inside functions the name of the output, whose tensors *place* counts."""


_CONTROL = -1


class _Function(NamedTuple):
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: Mapping[str, messages.NodeDef]
    returns: Mapping[str, str]
    control_returns: tuple[str, ...]


def row_wise_signatures(
    graph_def: bytes, signatures: Mapping[str, Signature], rules: Mapping[str, Rule] = RULES
) -> frozenset[str]:
    """Return the keys of those *signatures* that *rules* prove to be row-wise.

    With ``RULES_OF_SUMS`` rows are proven to be kept apart, but not to have the same bits. *graph_def* is
    a serialized ``tensorflow.GraphDef``. Of a graph that cannot be read, or has more
    to it than is looked at, nothing is proven; nothing is raised.
    """
    try:
        graph = messages.GraphDef.FromString(graph_def)
        proof = _Proof(graph, rules)
    except _UNREADABLE:
        return frozenset()
    return frozenset(key for key, signature in signatures.items() if proof.is_row_wise(signature))


def _by_name(nodes: list[messages.NodeDef]) -> dict[str, messages.NodeDef]:
    by_name = {node.name: node for node in nodes}
    if len(by_name) != len(nodes):
        raise UnprovenError
    return by_name


def _function_name(function: messages.FunctionDef) -> str:
    signature = function.signature.SerializeToString()
    for number, start, stop in length_delimited_fields(signature, 0, len(signature)):
        if number == _NAME:
            return signature[start:stop].decode("utf-8")
    raise UnprovenError


def _read_function(function: messages.FunctionDef) -> _Function:
    """Return the function, unless an argument of it stands for several tensors."""
    require_usual_kernels(function.attr)
    signature = function.signature.SerializeToString()
    names: dict[int, list[str]] = {_INPUT_ARG: [], _OUTPUT_ARG: []}
    for number, start, stop in length_delimited_fields(signature, 0, len(signature)):
        if number in names:
            fields = {
                field: signature[first:last]
                for field, first, last in length_delimited_fields(signature, start, stop)
            }
            if _NUMBER_ATTR in fields or _TYPE_LIST_ATTR in fields:
                raise UnprovenError
            names[number].append(fields[_ARG_NAME].decode("utf-8"))
    return _Function(
        tuple(names[_INPUT_ARG]),
        tuple(names[_OUTPUT_ARG]),
        _by_name(list(function.node_def)),
        dict(function.ret),
        tuple(function.control_ret.values()),
    )


class _Proof:
    """One graph with its functions, and how much of the work for it is left."""

    def __init__(self, graph: messages.GraphDef, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.nodes = _by_name(list(graph.node))
        self._definitions = {_function_name(one): one for one in graph.library.function}
        if len(self._definitions) != len(graph.library.function):
            raise UnprovenError
        self._functions: dict[str, _Function] = {}
        self._results: dict[tuple[str, tuple[Known, ...]], tuple[Known, ...] | None] = {}
        self._steps = 0

    def is_row_wise(self, signature: Signature) -> bool:
        if not signature.inputs or not signature.outputs:
            return False
        try:
            feeds: dict[_Reference, Known] = {}
            for spec in signature.inputs.values():
                feeds[_graph_reference(spec.tensor_name)] = _rows_of(spec)
            if len(feeds) != len(signature.inputs):
                return False
            scope = _Scope(self, self.nodes, feeds, 0)
            outputs = [_graph_reference(spec.tensor_name) for spec in signature.outputs.values()]
            scope.settle([output.node for output in outputs if output not in feeds])
            return all(isinstance(scope.known(output), Rows) for output in outputs)
        except _UNREADABLE:
            return False

    def step(self, edges: int) -> None:
        self._steps += 1 + edges
        if self._steps > _MOST_STEPS:
            raise UnprovenError

    def is_function(self, name: str) -> bool:
        return name in self._definitions

    def is_followed(self, op: str) -> bool:
        """Return whether there is a rule for the operation, or a function behind it."""
        return op in self.rules or op in _CALLS or op in self._definitions

    def function(self, name: str) -> _Function:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = _read_function(self._definitions[name])
        return function

    def call(self, name: str, inputs: tuple[Known, ...], depth: int) -> tuple[Known, ...]:
        """Return what a call of the function is known to give; a call like an earlier one is looked up."""
        key = (name, inputs)
        if key not in self._results:
            self._results[key] = None  # stays so where the body is not proven, or calls itself
            self._results[key] = self._body(self.function(name), inputs, depth)
        result = self._results[key]
        if result is None:
            raise UnprovenError
        return result

    def _body(self, function: _Function, inputs: tuple[Known, ...], depth: int) -> tuple[Known, ...]:
        if depth > _MOST_CALLS_DEEP:
            raise UnprovenError
        arguments = {
            _Reference(name, 0): known for name, known in zip(function.arguments, inputs, strict=True)
        }
        self.step(len(function.nodes))
        # TensorFlow runs every stateful operation of a body, whether anything depends on it or not.
        if not all(self.is_followed(node.op) for node in function.nodes.values()):
            raise UnprovenError
        scope = _Scope(self, function.nodes, arguments, depth)
        outputs = [_function_reference(function.returns[name]) for name in function.outputs]
        waiting = [output.node for output in outputs if output not in arguments]
        scope.settle([*waiting, *function.control_returns])
        if any(
            node.op not in self.rules for node in function.nodes.values() if not scope.is_settled(node.name)
        ):
            raise UnprovenError
        return tuple(scope.known(output) for output in outputs)


def _rows_of(spec: TensorSpec) -> Rows:
    shape = spec.shape
    if not shape or shape[0] is not None or spec.data_type not in SAME_BITS_TYPES:
        raise UnprovenError
    return Rows(shape[1:])


def _graph_reference(text: str) -> _Reference:
    """Read ``^name``, ``name`` or ``name:place``."""
    if not text:
        raise UnprovenError
    if text[0] == "^":
        return _Reference(text[1:], _CONTROL)
    name, colon, place = text.rpartition(":")
    return _Reference(name, _place(place)) if colon else _Reference(text, 0)


def _function_reference(text: str) -> _Reference:
    """Read ``^name``, the name of an argument, or ``name:output:place``."""
    if text.startswith("^"):
        return _Reference(text[1:], _CONTROL)
    name, *rest = text.split(":")
    if not rest:
        return _Reference(name, 0)
    output, place = rest
    return _Reference(name, _place(place), output)


def _place(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UnprovenError
    return int(text)


class _Scope:
    """What is known of the nodes of the graph in one signature, or of a function in one call."""

    def __init__(
        self,
        proof: _Proof,
        nodes: Mapping[str, messages.NodeDef],
        given: Mapping[_Reference, Known],
        depth: int,
    ) -> None:
        self._proof = proof
        self._nodes = nodes
        self._given = given
        self._given_names = {reference.node for reference in given}
        self._depth = depth
        self._outputs: dict[str, tuple[Known, ...]] = {}
        self._inputs: dict[str, list[_Reference]] = {}

    def is_settled(self, name: str) -> bool:
        return name in self._outputs

    def known(self, reference: _Reference) -> Known:
        given = self._given.get(reference)
        if given is not None:
            return given
        name, place, output = reference
        node = self._nodes[name]
        if place == _CONTROL or (self._depth > 0 and not output):
            raise UnprovenError
        if output and self._proof.is_function(node.op):
            if place != 0:
                raise UnprovenError
            place = self._proof.function(node.op).outputs.index(output)
        return self._outputs[name][place]

    def settle(self, names: list[str]) -> None:
        """Find out what the outputs of the nodes *names* are, and of all they depend on.

        Raises:
            UnprovenError: One of them is not known to keep rows apart, or they go round in a circle.
        """
        waiting = list(names)
        entered: set[str] = set()
        while waiting:
            name = waiting[-1]
            if name in self._outputs:
                waiting.pop()
            elif name in entered:
                node = self._nodes[name]
                self._outputs[name] = self._apply(node, self._inputs.pop(name))
                waiting.pop()
            else:
                entered.add(name)
                waiting.extend(self._unsettled(name, entered))

    def _unsettled(self, name: str, entered: set[str]) -> list[str]:
        node = self._nodes[name]
        self._proof.step(len(node.input))
        if not self._proof.is_followed(node.op):
            raise UnprovenError
        read = _function_reference if self._depth else _graph_reference
        references = [read(text) for text in node.input]
        self._inputs[name] = [one for one in references if one.place != _CONTROL]
        unsettled = {one.node for one in references if not self._is_given(one)} - self._outputs.keys()
        if unsettled & entered:
            raise UnprovenError
        return list(unsettled)

    def _is_given(self, reference: _Reference) -> bool:
        """Return whether nothing behind the edge runs: TensorFlow has the feed in its place."""
        if reference.place != _CONTROL:
            return reference in self._given
        if reference.node not in self._given_names:
            return False
        return self._depth > 0 or self._nodes[reference.node].op in _PLACEHOLDERS

    def _apply(self, node: messages.NodeDef, references: list[_Reference]) -> tuple[Known, ...]:
        inputs = tuple(map(self.known, references))
        require_usual_kernels(node.attr)
        if self._proof.is_function(node.op):
            return self._proof.call(node.op, inputs, self._depth + 1)
        if node.op in _CALLS:
            called = node.attr["f"].func if "f" in node.attr else None
            if called is None or called.attr:
                raise UnprovenError
            return self._proof.call(called.name, inputs, self._depth + 1)
        return self._proof.rules[node.op](Operation(node), inputs)
