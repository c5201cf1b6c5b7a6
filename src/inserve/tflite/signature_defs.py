"""The signatures of a ``model.tflite`` as TensorFlow's SignatureDefs, and the tensors they name.

In this order: those in the metadata of the file (written by TensorFlow's ``signature_def_util``), which
name tensors; those in its own table (written by today's converter); one made from the inputs and outputs
of the main subgraph. Rules: ``tensorflow_serving/servables/tensorflow/tflite_session.cc``, which knows
the first and the last kind.
"""

from __future__ import annotations

import importlib
import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from inserve.errors import AlreadyExistsError, InternalError, InvalidArgumentError, MissingExtraError
from inserve.protos import messages
from inserve.tflite.tflite_file import TfliteFile, TfliteTensor

__all__ = ["Endpoint", "Endpoints", "find_endpoint", "make_meta_graph_def", "name_endpoints"]

_METADATA_NAME = "signature_defs_metadata"
_DEFAULT_KEY = "serving_default"
_PREDICT_METHOD = "tensorflow/serving/predict"
_STATEFUL = "StatefulTfliteSubgraph"

_LOGGER = logging.getLogger("inserve.tflite")


class Endpoint(NamedTuple):
    """An input or output of a subgraph."""

    subgraph: int
    tensor_index: int
    tensor: TfliteTensor


class Endpoints(NamedTuple):
    """What can be fed and fetched, by the names that signatures use.

    That is the name of the tensor. Where several subgraphs have tensors of one name, ``@`` and the number
    of the subgraph follow it for all but the first.
    """

    inputs: Mapping[str, Endpoint]
    outputs: Mapping[str, Endpoint]


def name_endpoints(file: TfliteFile) -> Endpoints:
    """Return the inputs and outputs of all subgraphs by their names.

    Raises:
        AlreadyExistsError: Two inputs, or two outputs, of a subgraph have the same name.
    """
    inputs: dict[str, Endpoint] = {}
    outputs: dict[str, Endpoint] = {}
    for number, subgraph in enumerate(file.subgraphs):
        for kind, indices, named in (
            ("Input", subgraph.inputs, inputs),
            ("Output", subgraph.outputs, outputs),
        ):
            for index in dict.fromkeys(indices):
                tensor = subgraph.tensors[index]
                name = tensor.name
                taken = named.get(name)
                if taken is not None and taken.subgraph != number:
                    name = f"{name}@{number}"
                    taken = named.get(name)
                if taken is not None:
                    raise AlreadyExistsError(f"{kind} tensor name: {tensor.name} has multiple indices")
                named[name] = Endpoint(number, index, tensor)
    return Endpoints(inputs, outputs)


def find_endpoint(named: Mapping[str, Endpoint], name: str) -> str | None:
    """Return under which name *named* has the tensor *name*; early converters left out the ``:0``."""
    if name in named:
        return name
    legacy = name.partition(":")[0]
    return legacy if legacy in named else None


