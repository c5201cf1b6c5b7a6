"""Predict through any gRPC channel, with the library's own messages and no generated stub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

from inserve.protos import messages
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

__all__ = ["Arrays", "Predict", "predict_over"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Predict: TypeAlias = Callable[[Arrays], Arrays]
"""Inputs by name in, outputs by name out."""


def predict_over(channel: Any, model_name: str, timeout_s: float) -> Predict:
    """Return a function that asks *model_name* over *channel*, a ``grpc.Channel`` or one like it.

    It raises ``grpc.RpcError`` when the server refuses or *timeout_s* passes.
    """
    call = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=messages.PredictRequest.SerializeToString,
        response_deserializer=messages.PredictResponse.FromString,
    )

    def predict(inputs: Arrays) -> Arrays:
        request = messages.PredictRequest()
        request.model_spec.name = model_name
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tensor_to_message(array, as_content=True))
        response = call(request, timeout=timeout_s)
        return {alias: tensor_from_message(tensor) for alias, tensor in response.outputs.items()}

    return predict
