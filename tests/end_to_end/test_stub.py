"""The stub that tensorflow-serving-api generates, unchanged, on every way to reach a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import inserve

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
WAYS = [
    ("in-process", "auto"),
    ("tcp", "native"),
    ("tcp", "grpcio"),
    ("unix", "native"),
    ("unix", "grpcio"),
]


@pytest.fixture(scope="module", params=WAYS, ids=["-".join(way) for way in WAYS])
def channel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpc.Channel]:
    where, transport = request.param
    address = {
        "in-process": None,
        "tcp": "127.0.0.1:0",
        "unix": f"unix:{tmp_path_factory.mktemp('socket')}/grpc",
    }[where]
    models = {name: MODELS / name for name in ("half_plus_two", "slow")}
    with inserve.Server(models=models, grpc=address, grpc_transport=transport) as server:
        if address is None:
            channel = server.channel()
        else:
            (bound,) = server.grpc_addresses
            channel = grpc.insecure_channel(bound)
        with channel:
            yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(
    *values: float, model: str = "half_plus_two", signature: str = "", rows: int | None = None
) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=len(values) if rows is None else rows)
    request.inputs["x"].float_val.extend(values)
    return request


def test_values_come_back(stub: Any) -> None:
    response = stub.Predict(predict_request(1.0, 2.0, 5.0), timeout=30)
    assert list(response.outputs["y"].float_val) == [3.5, 4.0, 5.5]
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"


def test_metadata_of_the_model_comes_back(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "half_plus_two"
    request.metadata_field.append("signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(request, timeout=30).metadata["signature_def"].Unpack(signatures)
    assert "serving_default" in signatures.signature_def


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (
            lambda request: request.model_spec.ClearField("name"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "ModelSpec has no name specified.",
        ),
        (
            lambda request: setattr(request.model_spec, "name", "no"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(no)",
        ),
        (
            lambda request: setattr(request.model_spec, "signature_name", "no"),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "no" not found.',
        ),
        (
            lambda request: setattr(request.inputs["x"], "dtype", 99),
            grpc.StatusCode.INVALID_ARGUMENT,
            "tensor parsing error: x",
        ),
        (
            lambda request: request.inputs["x"].tensor_shape.dim.add(size=1),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Input x of signature serving_default must have shape [?], got [1,1]",
        ),
    ],
)
def test_errors_carry_their_code_and_text(
    stub: Any, change: Callable[[Any], None], code: grpc.StatusCode, text: str
) -> None:
    request = predict_request(1.0)
    change(request)
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request, timeout=30)
    assert (error.value.code(), error.value.details()) == (code, text)


def test_a_method_that_is_not_served_is_unimplemented_without_a_text(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/tensorflow.serving.PredictionService/PredictStreamed")(b"", timeout=30)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "")


def test_a_run_longer_than_the_deadline_is_given_up(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(predict_request(1.0, model="slow"), timeout=0.05)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata_of_the_call_is_accepted(stub: Any) -> None:
    metadata = (("request-id", "7"), ("trace-bin", b"\x00\x01"))
    response = stub.Predict(predict_request(1.0), timeout=30, metadata=metadata)
    assert list(response.outputs["y"].float_val) == [3.5]


def test_with_call_gives_the_response_and_the_call(stub: Any) -> None:
    response, call = stub.Predict.with_call(predict_request(1.0), timeout=30)
    assert list(response.outputs["y"].float_val) == [3.5]
    assert call.code() == grpc.StatusCode.OK
    assert list(call.trailing_metadata() or ()) == []


def test_a_future_gives_the_response(stub: Any) -> None:
    done = threading.Event()
    future = stub.Predict.future(predict_request(1.0), timeout=30)
    future.add_done_callback(lambda _: done.set())
    assert list(future.result(timeout=30).outputs["y"].float_val) == [3.5]
    assert done.wait(30)


def test_a_future_can_be_cancelled(stub: Any) -> None:
    future = stub.Predict.future(predict_request(1.0, model="slow"), timeout=30)
    future.cancel()
    assert future.cancelled()
    with pytest.raises(grpc.FutureCancelledError):
        future.result(timeout=30)


def test_many_threads_get_their_own_answers(stub: Any) -> None:
    answers: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            response = stub.Predict(predict_request(float(number)), timeout=60)
            answers.setdefault(number, []).extend(response.outputs["y"].float_val)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [number / 2 + 3] * 20 for number in range(64)}
