"""Predict requests and responses between bytes and arrays, for both ends of a call.

``tensorflow.serving.PredictRequest`` and ``PredictResponse`` are read where they lie: tensors stay
views of the message, only the small rest goes through protobuf's parser. What is not of the plain
form that clients send (merged pieces, unknown fields, several strings) goes through that parser, so
the meaning is always protobuf's.

Clients repeat themselves, and so the forms of the last requests are remembered: a request that
equals an earlier one in every byte outside its values has the same names, types and shapes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from inserve.errors import InternalError, ResourceExhaustedError
from inserve.handlers.model_spec import ModelSpec
from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, read_varint
from inserve.tensors.tensor_proto import (
    MAX_MESSAGE_BYTES,
    TensorParts,
    array_from_parts,
    encode_tensor,
    every_payload_is_valid,
    fixed_width_header,
    fixed_width_payload,
    payload_is_valid,
    scan_tensor,
    tensor_from_message,
    view_dtype,
)

__all__ = [
    "MalformedRequestError",
    "PredictCall",
    "PredictResult",
    "TensorSource",
    "decode_predict_request",
    "decode_predict_response",
    "encode_predict_request",
    "encode_predict_response",
    "to_array",
]

TensorSource: TypeAlias = TensorParts | Message | NDArray[Any]
"""A tensor of a request; ``to_array`` reads it."""

_SPEC = 0x0A
_INPUTS = 0x12
_FILTER = 0x1A
_OUTPUTS = 0x0A
_RESPONSE_SPEC = 0x12

_MAX_FORMS = 256
_MAX_FORM_BYTES = 1024
_KEY_BYTES = 24


class MalformedRequestError(InternalError):
    """The bytes are not the message they should be; the text is empty, as the C++ server's is."""


class PredictCall(NamedTuple):
    """What a PredictRequest asks for."""

    spec: ModelSpec | None
    """None where the request has no ``model_spec``."""
    inputs: Mapping[str, TensorSource]
    output_filter: Sequence[str]


class PredictResult(NamedTuple):
    """What a PredictResponse answers."""

    spec: ModelSpec
    outputs: Mapping[str, NDArray[Any]]


class _Form(NamedTuple):
    """All of a request but the values."""

    literals: tuple[tuple[int, int, bytes], ...]
    """Where each stretch outside the values starts and stops, and what stands there."""
    spec: ModelSpec | None
    inputs: tuple[tuple[str, np.dtype[Any] | None, bool, TensorParts], ...]
    """Name, the dtype if the payload is the memory of the array, whether the payload may be invalid
    even at this length, and the parts without data."""
    output_filter: tuple[str, ...]


# --- requests -------------------------------------------------------------------------------------

# What __new__ of a named tuple calls; calling it saves a quarter of the decoding time.
_new = tuple.__new__

# By length and first bytes. None: seen once, so worth remembering when it comes again.
_forms: dict[tuple[int, bytes], _Form | None] = {}
_forms_lock = threading.Lock()


def to_array(source: TensorSource) -> NDArray[Any]:
    """Return the array of *source*; it may be a read-only, unaligned view of the request.

    Raises:
        InvalidArgumentError: See ``inserve.tensors.tensor_proto.decode_tensor``.
    """
    if isinstance(source, np.ndarray):
        return source
    return array_from_parts(source) if isinstance(source, TensorParts) else tensor_from_message(source)


def decode_predict_request(data: bytes) -> PredictCall:
    """Return the parts of a serialized PredictRequest; values are not copied, and read by ``to_array``.

    Raises:
        MalformedRequestError: *data* is not a PredictRequest.
    """
    key = (len(data), data[:_KEY_BYTES])
    form = _forms.get(key)
    if form is not None:
        call = _read_by_form(form, data)
        if call is not None:
            return call
    found = _find_tensors(data, _INPUTS, _SPEC, _FILTER)
    if found is None:
        return _parse_request(data)
    inputs, rest = found
    spec, output_filter = _request_rest(rest)
    parts = {alias: source for alias, source in inputs.items() if isinstance(source, TensorParts)}
    if parts and len(parts) == len(inputs):
        _remember(key, _form_of(data, spec, parts, output_filter) if key in _forms else None)
    return PredictCall(spec, inputs, output_filter)


