"""A server that prefers ``model.tflite``, asked over gRPC and in the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

import inserve

SCRIPT = Path(__file__).resolve().parents[1] / "tflite" / "tflite_models.py"
HALF_PLUS_TWO = Path(__file__).resolve().parents[1] / "golden" / "models" / "half_plus_two" / "1"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three versions: 1 is a SavedModel, 2 a ``model.tflite``, 3 has both."""
    made = tmp_path_factory.mktemp("made") / "tflite"
    made.mkdir()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, str(SCRIPT), str(made)], check=True, env=environment, capture_output=True)
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(HALF_PLUS_TWO, base / "1")
    shutil.copytree(made / "dense", base / "2")
    shutil.copytree(HALF_PLUS_TWO, base / "3")
    shutil.copy(made / "dense" / "model.tflite", base / "3")
    return base


@pytest.fixture(scope="module")
def server(base_path: Path) -> Iterator[inserve.Server]:
    config = inserve.ModelConfig(name="m", path=str(base_path), version_policy=inserve.All())
    with inserve.Server(
        models=[config],
        grpc="127.0.0.1:0",
        prefer_tflite_model=True,
        num_tflite_pools=2,
        initial_wait="settled",
    ) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: inserve.Server) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(version: int, shape: tuple[int, ...]) -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.version.value = version
    tensor = message.inputs["x"]
    tensor.dtype = 1
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ones(shape, np.float32).tobytes()
    return message


@pytest.mark.parametrize("version", [2, 3])
def test_a_version_with_a_tflite_model_answers_from_it(
    stub: prediction_service_pb2_grpc.PredictionServiceStub, version: int
) -> None:
    response = stub.Predict(request(version, (3, 4)), timeout=30)
    assert sorted(response.outputs) == ["sum", "y"]
    assert list(response.outputs["sum"].float_val) == [4.0, 4.0, 4.0]


def test_a_version_without_one_answers_from_its_saved_model(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    response = stub.Predict(request(1, (2,)), timeout=30)
    assert list(response.outputs["y"].float_val) == [2.5, 2.5]


def test_a_wrong_shape_is_refused_as_for_any_model(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request(2, (3, 5)), timeout=30)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_shows_the_signature_of_the_file(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
) -> None:
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "m"
    message.model_spec.version.value = 2
    response = stub.GetModelMetadata(message, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert signature.inputs["x"].name == "serving_default_x:0"
    assert [dim.size for dim in signature.inputs["x"].tensor_shape.dim] == [-1, 4]


def test_the_same_answer_comes_in_the_process(server: inserve.Server) -> None:
    outputs = server.predict("m", {"x": np.ones((2, 4), np.float32)})
    assert outputs["sum"].tolist() == [4.0, 4.0]
