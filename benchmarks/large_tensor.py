"""A Predict of 1,000,000 floats, bytes to bytes, in units of copying its bytes twice."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import HALF_PLUS_TWO, compare, microseconds, ratio, report
from tensorflow_serving.apis import predict_pb2

import inserve
from inserve.frontends.grpc_api.method import CallContext


def request_bytes(values: np.ndarray, as_content: bool) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=len(values))
    if as_content:
        tensor.tensor_content = values.tobytes()
    else:
        tensor.float_val.extend(values.tolist())
    return request.SerializeToString()


def main() -> None:
    values = np.random.default_rng(1).random(1_000_000, np.float32)
    with inserve.Server(models={"half_plus_two": HALF_PLUS_TWO.parent}) as server:
        handler = server.grpc_methods["/tensorflow.serving.PredictionService/Predict"]
        context = CallContext()
        content, typed = request_bytes(values, True), request_bytes(values, False)
        answer = predict_pb2.PredictResponse.FromString(handler(typed, context))
        assert np.allclose(answer.outputs["y"].float_val, values / 2 + 3)

        def copy_twice() -> None:
            bytes(bytearray(typed))

        figures = compare(
            {
                "its bytes copied twice": copy_twice,
                "tensor_content": lambda: handler(content, context),
                "float_val": lambda: handler(typed, context),
            },
            seconds_per_round=0.2,
        )
    for name, seconds in figures.items():
        print(f"{name:<28} {microseconds(seconds)}")
    for name in ("tensor_content", "float_val"):
        report(f"{name} / copying twice", ratio(figures, name, "its bytes copied twice"), 4)


if __name__ == "__main__":
    main()
