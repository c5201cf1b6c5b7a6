from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import session_service_pb2

from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.method import CallContext
from inserve.frontends.grpc_api.session_service import session_service_methods
from inserve.handlers.model_spec import ModelSpec, ServableFinder
from inserve.handlers.placement import WouldBlock
from inserve.handlers.session_run import SessionRunHandler
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.load_saved_model import load_saved_model

MODEL = Path(__file__).resolve().parents[2] / "golden" / "models" / "slow" / "1"
PATH = "/tensorflow.serving.SessionService/SessionRun"
LIMIT_S = 60.0


class OneModel:
    def __init__(self) -> None:
        self.servable = SavedModelServable(load_saved_model(str(MODEL)))

    def find(self, spec: ModelSpec | None) -> ServableHandle[SavedModelServable]:
        del spec
        return ServableHandle(Lease(ServableId("slow", 1), self.servable, SimpleQueue()))


@pytest.fixture(scope="module")
def handler() -> Iterator[SessionRunHandler]:
    model = OneModel()
    yield SessionRunHandler(cast(ServableFinder, model))
    model.servable.close()


@pytest.fixture(params=["native", "grpcio"])
def session_run(request: pytest.FixtureRequest, handler: SessionRunHandler) -> Iterator[Any]:
    server = GrpcServer(session_service_methods(handler), ["127.0.0.1:0"], transport=request.param)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel.unary_unary(
            PATH,
            session_service_pb2.SessionRunRequest.SerializeToString,
            session_service_pb2.SessionRunResponse.FromString,
        )
    server.stop()


def ask(n: int) -> Any:
    request = session_service_pb2.SessionRunRequest(fetch=["yn:0"])
    request.model_spec.name = "slow"
    for name, value in (("n:0", np.array(n, np.int32)), ("x:0", np.array([1.5, 2.5], np.float32))):
        request.feed.add(name=name).tensor.CopyFrom(tf.make_tensor_proto(value))
    return request


def test_messages_of_the_installed_api_are_answered(session_run: Any) -> None:
    response = session_run(ask(1), timeout=LIMIT_S)
    (tensor,) = response.tensor
    assert tensor.name == "yn:0"
    assert tf.make_ndarray(tensor.tensor).shape == (2,)
    assert (response.model_spec.name, response.model_spec.version.value) == ("slow", 1)


def test_the_deadline_of_the_caller_ends_the_run(session_run: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        session_run(ask(2**30), timeout=0.1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_thread_that_receives_is_not_held_up(handler: SessionRunHandler) -> None:
    (method,) = session_service_methods(handler).values()
    with pytest.raises(WouldBlock):
        method(ask(1).SerializeToString(), CallContext(may_block=False))
