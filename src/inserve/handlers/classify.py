"""Classify: serialized ``tf.Example`` in, labels and scores out.

Order, codes and texts: TensorFlow Serving, ``servables/tensorflow/classifier.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.handlers.inference_codec import (
    Classification,
    decode_classification_request,
    encode_classification_response,
    encode_examples_request,
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
    "CLASSIFY_METHOD",
    "ClassifyHandler",
    "choose_classification_outputs",
    "classify",
    "read_classification",
]

CLASSIFY_METHOD = "tensorflow/serving/classify"

_CLASSES = "classes"
_SCORES = "scores"


class ClassifyHandler:
    """Answers Classify for the servables that *finder* finds; called on any thread, by many at once.

    *check_method_name* refuses signatures that do not call themselves classification. *tap* hears
    of requests that were answered.
    """

    def __init__(
        self, finder: ServableFinder, check_method_name: bool = False, tap: RequestTap | None = None
    ) -> None:
        self._find = finder.find
        self._check_method_name = check_method_name
        self._tap = tap or RequestTap()

    def classify(
        self,
        spec: ModelSpec,
        examples: Sequence[bytes],
        timeout_s: float | None = None,
        may_block: bool = True,
        record: RequestRecord | None = None,
    ) -> Classification:
        """Return the classes that the signature of *spec* gives each serialized ``tf.Example``.

        *timeout_s* counts from now, in seconds. *record* learns what becomes known of the request.

        Raises:
            NotFoundError: No such servable is available.
            InvalidArgumentError: No such signature, none for classification, no examples, or outputs
                that are not classes.
            DeadlineExceededError: *timeout_s* has passed.
            WouldBlock: The run is not known to be short, and not *may_block*.
            InserveError: What TensorFlow said.
        """
        result, answered, servable_id = self._answer(spec, examples, timeout_s, may_block, record)
        if self._tap.listeners:
            self._tap.tell(
                LogType.CLASSIFY,
                servable_id,
                lambda: encode_examples_request(spec, examples),
                lambda: encode_classification_response(result, answered),
            )
        return result

    def classify_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None = None
    ) -> bytes:
        """Return the serialized ClassificationResponse to a serialized ClassificationRequest.

        Raises:
            InternalError: *request* is not a ClassificationRequest; the text is empty.
            InserveError: As ``classify``.
        """
        spec, examples = decode_classification_request(request)
        result, answered, servable_id = self._answer(spec, examples, timeout_s, may_block, record)
        response = encode_classification_response(result, answered)
        if self._tap.listeners:
            self._tap.tell(LogType.CLASSIFY, servable_id, lambda: request, lambda: response)
        return response

    def _answer(
        self,
        spec: ModelSpec | None,
        examples: Sequence[bytes],
        timeout_s: float | None,
        may_block: bool,
        record: RequestRecord | None,
    ) -> tuple[Classification, ModelSpec, ServableId]:
        """Return the classes, and who gave them: for the response, and the servable."""
        if record is not None:
            record.model_name = "" if spec is None else spec.name
        with self._find(spec) as handle:
            if record is not None:
                record.version = handle.id.version
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME  # type: ignore[union-attr]
            result = classify(
                handle.servable,
                signature_name,
                examples,
                self._check_method_name,
                timeout_s,
                may_block,
                record,
            )
        return result, ModelSpec(handle.id.name, handle.id.version, None, signature_name), handle.id


def classify(
    servable: SavedModelServable,
    signature_name: str,
    examples: Sequence[bytes],
    check_method_name: bool = False,
    timeout_s: float | None = None,
    may_block: bool = True,
    record: RequestRecord | None = None,
) -> Classification:
    """Return the classes that a signature of *servable* gives serialized *examples*.

    *record* learns the signature and what the run took.

    Raises:
        InserveError: As ``ClassifyHandler.classify``.
    """
    signature = signature_for_examples(servable, signature_name, record)
    aliases = choose_classification_outputs(servable, signature, check_method_name)
    outputs = run_on_examples(servable, signature, aliases, examples, timeout_s, may_block, record)
    return read_classification(outputs, len(examples))


def choose_classification_outputs(
    servable: SavedModelServable, signature: Signature, check_method_name: bool
) -> tuple[str, ...]:
    """Return the aliases to fetch: ``classes``, ``scores``, or both.

    Raises:
        InvalidArgumentError: *signature* cannot classify.
    """
    if check_method_name and signature.method_name != CLASSIFY_METHOD:
        raise InvalidArgumentError(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. "
            f"Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgumentError("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidArgumentError(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if EXAMPLES_ALIAS not in signature.inputs:
        raise InvalidArgumentError(
            f"No classification inputs found in SignatureDef: {signature_dump(servable, signature)}"
        )
    aliases = tuple(alias for alias in (_CLASSES, _SCORES) if alias in signature.outputs)
    if not aliases:
        raise InvalidArgumentError(
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {signature_dump(servable, signature)}'
        )
    return aliases


def read_classification(outputs: Mapping[str, NDArray[Any]], num_examples: int) -> Classification:
    """Return what a run gave under ``classes`` and ``scores``, checked.

    Raises:
        InvalidArgumentError: Not ``[num_examples, C]``, not strings and floats, or of two widths.
    """
    labels = _checked(outputs.get(_CLASSES), "classes", "DT_STRING", num_examples)
    scores = _checked(outputs.get(_SCORES), "scores", "DT_FLOAT", num_examples)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise InvalidArgumentError(
            "Tensors class and score should match in dim_size(1). "
            f"Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return Classification(labels, scores)


def _checked(
    array: NDArray[Any] | None, name: str, wanted_type: str, num_examples: int
) -> NDArray[Any] | None:
    if array is None:
        return None
    if array.ndim != 2:
        raise InvalidArgumentError(
            f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array)}"
        )
    if type_text(array) != wanted_type:
        raise InvalidArgumentError(f"Expected {name} Tensor of {wanted_type}. Got: {type_text(array)}")
    if len(array) != num_examples:
        raise InvalidArgumentError(f"Expected {name} output batch size of {num_examples}. Got: {len(array)}")
    return array
