"""Predict: arrays in, arrays out; the protobuf form converts at the edge.

Behaviour: TensorFlow Serving, ``servables/tensorflow/predict_impl.cc`` and ``predict_util.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec, ServableFinder
from inserve.handlers.predict_codec import (
    TensorSource,
    decode_predict_request,
    encode_predict_request,
    encode_predict_response,
    to_array,
)
from inserve.handlers.request_tap import LogType, RequestTap
from inserve.handlers.run_signature import SignatureResult, run_signature
from inserve.lifecycle.servable_handle import ServableHandle
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.input_value import array_from_value
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import Signature, TensorSpec

__all__ = ["PredictHandler", "decode_input"]


class PredictHandler:
    """Answers Predict for the servables that *finder* finds; called on any thread, by many at once.

    *as_content* puts values of responses into ``tensor_content`` instead of typed fields.
    *check_method_name* refuses signatures whose method name is not one of TensorFlow Serving's. *tap*
    hears of requests that were answered.
    """

    def __init__(
        self,
        finder: ServableFinder,
        as_content: bool = False,
        check_method_name: bool = False,
        tap: RequestTap | None = None,
    ) -> None:
        self._find = finder.find
        self._as_content = as_content
        self._check_method_name = check_method_name
        self._tap = tap or RequestTap()

    def predict(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Any],
        output_filter: Sequence[str] = (),
        timeout_s: float | None = None,
        may_block: bool = True,
    ) -> dict[str, NDArray[Any]]:
        """Run the signature that *spec* names and return its outputs by alias.

        *inputs* holds anything ``array_from_value`` takes. Arrays returned belong to the caller and
        stay valid when the model is unloaded. *timeout_s* counts from now, in seconds.

        Raises:
            NotFoundError: No such servable is available.
            FailedPreconditionError: It has no such signature.
            InvalidArgumentError: The inputs or the filter do not fit the signature.
            DeadlineExceededError: *timeout_s* has passed.
            WouldBlock: The run is not known to be short, and not *may_block*.
            InserveError: What TensorFlow said.
        """
        handle = self._find(spec)
        try:
            aliases, arrays = run_signature(
                handle.servable,
                spec.signature_name or DEFAULT_SIGNATURE_NAME,
                inputs,
                array_from_value,
                output_filter,
                timeout_s,
                may_block,
                self._check_method_name,
            )
            if self._tap.listeners:
                self._tell_of_arrays(handle, spec, inputs, output_filter, aliases, arrays)
        except (TypeError, LookupError):
            _check_names(inputs)
            raise
        finally:
            handle.release()
        if len(aliases) == 1:
            return {aliases[0]: arrays[0]}
        return dict(zip(aliases, arrays, strict=True))

    def predict_bound(
        self,
        spec: ModelSpec,
        bind: Callable[[Signature | None], Mapping[str, NDArray[Any]]],
        timeout_s: float | None = None,
        may_block: bool = True,
        record: RequestRecord | None = None,
    ) -> SignatureResult:
        """Run the signature that *spec* names on what *bind* makes for it.

        For a form whose values can only be read with the signature at hand. *bind* gets the
        signature, or None if the model has none of that name, and returns arrays by alias, of the
        signature's dtypes; what it raises is raised. *record* learns what becomes known of the
        request. Returns the aliases of all outputs, sorted, and their arrays in the same order; see
        ``SignatureResult`` for their types.

        Raises:
            InserveError: As ``predict``.
        """
        if record is not None:
            record.model_name = spec.name
        handle = self._find(spec)
        try:
            servable = handle.servable
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME
            signature = servable.signatures.get(signature_name)
            if record is not None:
                record.version = handle.id.version
                record.signature_name = "" if signature is None else signature_name
            inputs = bind(signature)
            aliases, arrays = run_signature(
                servable,
                signature_name,
                inputs,
                _as_is,
                (),
                timeout_s,
                may_block,
                self._check_method_name,
                record,
            )
            if self._tap.listeners:
                self._tell_of_arrays(handle, spec, inputs, (), aliases, arrays)
        finally:
            handle.release()
        return aliases, arrays

    def predict_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None = None
    ) -> bytes:
        """Return the serialized PredictResponse to a serialized PredictRequest.

        *record* learns what becomes known of the request.

        Raises:
            InternalError: *request* is not a PredictRequest; the text is empty.
            InserveError: As ``predict``.
        """
        spec, inputs, output_filter = decode_predict_request(request)
        if record is not None:
            record.model_name = "" if spec is None else spec.name
        handle = self._find(spec)
        try:
            version = handle.id.version
            if record is not None:
                record.version = version
            name = handle.id.name
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME  # type: ignore[union-attr]
            aliases, arrays = run_signature(
                handle.servable,
                signature_name,
                inputs,
                decode_input,
                output_filter,
                timeout_s,
                may_block,
                self._check_method_name,
                record,
            )
        finally:
            handle.release()
        response = encode_predict_response(
            zip(aliases, arrays, strict=True), name, version, signature_name, self._as_content
        )
        if self._tap.listeners:
            self._tap.tell(LogType.PREDICT, handle.id, lambda: request, lambda: response)
        return response

    def _tell_of_arrays(
        self,
        handle: ServableHandle[SavedModelServable],
        spec: ModelSpec,
        inputs: Mapping[str, Any],
        output_filter: Sequence[str],
        aliases: Sequence[str],
        arrays: Sequence[NDArray[Any]],
    ) -> None:
        signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME
        specs = handle.servable.signatures[signature_name].inputs

        def request() -> bytes:
            values = {alias: _as_sent(value, specs[alias]) for alias, value in inputs.items()}
            return encode_predict_request(spec, values, output_filter)

        def response() -> bytes:
            outputs = zip(aliases, arrays, strict=True)
            return encode_predict_response(
                outputs, handle.id.name, handle.id.version, signature_name, self._as_content
            )

        self._tap.tell(LogType.PREDICT, handle.id, request, response)


def _check_names(inputs: object) -> None:
    """Check that *inputs* are what callers in the process are to give.

    Raises:
        InvalidArgumentError: They are no mapping, or a key is no string.
    """
    if not isinstance(inputs, Mapping):
        raise InvalidArgumentError(
            f"inputs: expected a mapping of input names to arrays, got {type(inputs).__name__}"
        )
    for name in inputs:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"inputs: expected names of inputs as keys, got {name!r}")


def decode_input(source: TensorSource, spec: TensorSpec) -> NDArray[Any]:
    """Return the array of one input of a request.

    Raises:
        InvalidArgumentError: It is not a valid tensor.
    """
    try:
        return to_array(source)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"tensor parsing error: {spec.alias}") from error


def _as_is(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    del spec
    return array


def _as_sent(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """Return *value* as a client would have sent it: strings are bytes."""
    array = array_from_value(value, spec)
    if array.dtype != np.object_:
        return array
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [
        item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()
    ]
    return encoded
