"""SessionRun: tensors of the graph fed and fetched by name, past the signatures.

``apis/session_service.proto`` of TensorFlow Serving defines it; the C++ server never registers it, so
order, codes and texts follow Predict there (``servables/tensorflow/predict_impl.cc``) and
``Session::Run`` of TensorFlow for the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from inserve.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnimplementedError,
)
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ServableFinder, model_spec_from_message
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict_codec import MalformedRequestError
from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header
from inserve.saved_model.file_operations import FileOperations
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.saved_model.signature import Signature
from inserve.tensors.dtypes import DataType, element_type_of
from inserve.tensors.tensor_proto import (
    MAX_FILLED_BYTES,
    MAX_MESSAGE_BYTES,
    encode_tensor,
    tensor_from_message,
)

__all__ = ["SessionRunHandler"]

_TENSOR = 1  # of SessionRunResponse
_NAME, _VALUE = 1, 2  # of NamedTensorProto

_ANY_LENGTH_S = 3600.0
"""What a run is said to take. Fed in the middle of the graph, values may set how often a loop runs: earlier
runs tell nothing, so each belongs into TensorFlow's pool, where a deadline ends it."""

_Choice: TypeAlias = tuple[tuple[tuple[str, DataType], ...], tuple[str, ...]]
"""Feeds and fetches, each in the order of their names."""


class _Known(NamedTuple):
    """What was found out of a version."""

    files: FileOperations
    runs: dict[_Choice, SignatureRun]


class SessionRunHandler:
    """Answers SessionRun for the servables that *finder* finds; called on any thread, by many at once.

    *as_content* puts values of responses into ``tensor_content`` instead of typed fields. TensorFlow keeps
    an executor for each choice of feeds and fetches for as long as the session lives, so each version runs
    at most *max_choices* different ones.
    """

    def __init__(self, finder: ServableFinder, as_content: bool = False, max_choices: int = 256) -> None:
        self._find = finder.find
        self._as_content = as_content
        self._max_choices = max_choices
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[SavedModelServable, _Known] = WeakKeyDictionary()

    def session_run_message(self, request: bytes, timeout_s: float | None, may_block: bool) -> bytes:
        """Return the serialized SessionRunResponse to a serialized SessionRunRequest.

        Of its options ``timeout_in_ms`` counts, where it is sooner than *timeout_s* from now; metadata
        of the run is not collected.

        Raises:
            MalformedRequestError: *request* is not a SessionRunRequest.
            NotFoundError: No such servable is available.
            UnimplementedError: There are targets.
            InvalidArgumentError: A feed or a fetch does not fit the graph.
            FailedPreconditionError: A feed could end the process.
            PermissionDeniedError: A fetch depends on an operation that reads or writes files.
            DeadlineExceededError: The time is over.
            WouldBlock: Not *may_block*.
            InserveError: What TensorFlow said.
        """
        if not may_block:
            raise WouldBlock
        try:
            message = messages.SessionRunRequest.FromString(request)
        except DecodeError:
            raise MalformedRequestError from None
        spec = model_spec_from_message(message.model_spec) if message.HasField("model_spec") else None
        handle = self._find(spec)
        try:
            name, version = handle.id.name, handle.id.version
            tensors = self._run(handle.servable, message, timeout_s)
        finally:
            handle.release()
        model_spec = messages.ModelSpec(
            name=name,
            version=messages.Int64Value(value=version),
            signature_name=message.model_spec.signature_name,
        )
        return _encode_response(zip(message.fetch, tensors, strict=True), model_spec, self._as_content)

    def _run(
        self,
        servable: SavedModelServable,
        message: messages.SessionRunRequest,
        timeout_s: float | None,
    ) -> list[NDArray[Any]]:
        """Return the arrays of *message*'s fetches, in their order."""
        if message.target:
            raise UnimplementedError(
                f"SessionRun cannot run targets, got {', '.join(message.target)}: expected tensors to fetch, "
                "such as an output of that operation or of one that depends on it"
            )
        feed_names, fetches = [feed.name for feed in message.feed], list(message.fetch)
        if message.tensor_name_is_alias:
            feed_names, fetches = _names_of_aliases(servable, message, feed_names, fetches)
        fetches = [_with_index(fetch) for fetch in fetches]
        arrays = _feeds(message, map(_with_index, feed_names))
        for tensor_name, array in arrays.items():
            _refuse_vast(tensor_name, array)
            if servable.is_fragile:
                _require_signature_input(servable.signatures.values(), tensor_name, array)
        # TensorFlow would prepare each order of the same tensors anew, hence one order.
        feeds, wanted = sorted(arrays), sorted(set(fetches))
        run = self._prepared(
            servable,
            tuple((feed, element_type_of(arrays[feed].dtype).data_type) for feed in feeds),
            tuple(wanted),
        )
        inputs = [arrays[feed] for feed in feeds]
        run.settle_cost(inputs, _ANY_LENGTH_S)
        outputs = run.run(inputs, _sooner(timeout_s, message.options.timeout_in_ms))
        by_name = dict(zip(wanted, outputs, strict=True))
        return [by_name[fetch] for fetch in fetches]

    def _prepared(
        self, servable: SavedModelServable, feeds: tuple[tuple[str, DataType], ...], fetches: tuple[str, ...]
    ) -> SignatureRun:
        choice = feeds, fetches
        with self._lock:
            known = self._known.get(servable)
            if known is None:
                known = _Known(FileOperations(servable.model.meta_graph_def), {})
                self._known[servable] = known
            run = known.runs.get(choice)
            if run is None:
                if len(known.runs) >= self._max_choices:
                    raise ResourceExhaustedError(
                        f"{self._max_choices} different choices of feeds and fetches have been run on this "
                        "version of the model, expected one of them"
                    )
                for fetch in fetches:
                    operation = known.files.needed_for(fetch)
                    if operation is not None:
                        raise PermissionDeniedError(
                            f"Tensor {fetch} cannot be fetched: it depends on {operation}, which may read or "
                            "write files that a caller names"
                        )
                run = known.runs[choice] = servable.run_of_tensors(feeds, fetches)
            return run


