"""The models that the overview asks, and the same request to each in every form it is sent in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from measure import HALF_PLUS_TWO
from mobilenet import IMAGE, mobilenet_base_path
from numpy.typing import NDArray

from inserve.protos import messages
from inserve.tensors.dtypes import DataType

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GOLDEN = HALF_PLUS_TWO.parents[1]


@dataclass(frozen=True)
class ModelCase:
    """A model (version 1 below *base_path*) and the one input it is asked with; one row."""

    name: str
    base_path: Path
    input_name: str
    value: NDArray[np.float32]

    @property
    def version_path(self) -> str:
        return str(self.base_path / "1")

    @property
    def rest_path(self) -> str:
        return f"/v1/models/{self.name}:predict"

    def request(self) -> messages.PredictRequest:
        """Return what ``tf.make_tensor_proto`` clients send: one value as a field, more as bytes."""
        request = messages.PredictRequest()
        request.model_spec.name = self.name
        tensor = request.inputs[self.input_name]
        tensor.dtype = int(DataType.DT_FLOAT)
        for size in self.value.shape:
            tensor.tensor_shape.dim.add(size=size)
        if self.value.size == 1:
            tensor.float_val.append(float(self.value.flat[0]))
        else:
            tensor.tensor_content = self.value.tobytes()
        return request

    def grpc_frame(self) -> bytes:
        """Return the request as one gRPC message: no compression, its length, its bytes."""
        message = self.request().SerializeToString()
        return b"\0" + len(message).to_bytes(4, "big") + message

    def json_body(self) -> bytes:
        return orjson.dumps({"instances": self.value}, option=orjson.OPT_SERIALIZE_NUMPY)


def half_plus_two() -> ModelCase:
    return ModelCase("half_plus_two", HALF_PLUS_TWO.parent, "x", np.array([1.0], np.float32))


def mobilenet() -> ModelCase:
    image = np.random.default_rng(1).random((1, *IMAGE), np.float32).round(3)
    return ModelCase("mobilenet_v2", mobilenet_base_path(), "x", image)


def cases() -> dict[str, ModelCase]:
    """Return the models of the overview, from the cheapest run to the dearest."""
    image = np.random.default_rng(1).random((1, 28, 28, 1), np.float32).round(3)
    cnn = ModelCase("cnn", GOLDEN / "cnn", "images", image)
    return {case.name: case for case in (half_plus_two(), cnn, mobilenet())}