def make_meta_graph_def(file: TfliteFile, endpoints: Endpoints) -> bytes:
    """Return a serialized ``tensorflow.MetaGraphDef`` with the signatures of *file*.

    Its graph has no more than a node for each output that depends on earlier runs, so that nobody takes
    a run of it for one without consequences.

    Raises:
        InvalidArgumentError: The metadata holds something else than SignatureDefs.
        InternalError: A signature names a tensor that the main subgraph does not feed or give, or one of
            a type that no array can have.
    """
    proto = messages.MetaGraphDef()
    serialized = file.metadata.get(_METADATA_NAME)
    stated = {} if serialized is None else _signatures_in_metadata(serialized)
    for key, signature in stated.items():
        _fix_names(signature.inputs, endpoints.inputs, "input")
        _fix_names(signature.outputs, endpoints.outputs, "output")
        proto.signature_def[key].CopyFrom(signature)
    if not stated:
        names_in = {(one.subgraph, one.tensor_index): name for name, one in endpoints.inputs.items()}
        names_out = {(one.subgraph, one.tensor_index): name for name, one in endpoints.outputs.items()}
        for table in file.signatures:
            _fill(
                proto.signature_def[table.key],
                {alias: names_in[table.subgraph, index] for alias, index in table.inputs.items()},
                {alias: names_out[table.subgraph, index] for alias, index in table.outputs.items()},
                endpoints,
            )
        if not file.signatures:
            _LOGGER.warning("No signature def found in TFLite model. Generating one.")
        if _DEFAULT_KEY not in proto.signature_def:
            _fill(
                proto.signature_def[_DEFAULT_KEY],
                _aliases_of_main(endpoints.inputs),
                _aliases_of_main(endpoints.outputs),
                endpoints,
            )
    for name, endpoint in endpoints.outputs.items():
        if file.subgraphs[endpoint.subgraph].keeps_state:
            proto.graph_def.node.add(name=name.partition(":")[0], op=_STATEFUL)
    return proto.SerializeToString()


def _signatures_in_metadata(serialized: bytes) -> dict[str, messages.SignatureDef]:
    """Return the SignatureDefs of a FlexBuffers map from key to serialized SignatureDef.

    Raises:
        InvalidArgumentError: That is not what *serialized* is.
        MissingExtraError: The package that reads FlexBuffers is not installed.
    """
    try:
        # A dependency of LiteRT's, and as optional.
        flexbuffers = importlib.import_module("flatbuffers.flexbuffers")
    except ImportError as error:
        raise MissingExtraError(
            f"FlexBuffers, in which signatures are, cannot be read ({error}): pip install 'inserve[tflite]'"
        ) from error
    try:
        entries = flexbuffers.GetRoot(serialized).AsMap
        return {
            key.AsKey: messages.SignatureDef.FromString(value.AsStringBytes)
            for key, value in zip(entries.Keys, entries.Values, strict=True)
        }
    except (DecodeError, ValueError, TypeError, LookupError, struct.error) as error:
        raise InvalidArgumentError(f"Invalid SignatureDefs found in TfLite model: {error!r}") from error


def _fix_names(infos: Any, known: Mapping[str, Endpoint], kind: str) -> None:
    for alias, info in infos.items():
        name = find_endpoint(known, info.name)
        if name is None or known[name].subgraph != 0:
            raise InternalError(
                f"Unknown tensor '{info.name}'.\n\tSignature {kind} {alias} references an unknown tensor"
            )
        info.name = name


def _aliases_of_main(named: Mapping[str, Endpoint]) -> dict[str, str]:
    """Return the names of the tensors of the main subgraph by what callers call them.

    That is the name up to its colon; where several have that in common, the last in the order of the
    alphabet gets it, as in TensorFlow Serving, and the others keep their colon.
    """
    names = sorted(name for name, endpoint in named.items() if endpoint.subgraph == 0)
    last_of = {name.partition(":")[0]: name for name in names}
    return {alias if last_of[alias] == name else name: name for name, alias in _with_alias(names)}


def _with_alias(names: Sequence[str]) -> Iterable[tuple[str, str]]:
    return ((name, name.partition(":")[0]) for name in names)


def _fill(
    signature: messages.SignatureDef,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    endpoints: Endpoints,
) -> None:
    signature.method_name = _PREDICT_METHOD
    for infos, names, named in (
        (signature.inputs, inputs, endpoints.inputs),
        (signature.outputs, outputs, endpoints.outputs),
    ):
        for alias, name in names.items():
            tensor = named[name].tensor
            if tensor.data_type is None:
                raise InternalError(f"Unknown TfLite type: {tensor.type_number} (tensor {tensor.name})")
            info = infos[alias]
            info.name = name
            info.dtype = tensor.data_type
            info.tensor_shape.SetInParent()
            for size in tensor.shape:
                info.tensor_shape.dim.add(size=size)
