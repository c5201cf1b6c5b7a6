"""Latency of every way to ask inside the process: half-plus-two, one row, medians.

References of the same run: a prepared cffi ``TF_SessionRun`` on the calling thread (tensors and
pointers made beforehand), and the signature call of ``tf.saved_model.load``.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from measure import HALF_PLUS_TWO, compare, microseconds, ratio, report
from session_run import PREPARED, half_plus_two_runner, prepared_call
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import inserve
from inserve.frontends.grpc_api.method import CallContext
from inserve.tensorflow_c.load_saved_model import load_saved_model


def main() -> None:
    row = np.array([1.0], np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(row))
    data = request.SerializeToString()
    tensor = tf.constant(row)
    signature = tf.saved_model.load(str(HALF_PLUS_TWO)).signatures["serving_default"]
    with (
        inserve.load(HALF_PLUS_TWO) as model,
        inserve.Server(models={"half_plus_two": HALF_PLUS_TWO.parent}) as server,
    ):
        reference = load_saved_model(str(HALF_PLUS_TWO))
        prepared = prepared_call(half_plus_two_runner(reference))
        handler = server.grpc_methods["/tensorflow.serving.PredictionService/Predict"]
        context = CallContext()
        stub = prediction_service_pb2_grpc.PredictionServiceStub(server.channel())
        figures = compare(
            {
                PREPARED: prepared,
                "model(x=array)": lambda: model(x=row),
                "server.predict": lambda: server.predict("half_plus_two", {"x": row}),
                "server.predict, a list": lambda: server.predict("half_plus_two", {"x": [1.0]}),
                "Predict, bytes to bytes": lambda: handler(data, context),
                "stub on server.channel()": lambda: stub.Predict(request),
                "tf.saved_model.load": lambda: signature(x=tensor),
            }
        )
    reference.close()
    for name, values in figures.items():
        print(f"{name:<28} {microseconds(values)}")
    report("server.predict / prepared", ratio(figures, "server.predict", PREPARED), 2.5)
    report(
        "tf.saved_model.load / server.predict",
        ratio(figures, "tf.saved_model.load", "server.predict"),
        12,
        at_most=False,
    )
    report("stub / server.predict", ratio(figures, "stub on server.channel()", "server.predict"), 3)
    report(
        "Predict handler / prepared",
        ratio(figures, "Predict, bytes to bytes", PREPARED),
        4.5,
    )


if __name__ == "__main__":
    main()