def _feeds(message: messages.SessionRunRequest, tensor_names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the arrays that *message* feeds, by *tensor_names*, which stand in the order of its feeds."""
    arrays: dict[str, NDArray[Any]] = {}
    for feed, tensor_name in zip(message.feed, tensor_names, strict=True):
        if tensor_name in arrays:
            raise InvalidArgumentError(f'Endpoint "{tensor_name}" fed more than once.')
        arrays[tensor_name] = _array(feed)
    return arrays


def _array(feed: messages.NamedTensorProto) -> NDArray[Any]:
    try:
        return tensor_from_message(feed.tensor)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"tensor parsing error: {feed.name}") from error


def _with_index(tensor_name: str) -> str:
    """Return *tensor_name* as ``operation:index``; no index means output 0 (``graph/tensor_id.h``)."""
    return tensor_name if ":" in tensor_name else tensor_name + ":0"


def _names_of_aliases(
    servable: SavedModelServable,
    message: messages.SessionRunRequest,
    feeds: Sequence[str],
    fetches: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Return the tensors that a signature calls *feeds* and *fetches*."""
    key = message.model_spec.signature_name or DEFAULT_SIGNATURE_NAME
    signature = servable.signatures.get(key)
    if signature is None:
        raise FailedPreconditionError(f'Serving signature key "{key}" not found.')

    def names(aliases: Sequence[str], specs: Mapping[str, Any], kind: str) -> list[str]:
        for alias in aliases:
            if alias not in specs:
                raise InvalidArgumentError(
                    f"{alias} is no {kind} of signature {key}, expected one of {{{','.join(sorted(specs))}}}"
                )
        return [specs[alias].tensor_name for alias in aliases]

    return names(feeds, signature.inputs, "input"), names(fetches, signature.outputs, "output")


def _refuse_vast(tensor_name: str, array: NDArray[Any]) -> None:
    """Refuse an array without elements whose other dimensions are vast: kernels multiply them.

    ``Signature.check`` says the same of inputs.
    """
    if 0 in array.shape:
        num_bytes = prod(size for size in array.shape if size) * array.dtype.itemsize
        if num_bytes > MAX_FILLED_BYTES:
            raise InvalidArgumentError(
                f"Feed {tensor_name} has no elements and may have at most {MAX_FILLED_BYTES} bytes in its "
                f"other dimensions, got [{','.join(map(str, array.shape))}]"
            )


def _require_signature_input(signatures: Iterable[Signature], tensor_name: str, array: NDArray[Any]) -> None:
    """Refuse a feed whose shape nothing is known of, or another one than a signature states.

    Raises:
        FailedPreconditionError: It is such a feed.
    """
    specs = [
        spec
        for signature in signatures
        for spec in signature.inputs.values()
        if spec.tensor_name == tensor_name
    ]
    if any(spec.accepts_shape(array.shape) for spec in specs):
        return
    reason = (
        "this model has operations that end the process over a tensor of a wrong shape, so SessionRun feeds "
        "only inputs of its signatures, in their shapes"
    )
    if not specs:
        raise FailedPreconditionError(f"Tensor {tensor_name} cannot be fed: {reason}; it is none of them")
    expected = " or ".join(sorted({spec.shape_text() for spec in specs}))
    came = ",".join(map(str, array.shape))
    raise FailedPreconditionError(
        f"Tensor {tensor_name} cannot be fed: {reason}; expected {expected}, got [{came}]"
    )


def _sooner(timeout_s: float | None, timeout_in_ms: int) -> float | None:
    """Return the shorter of the two times; 0 and less in *timeout_in_ms* means none, as in TensorFlow."""
    if timeout_in_ms <= 0:
        return timeout_s
    return timeout_in_ms / 1000 if timeout_s is None else min(timeout_s, timeout_in_ms / 1000)


def _encode_response(
    tensors: Iterable[tuple[str, NDArray[Any]]], model_spec: messages.ModelSpec, as_content: bool
) -> bytes:
    """Return the serialized SessionRunResponse; values are copied once.

    Raises:
        ResourceExhaustedError: It does not fit into a protobuf message.
    """
    pieces: list[bytes | memoryview] = []
    for name, array in tensors:
        tensor = encode_tensor(array, as_content=as_content)
        encoded_name = name.encode()
        head = (
            encode_length_delimited_header(_NAME, len(encoded_name))
            + encoded_name
            + encode_length_delimited_header(_VALUE, tensor.nbytes)
        )
        pieces.append(encode_length_delimited_header(_TENSOR, len(head) + tensor.nbytes) + head)
        pieces.extend(tensor.pieces)
    pieces.append(messages.SessionRunResponse(model_spec=model_spec).SerializeToString())
    num_bytes = sum(map(len, pieces))
    if num_bytes > MAX_MESSAGE_BYTES:
        raise ResourceExhaustedError(
            f"the message takes {num_bytes} bytes, a protobuf message holds at most {MAX_MESSAGE_BYTES}"
        )
    return b"".join(pieces)
