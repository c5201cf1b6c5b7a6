"""``tensorflow.serving.PredictionService``: its methods, bytes in and bytes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

from inserve.errors import Code, InserveError
from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable, TogetherTable
from inserve.handlers.classify import ClassifyHandler
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.multi_inference import MultiInferenceHandler
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_together import PredictTogether
from inserve.handlers.regress import RegressHandler
from inserve.metrics.request_record import RequestRecord
from inserve.metrics.serving_metrics import GRPC, MULTI_INFERENCE, ServingMetrics

__all__ = ["predict_together_method", "prediction_service_methods"]

_SERVICE = "/tensorflow.serving.PredictionService/"

_RunsModel: TypeAlias = Callable[[bytes, "float | None", bool, "RequestRecord | None"], bytes]
"""Request, seconds it may take, whether the thread may be held up, and what learns of the request."""


def prediction_service_methods(
    predict: PredictHandler,
    classify: ClassifyHandler,
    regress: RegressHandler,
    multi_inference: MultiInferenceHandler,
    model_metadata: ModelMetadataHandler,
    metrics: ServingMetrics | None = None,
) -> MethodTable:
    """Return the service's methods by path; their answers are counted in *metrics*.

    The client's remaining deadline becomes the time limit of the run, as in TensorFlow Serving.
    """

    def get_model_metadata_method(request: bytes, context: CallContext) -> bytes:
        del context
        return model_metadata.get_model_metadata_message(request)

    def runs_model(api: str, answer: _RunsModel) -> Method:
        return _within_deadline(answer) if metrics is None else _counted(answer, api, metrics)

    return {
        _SERVICE + "Predict": runs_model("Predict", predict.predict_message),
        _SERVICE + "Classify": runs_model("Classify", classify.classify_message),
        _SERVICE + "Regress": runs_model("Regress", regress.regress_message),
        _SERVICE + "MultiInference": runs_model(MULTI_INFERENCE, multi_inference.multi_inference_message),
        _SERVICE + "GetModelMetadata": get_model_metadata_method,
    }


def _within_deadline(answer: _RunsModel) -> Method:
    def method(request: bytes, context: CallContext) -> bytes:
        timeout_s = None if context.deadline is None else context.remaining_s()
        return answer(request, timeout_s, context.may_block, None)

    return method


def _counted(answer: _RunsModel, api: str, metrics: ServingMetrics) -> Method:
    count = metrics.answered
    ok = Code.OK

    def method(request: bytes, context: CallContext) -> bytes:
        started = perf_counter()
        record = RequestRecord()
        timeout_s = None if context.deadline is None else context.remaining_s()
        try:
            response = answer(request, timeout_s, context.may_block, record)
        except WouldBlock:  # no answer yet
            raise
        except BaseException as error:
            count(record, api, GRPC, _code_of(error), perf_counter() - started)
            raise
        count(record, api, GRPC, ok, perf_counter() - started)
        return response

    return method


def predict_together_method(predict: PredictTogether, metrics: ServingMetrics) -> TogetherTable:
    """Return Predict for calls that were received together; their answers are counted in *metrics*."""
    count = metrics.answered

    def method(requests: Sequence[bytes], contexts: Sequence[CallContext]) -> list[bytes | None]:
        started = perf_counter()
        timeouts_s = [None if context.deadline is None else context.remaining_s() for context in contexts]
        answered = predict.answer(requests, timeouts_s)
        seconds = perf_counter() - started
        for known in answered:
            if known is not None:
                count(known.record, "Predict", GRPC, Code.OK, seconds)
        return [None if known is None else known.answer for known in answered]

    return {_SERVICE + "Predict": method}


def _code_of(error: BaseException) -> Code:
    """Return the code that the caller gets for *error*; see ``status_codes.status_of``."""
    if isinstance(error, InserveError) and error.code is not Code.OK:
        return error.code
    return Code.RESOURCE_EXHAUSTED if isinstance(error, MemoryError) else Code.INTERNAL
