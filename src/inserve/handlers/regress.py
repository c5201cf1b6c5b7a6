"""Regress: serialized ``tf.Example`` in, one number for each out.

Order, codes and texts: TensorFlow Serving, ``servables/tensorflow/regressor.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.handlers.inference_codec import (
    decode_regression_request,
    encode_examples_request,
    encode_regression_response,
)
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec, ServableFinder
from inserve.handlers.request_tap import LogType, RequestTap
from inserve.handlers.run_examples import (
    EXAMPLES_ALIAS,
    run_on_examples,
    shape_text,
    signature_dump,
    signature_for_examples,
    type_text,
)
from inserve.lifecycle.servable_id import ServableId
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import Signature

__all__ = [
    "REGRESSION_ALIAS",
    "REGRESS_METHOD",
    "RegressHandler",
    "check_regression_signature",
    "read_regression",
    "regress",
]

REGRESS_METHOD = "tensorflow/serving/regress"

REGRESSION_ALIAS = "outputs"
"""The alias of the one output."""


class RegressHandler:
    """Answers Regress for the servables that *finder* finds; called on any thread, by many at once.

    *check_method_name* refuses signatures that do not call themselves regression. *tap* hears of
    requests that were answered.
    """

    def __init__(
        self, finder: ServableFinder, check_method_name: bool = False, tap: RequestTap | None = None
    ) -> None:
        self._find = finder.find
        self._check_method_name = check_method_name
        self._tap = tap or RequestTap()

    def regress(
        self,
        spec: ModelSpec,
        examples: Sequence[bytes],
        timeout_s: float | None = None,
        may_block: bool = True,
        record: RequestRecord | None = None,
    ) -> NDArray[np.float32]:
        """Return the value that the signature of *spec* gives each serialized ``tf.Example``, ``[N]``.

        *timeout_s* counts from now, in seconds. *record* learns what becomes known of the request.

        Raises:
            NotFoundError: No such servable is available.
            InvalidArgumentError: No such signature, none for regression, no examples, or an output
                that is not one number for each.
            DeadlineExceededError: *timeout_s* has passed.
            WouldBlock: The run is not known to be short, and not *may_block*.
            InserveError: What TensorFlow said.
        """
        values, answered, servable_id = self._answer(spec, examples, timeout_s, may_block, record)
        if self._tap.listeners:
            self._tap.tell(
                LogType.REGRESS,
                servable_id,
                lambda: encode_examples_request(spec, examples),
                lambda: encode_regression_response(values, answered),
            )
        return values

    def regress_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None = None
    ) -> bytes:
        """Return the serialized RegressionResponse to a serialized RegressionRequest.

        Raises:
            InternalError: *request* is not a RegressionRequest; the text is empty.
            InserveError: As ``regress``.
        """
        spec, examples = decode_regression_request(request)
        values, answered, servable_id = self._answer(spec, examples, timeout_s, may_block, record)
        response = encode_regression_response(values, answered)
        if self._tap.listeners:
            self._tap.tell(LogType.REGRESS, servable_id, lambda: request, lambda: response)
        return response

    def _answer(
        self,
        spec: ModelSpec | None,
        examples: Sequence[bytes],
        timeout_s: float | None,
        may_block: bool,
        record: RequestRecord | None,
    ) -> tuple[NDArray[np.float32], ModelSpec, ServableId]:
        """Return the values, and who gave them: for the response, and the servable."""
        if record is not None:
            record.model_name = "" if spec is None else spec.name
        with self._find(spec) as handle:
            if record is not None:
                record.version = handle.id.version
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME  # type: ignore[union-attr]
            values = regress(
                handle.servable,
                signature_name,
                examples,
                self._check_method_name,
                timeout_s,
                may_block,
                record,
            )
        return values, ModelSpec(handle.id.name, handle.id.version, None, signature_name), handle.id


def regress(
    servable: SavedModelServable,
    signature_name: str,
    examples: Sequence[bytes],
    check_method_name: bool = False,
    timeout_s: float | None = None,
    may_block: bool = True,
    record: RequestRecord | None = None,
) -> NDArray[np.float32]:
    """Return the value, ``[N]``, that a signature of *servable* gives each of serialized *examples*.

    *record* learns the signature and what the run took.

    Raises:
        InserveError: As ``RegressHandler.regress``.
    """
    signature = signature_for_examples(servable, signature_name, record)
    check_regression_signature(servable, signature, check_method_name)
    outputs = run_on_examples(
        servable, signature, (REGRESSION_ALIAS,), examples, timeout_s, may_block, record
    )
    return read_regression(outputs[REGRESSION_ALIAS], len(examples))


def check_regression_signature(
    servable: SavedModelServable, signature: Signature, check_method_name: bool
) -> None:
    """Refuse a signature that is not one input ``inputs`` and one output ``outputs``.

    Raises:
        InvalidArgumentError: *signature* cannot do regression.
    """
    if check_method_name and signature.method_name != REGRESS_METHOD:
        raise InvalidArgumentError(
            f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgumentError("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidArgumentError("Expected one output Tensor.")
    if EXAMPLES_ALIAS not in signature.inputs:
        raise InvalidArgumentError(
            f"No regression inputs found in SignatureDef: {signature_dump(servable, signature)}"
        )
    if REGRESSION_ALIAS not in signature.outputs:
        raise InvalidArgumentError(
            f"No regression outputs found in SignatureDef: {signature_dump(servable, signature)}"
        )


def read_regression(array: NDArray[Any], num_examples: int) -> NDArray[np.float32]:
    """Return the values of a run as ``[N]``, checked.

    Raises:
        InvalidArgumentError: Neither ``[num_examples]`` nor ``[num_examples, 1]``, or not floats.
    """
    if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
        raise InvalidArgumentError(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {shape_text(array)}"
        )
    if len(array) != num_examples:
        raise InvalidArgumentError(
            f"Input batch size did not match output batch size: {num_examples} vs. {len(array)}"
        )
    if type_text(array) != "DT_FLOAT":
        raise InvalidArgumentError(f"Expected output Tensor of DT_FLOAT.  Got: {type_text(array)}")
    return array.reshape(-1)
