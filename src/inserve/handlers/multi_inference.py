"""MultiInference: several signatures of one model on the same examples, in one run.

Order, codes and texts: TensorFlow Serving, ``servables/tensorflow/multi_inference.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, UnimplementedError
from inserve.handlers.classify import CLASSIFY_METHOD, choose_classification_outputs, read_classification
from inserve.handlers.inference_codec import (
    InferenceTask,
    TaskResult,
    decode_multi_inference_request,
    encode_multi_inference_response,
)
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec, ServableFinder
from inserve.handlers.placement import WouldBlock
from inserve.handlers.regress import (
    REGRESS_METHOD,
    REGRESSION_ALIAS,
    check_regression_signature,
    read_regression,
)
from inserve.handlers.request_tap import LogType, RequestTap
from inserve.handlers.run_examples import EXAMPLES_ALIAS, example_array
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import Signature

__all__ = ["MultiInferenceHandler", "multi_inference"]


class _Plan(NamedTuple):
    """One task whose signature can do what is asked."""

    task: InferenceTask
    signature: Signature
    aliases: tuple[str, ...]


class MultiInferenceHandler:
    """Answers MultiInference for the servables that *finder* finds; called on any thread, by many at once.

    *check_method_name* refuses signatures that call themselves something else than the task does.
    *tap* hears of requests that were answered.
    """

    def __init__(
        self, finder: ServableFinder, check_method_name: bool = False, tap: RequestTap | None = None
    ) -> None:
        self._find = finder.find
        self._check_method_name = check_method_name
        self._tap = tap or RequestTap()

    def multi_inference_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None = None
    ) -> bytes:
        """Return the serialized MultiInferenceResponse to a serialized MultiInferenceRequest.

        The first task says which servable; versions and labels of the others are not looked at.
        *timeout_s* counts from now, in seconds. *record* learns what becomes known of the request.

        Raises:
            InternalError: *request* is not a MultiInferenceRequest; the text is empty.
            NotFoundError: No such servable is available.
            InvalidArgumentError: Tasks of several models, a signature twice or of another kind, no
                examples, or outputs of another shape or type.
            UnimplementedError: A task that is neither classification nor regression.
            DeadlineExceededError: *timeout_s* has passed.
            WouldBlock: The run is not known to be short, and not *may_block*.
            InserveError: What TensorFlow said.
        """
        tasks, examples = decode_multi_inference_request(request)
        spec = tasks[0].spec if tasks else ModelSpec()
        if record is not None:
            record.model_name = spec.name
        with self._find(spec) as handle:
            if record is not None:
                record.version = handle.id.version
            results = multi_inference(
                handle.servable,
                tasks,
                examples,
                handle.id.version,
                self._check_method_name,
                timeout_s,
                may_block,
                record,
            )
        response = encode_multi_inference_response(results)
        if self._tap.listeners:
            self._tap.tell(LogType.MULTI_INFERENCE, handle.id, lambda: request, lambda: response)
        return response


def multi_inference(
    servable: SavedModelServable,
    tasks: Sequence[InferenceTask],
    examples: Sequence[bytes],
    version: int | None = None,
    check_method_name: bool = False,
    timeout_s: float | None = None,
    may_block: bool = True,
    record: RequestRecord | None = None,
) -> list[TaskResult]:
    """Return the results of *tasks* on serialized *examples*, in order; *version* is put into each.

    *record* learns what ran.

    Raises:
        InserveError: As ``MultiInferenceHandler.multi_inference_message``.
    """
    plans = _plans(servable, tasks, check_method_name)
    array = example_array(examples)
    for plan in plans:
        plan.signature.check([array], servable.check_shapes)
    feeds = sorted({plan.signature.inputs[EXAMPLES_ALIAS].tensor_name for plan in plans})
    fetches = sorted({plan.signature.outputs[alias].tensor_name for plan in plans for alias in plan.aliases})
    run = servable.tensor_run(tuple(feeds), tuple(fetches))
    arrays = [array] * len(feeds)
    if not may_block and not run.is_short(arrays):
        raise WouldBlock
    started = perf_counter()
    outputs = dict(zip(fetches, run.run(arrays, timeout_s), strict=True))
    if record is not None:
        record.run_s = perf_counter() - started
        record.num_examples = len(examples)
    return [_result(plan, outputs, len(examples), version) for plan in plans]


def _plans(
    servable: SavedModelServable, tasks: Sequence[InferenceTask], check_method_name: bool
) -> list[_Plan]:
    plans = []
    names: set[str] = set()
    for task in tasks:
        spec = task.spec
        if not spec.name:
            raise InvalidArgumentError("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0].spec.name:
            raise InvalidArgumentError(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE_NAME
        if name in names:
            raise InvalidArgumentError(f"Duplicate evaluation of signature: {name}")
        names.add(name)
        signature = servable.signatures.get(name)
        if signature is None:
            raise InvalidArgumentError(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            aliases = choose_classification_outputs(servable, signature, check_method_name)
        elif task.method_name == REGRESS_METHOD:
            check_regression_signature(servable, signature, check_method_name)
            aliases = (REGRESSION_ALIAS,)
        else:
            raise UnimplementedError(f"Unsupported signature method_name: {task.method_name}")
        plans.append(_Plan(task, signature, aliases))
    return plans


def _result(
    plan: _Plan, outputs: dict[str, NDArray[Any]], num_examples: int, version: int | None
) -> TaskResult:
    arrays = {alias: outputs[plan.signature.outputs[alias].tensor_name] for alias in plan.aliases}
    spec = ModelSpec(plan.task.spec.name, version, None, plan.signature.key)
    if plan.task.method_name == CLASSIFY_METHOD:
        return TaskResult(spec, read_classification(arrays, num_examples))
    return TaskResult(spec, read_regression(arrays[REGRESSION_ALIAS], num_examples))