def _read_by_form(form: _Form, data: bytes) -> PredictCall | None:
    """Return the parts of *data* if it has *form*, which has its length."""
    for start, stop, literal in form.literals:
        if data[start:stop] != literal:
            return None
    inputs: dict[str, TensorSource] = {}
    for alias, dtype, needs_check, (data_type, shape, field, _, start, stop) in form.inputs:
        if dtype is not None:
            inputs[alias] = np.ndarray(shape.dimensions, dtype, data, start)
            continue
        if needs_check and not payload_is_valid(field, data, start, stop):
            return None
        inputs[alias] = _new(TensorParts, (data_type, shape, field, data, start, stop))
    return _new(PredictCall, (form.spec, inputs, form.output_filter))


def _remember(key: tuple[int, bytes], form: _Form | None) -> None:
    with _forms_lock:
        if len(_forms) >= _MAX_FORMS and key not in _forms:
            del _forms[next(iter(_forms))]
        _forms[key] = form


def _form_of(
    data: bytes,
    spec: ModelSpec | None,
    inputs: Mapping[str, TensorParts],
    output_filter: tuple[str, ...],
) -> _Form | None:
    """Return the form of *data*, or None where it is too long to keep."""
    spans = sorted((parts.start, parts.stop) for parts in inputs.values() if parts.field)
    if len(data) - sum(stop - start for start, stop in spans) > _MAX_FORM_BYTES:
        return None
    edges = [0, *(edge for span in spans for edge in span), len(data)]
    literals = tuple(
        (start, stop, data[start:stop])
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
        if start < stop
    )
    blank = tuple(
        (alias, view_dtype(parts), not every_payload_is_valid(parts.field), parts._replace(data=b""))
        for alias, parts in inputs.items()
    )
    return _Form(literals, spec, blank, output_filter)


def _find_tensors(
    data: bytes, map_tag: int, *other_tags: int
) -> tuple[dict[str, TensorSource], bytes] | None:
    """Return the tensors of the map field with *map_tag*, and the fields with *other_tags*, serialized.

    None where there is anything else in *data*, or an entry is not one name and one tensor: then
    protobuf's parser must judge.
    """
    tensors: dict[str, TensorSource] = {}
    rest = []
    position, end = 0, len(data)
    try:
        while position < end:
            tag, field_start = data[position], position
            length, position = read_varint(data, position + 1)
            stop = position + length
            if stop > end:
                return None
            if tag != map_tag:
                if tag not in other_tags:
                    return None
                rest.append(data[field_start:stop])
                position = stop
                continue
            if data[position] != 0x0A:
                return None
            length, position = read_varint(data, position + 1)
            alias = data[position : position + length].decode()
            position += length
            if data[position] != 0x12:
                return None
            length, position = read_varint(data, position + 1)
            if position + length != stop or alias in tensors:
                return None
            parts = scan_tensor(data, position, stop)
            tensors[alias] = messages.TensorProto.FromString(data[position:stop]) if parts is None else parts
            position = stop
    except (IndexError, ValueError, DecodeError):
        return None
    return tensors, b"".join(rest)


def _parse_request(data: bytes) -> PredictCall:
    try:
        request = messages.PredictRequest.FromString(data)
    except DecodeError:
        raise MalformedRequestError from None
    spec = _model_spec(request.model_spec) if request.HasField("model_spec") else None
    return PredictCall(spec, dict(request.inputs.items()), tuple(request.output_filter))


def _request_rest(serialized: bytes) -> tuple[ModelSpec | None, tuple[str, ...]]:
    read = _read_request_rest_once if len(serialized) <= _MAX_FORM_BYTES else _read_request_rest
    return read(serialized)


def _read_request_rest(serialized: bytes) -> tuple[ModelSpec | None, tuple[str, ...]]:
    call = _parse_request(serialized)
    return call.spec, tuple(call.output_filter)


_read_request_rest_once = functools.lru_cache(maxsize=_MAX_FORMS)(_read_request_rest)


def _model_spec(message: messages.ModelSpec) -> ModelSpec:
    choice = message.WhichOneof("version_choice")
    return ModelSpec(
        name=message.name,
        version=message.version.value if choice == "version" else None,
        version_label=message.version_label if choice == "version_label" else None,
        signature_name=message.signature_name,
    )


