"""``tensorflow.serving.PredictionService``: its methods, bytes in and bytes out."""

from __future__ import annotations

from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.predict import PredictHandler

__all__ = ["prediction_service_methods"]

_SERVICE = "/tensorflow.serving.PredictionService/"


def prediction_service_methods(predict: PredictHandler, model_metadata: ModelMetadataHandler) -> MethodTable:
    """Return the service's methods by path.

    The client's remaining deadline becomes the time limit of the run, as in TensorFlow Serving.
    """
    predict_message = predict.predict_message

    def predict_method(request: bytes, context: CallContext) -> bytes:
        timeout_s = None if context.deadline is None else context.remaining_s()
        return predict_message(request, timeout_s, context.may_block)

    def get_model_metadata_method(request: bytes, context: CallContext) -> bytes:
        del context
        return model_metadata.get_model_metadata_message(request)

    return {
        _SERVICE + "Predict": predict_method,
        _SERVICE + "GetModelMetadata": get_model_metadata_method,
    }
