"""``:predict`` with a body that is not JSON: ``.npy`` arrays and serialized messages.

The C++ server has neither. Errors are JSON, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.frontends.rest_api.npy import array_of_type, can_write_npy, read_npy, write_npy
from inserve.frontends.rest_api.predict_route import require_signature, response_of_outputs
from inserve.frontends.rest_api.response import Response
from inserve.frontends.rest_api.route import LONGEST_INLINE_BYTES, Answer, SignatureInfo
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_codec import MalformedRequestError
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages
from inserve.protos.wire import length_delimited_fields

__all__ = ["NPY_TYPE", "PROTOBUF_TYPE", "MessageRoute", "NpyRoute", "media_type"]

NPY_TYPE = b"application/x-npy"
PROTOBUF_TYPE = b"application/x-protobuf"

_NOT_A_REQUEST = "the body is not a serialized tensorflow.serving.PredictRequest"


def media_type(content_type: bytes) -> bytes:
    """Return the value of a Content-Type header in lower case, without its parameters."""
    return content_type.partition(b";")[0].strip().lower()


class NpyRoute:
    """One array for a signature with one input; the answer is one too if *wants_npy* and it can be."""

    is_rest = True
    api = "predict"

    def __init__(
        self, handler: PredictHandler, spec: ModelSpec, timeout_s: float | None, wants_npy: bool
    ) -> None:
        self.model_name = spec.name
        self._predict = handler.predict_bound
        self._spec = spec
        self._timeout_s = timeout_s
        self._wants_npy = wants_npy

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        array = read_npy(body)
        if len(body) > LONGEST_INLINE_BYTES:
            return lambda record: self._run(array, True, record)
        try:
            return self._run(array, False, record)
        except WouldBlock:
            return lambda record: self._run(array, True, record)

    def _run(self, array: NDArray[Any], may_block: bool, record: RequestRecord | None) -> Response:
        def bind(signature: SignatureInfo | None) -> Mapping[str, NDArray[Any]]:
            return _single_input(require_signature(signature, self._spec.signature_name), array)

        aliases, arrays = self._predict(self._spec, bind, self._timeout_s, may_block, record)
        return self._response(aliases, arrays)

    def _response(self, aliases: Sequence[str], arrays: Sequence[NDArray[Any]]) -> Response:
        if self._wants_npy and len(arrays) == 1 and can_write_npy(arrays[0]):
            return Response(200, NPY_TYPE, write_npy(arrays[0]))
        return response_of_outputs(aliases, arrays, is_row=False)


class MessageRoute:
    """A serialized PredictRequest, answered with a serialized PredictResponse.

    What the target says of the model takes precedence over what the message says.
    """

    is_rest = True
    api = "predict"

    def __init__(self, handler: PredictHandler, spec: ModelSpec, timeout_s: float | None) -> None:
        self.model_name = spec.name
        self._predict: Callable[[bytes, float | None, bool, RequestRecord | None], bytes] = (
            handler.predict_message
        )
        self._timeout_s = timeout_s
        message = messages.PredictRequest()
        message.model_spec.name = spec.name
        if spec.version is not None:
            message.model_spec.version.value = spec.version
        if spec.version_label is not None:
            message.model_spec.version_label = spec.version_label
        self._override = bytes(message.SerializeToString())
        """Behind another PredictRequest, this is merged into it: its fields win."""

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        try:
            for _ in length_delimited_fields(body, 0, len(body)):
                pass  # a body that ends inside a field would swallow what is put behind it
        except (ValueError, IndexError) as error:
            raise InvalidArgumentError(_NOT_A_REQUEST) from error
        request = body + self._override
        if len(body) > LONGEST_INLINE_BYTES:
            return lambda record: self._run(request, True, record)
        try:
            return self._run(request, False, record)
        except WouldBlock:
            return lambda record: self._run(request, True, record)

    def _run(self, request: bytes, may_block: bool, record: RequestRecord | None) -> Response:
        try:
            response = self._predict(request, self._timeout_s, may_block, record)
        except MalformedRequestError as error:
            raise InvalidArgumentError(_NOT_A_REQUEST) from error
        return Response(200, PROTOBUF_TYPE, response)


def _single_input(signature: SignatureInfo, array: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    if len(signature.inputs) != 1:
        raise InvalidArgumentError(
            f"signature {signature.key} has {len(signature.inputs)} inputs "
            f"({', '.join(signature.inputs)}), a body of type {NPY_TYPE.decode()} fills exactly one"
        )
    [(alias, spec)] = signature.inputs.items()
    return {alias: array_of_type(array, spec.dtype, alias)}