def encode_predict_request(
    spec: ModelSpec,
    inputs: Mapping[str, NDArray[Any]],
    output_filter: Iterable[str] = (),
    as_content: bool = True,
) -> bytes:
    """Return the serialized PredictRequest; see ``encode_tensor`` for *as_content*.

    Raises:
        ValueError: TensorFlow has no type for the dtype of an input.
        TypeError: An element of an object array is not ``bytes``.
        ResourceExhaustedError: The request does not fit into a protobuf message.
    """
    version = None if spec.version is None else messages.Int64Value(value=spec.version)
    model_spec = messages.ModelSpec(
        name=spec.name,
        version=version,
        version_label=spec.version_label,
        signature_name=spec.signature_name,
    )
    pieces: list[bytes | memoryview] = [messages.PredictRequest(model_spec=model_spec).SerializeToString()]
    for alias, array in inputs.items():
        _append_entry(pieces, _INPUTS, alias, array, as_content)
    pieces.append(messages.PredictRequest(output_filter=output_filter).SerializeToString())
    return _join(pieces)


# --- responses ------------------------------------------------------------------------------------


def encode_predict_response(
    outputs: Iterable[tuple[str, NDArray[Any]]],
    name: str,
    version: int,
    signature_name: str,
    as_content: bool,
) -> bytes:
    """Return the serialized PredictResponse; see ``encode_tensor`` for *as_content*.

    The values of an output are copied once.

    Raises:
        ValueError: TensorFlow has no type for the dtype of an output.
        TypeError: An element of an object array is not ``bytes``.
        ResourceExhaustedError: The response does not fit into a protobuf message.
    """
    pieces: list[bytes | memoryview] = []
    for alias, array in outputs:
        _append_entry(pieces, _OUTPUTS, alias, array, as_content)
    pieces.append(_response_spec(name, version, signature_name))
    return _join(pieces)


def decode_predict_response(data: bytes) -> PredictResult:
    """Return the arrays of a serialized PredictResponse; see ``to_array``.

    Raises:
        MalformedRequestError: *data* is not a PredictResponse.
        InvalidArgumentError: An output is not a tensor that TensorFlow accepts.
    """
    found = _find_tensors(data, _OUTPUTS, _RESPONSE_SPEC)
    try:
        response = messages.PredictResponse.FromString(data if found is None else found[1])
    except DecodeError:
        raise MalformedRequestError from None
    sources: Mapping[str, TensorSource] = response.outputs if found is None else found[0]
    outputs = {alias: to_array(source) for alias, source in sources.items()}
    return PredictResult(_model_spec(response.model_spec), outputs)


@functools.lru_cache(maxsize=256)
def _response_spec(name: str, version: int, signature_name: str) -> bytes:
    """Return the field ``model_spec`` of a serialized PredictResponse."""
    model_spec = messages.ModelSpec(
        name=name, version=messages.Int64Value(value=version), signature_name=signature_name
    )
    return messages.PredictResponse(model_spec=model_spec).SerializeToString()


def _entry_header(map_tag: int, alias: str, tensor_bytes: int) -> bytes:
    """Return what stands before the tensor in an entry of a ``map<string, TensorProto>``."""
    name = alias.encode()
    head = (
        encode_length_delimited_header(1, len(name)) + name + encode_length_delimited_header(2, tensor_bytes)
    )
    return encode_length_delimited_header(map_tag >> 3, len(head) + tensor_bytes) + head


@functools.lru_cache(maxsize=1024)
def _fixed_width_entry(
    map_tag: int, alias: str, dtype: np.dtype[Any], dimensions: tuple[int, ...], as_content: bool
) -> bytes | None:
    """Return all of an entry but the payload, or None; see ``fixed_width_header``."""
    header = fixed_width_header(dtype, dimensions, as_content)
    if header is None:
        return None
    nbytes = dtype.itemsize
    for size in dimensions:
        nbytes *= size
    return _entry_header(map_tag, alias, len(header) + nbytes) + header


def _append_entry(
    pieces: list[bytes | memoryview], map_tag: int, alias: str, array: NDArray[Any], as_content: bool
) -> None:
    header = _fixed_width_entry(map_tag, alias, array.dtype, array.shape, as_content)
    if header is not None:
        pieces.append(header)
        pieces.append(fixed_width_payload(array))
        return
    tensor = encode_tensor(array, as_content=as_content)
    pieces.append(_entry_header(map_tag, alias, tensor.nbytes))
    pieces.extend(tensor.pieces)


def _join(pieces: list[bytes | memoryview]) -> bytes:
    nbytes = sum(map(len, pieces))
    if nbytes > MAX_MESSAGE_BYTES:
        raise ResourceExhaustedError(
            f"the message takes {nbytes} bytes, a protobuf message holds at most {MAX_MESSAGE_BYTES}"
        )
    return b"".join(pieces)
