"""``tensorflow.serving.PredictionService``: its methods, bytes in and bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable
from inserve.handlers.classify import ClassifyHandler
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.multi_inference import MultiInferenceHandler
from inserve.handlers.predict import PredictHandler
from inserve.handlers.regress import RegressHandler

__all__ = ["prediction_service_methods"]

_SERVICE = "/tensorflow.serving.PredictionService/"

_RunsModel: TypeAlias = Callable[[bytes, "float | None", bool], bytes]
"""Request, seconds it may take, and whether the thread may be held up."""


def prediction_service_methods(
    predict: PredictHandler,
    classify: ClassifyHandler,
    regress: RegressHandler,
    multi_inference: MultiInferenceHandler,
    model_metadata: ModelMetadataHandler,
) -> MethodTable:
    """Return the service's methods by path.

    The client's remaining deadline becomes the time limit of the run, as in TensorFlow Serving.
    """

    def get_model_metadata_method(request: bytes, context: CallContext) -> bytes:
        del context
        return model_metadata.get_model_metadata_message(request)

    return {
        _SERVICE + "Predict": _within_deadline(predict.predict_message),
        _SERVICE + "Classify": _within_deadline(classify.classify_message),
        _SERVICE + "Regress": _within_deadline(regress.regress_message),
        _SERVICE + "MultiInference": _within_deadline(multi_inference.multi_inference_message),
        _SERVICE + "GetModelMetadata": get_model_metadata_method,
    }


def _within_deadline(answer: _RunsModel) -> Method:
    def method(request: bytes, context: CallContext) -> bytes:
        timeout_s = None if context.deadline is None else context.remaining_s()
        return answer(request, timeout_s, context.may_block)

    return method
