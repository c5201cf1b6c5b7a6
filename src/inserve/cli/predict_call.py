"""Predict through any gRPC channel or over REST, as a client without this library would."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inserve.protos import messages
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

__all__ = ["Arrays", "Predict", "predict_over", "predict_over_rest"]

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


@contextmanager
def predict_over_rest(port: int, model_name: str, timeout_s: float) -> Iterator[Predict]:
    """Open one connection to *port* of this machine; give a function that asks *model_name* over it.

    Outputs come as JSON numbers make them. The function raises ``RuntimeError`` with the body of an answer
    that is not OK, and ``OSError`` where the connection fails or *timeout_s* passes.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:

        def predict(inputs: Arrays) -> Arrays:
            body = json.dumps({"inputs": {alias: array.tolist() for alias, array in inputs.items()}})
            connection.request("POST", f"/v1/models/{model_name}:predict", body)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(text.decode())
            outputs = json.loads(text)["outputs"]
            return {alias: np.asarray(value) for alias, value in outputs.items()}

        yield predict
