from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from inserve.frontends.grpc_api.grpc_server import GrpcServer, TransportName
from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.frontends.grpc_api.reflection_service import ReflectionHandler
from inserve.protos import pool

LIMIT_S = 30.0
PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
V1, V1ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"


def echo(request: bytes, context: CallContext) -> bytes:
    return request


METHODS: MethodTable = {PREDICT: echo, STATUS: echo}


TRANSPORTS: tuple[TransportName, ...] = ("native", "grpcio")


@contextlib.contextmanager
def serve(transport: TransportName, max_streams: int) -> Iterator[grpc.Channel]:
    server = GrpcServer(
        METHODS,
        ["127.0.0.1:0"],
        transport=transport,
        generic_handlers=[ReflectionHandler.of_methods(METHODS, max_streams)],
    )
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened
    server.stop()


@pytest.fixture(scope="module", params=TRANSPORTS)
def channel(request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    with serve(request.param, max_streams=32) as opened:
        yield opened


Ask = Callable[..., Any]


def stream(channel: grpc.Channel, requests: Iterator[Any], service: str = V1) -> Any:
    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return method(requests, timeout=LIMIT_S)


@pytest.fixture(params=[V1, V1ALPHA])
def ask(channel: grpc.Channel, request: pytest.FixtureRequest) -> Ask:
    """Ask one question over the old and the new protocol, in the messages of grpcio-reflection."""

    def ask(**fields: Any) -> Any:
        message = reflection_pb2.ServerReflectionRequest(**fields)
        (answer,) = stream(channel, iter([message]), request.param)
        assert answer.original_request == message
        return answer

    return ask


@pytest.fixture
def their_pool(channel: grpc.Channel) -> DescriptorPool:
    """What grpcio-reflection's client builds of the answers, file by file."""
    return DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def test_the_services_served_are_listed(ask: Ask) -> None:
    listed = [service.name for service in ask(list_services="").list_services_response.service]
    assert listed == [V1, V1ALPHA, "tensorflow.serving.ModelService", "tensorflow.serving.PredictionService"]


@pytest.mark.parametrize("name", pool.file_names())
def test_every_file_can_be_built_by_a_client(their_pool: DescriptorPool, name: str) -> None:
    assert their_pool.FindFileByName(name).name == name


def test_a_client_builds_the_messages_of_a_method(their_pool: DescriptorPool) -> None:
    service = their_pool.FindServiceByName("tensorflow.serving.PredictionService")
    assert service.file.name == "tensorflow_serving/apis/prediction_service.proto"
    predict = service.methods_by_name["Predict"]
    assert predict.input_type.fields_by_name["inputs"].number == 2
    entry: Any = predict.input_type.fields_by_name["inputs"].message_type
    tensor = entry.fields_by_name["value"].message_type
    assert tensor.file.name == "tensorflow/core/framework/tensor.proto"
    assert tensor.fields_by_name["float_val"].number == 5


@pytest.mark.parametrize("package", ["v1", "v1alpha"])
def test_a_client_builds_the_reflection_protocols_themselves(
    their_pool: DescriptorPool, package: str
) -> None:
    service = their_pool.FindServiceByName(f"grpc.reflection.{package}.ServerReflection")
    assert service.file.name == f"grpc/reflection/{package}/reflection.proto"
    ours = service.methods_by_name["ServerReflectionInfo"].output_type
    theirs = reflection_pb2.ServerReflectionResponse.DESCRIPTOR
    assert {field.name: field.number for field in ours.fields} == {
        field.name: field.number for field in theirs.fields
    }


def test_the_older_protocol_is_the_one_grpcio_ships(their_pool: DescriptorPool) -> None:
    ours, theirs = FileDescriptorProto(), FileDescriptorProto()
    their_pool.FindFileByName("grpc/reflection/v1alpha/reflection.proto").CopyToProto(ours)
    reflection_pb2.DESCRIPTOR.CopyToProto(theirs)
    for file in (ours, theirs):
        file.ClearField("options")
        file.ClearField("name")
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert sorted(ours.message_type, key=str) == sorted(theirs.message_type, key=str)
    assert list(ours.service) == list(theirs.service)


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("tensorflow.serving.PredictionService", "tensorflow_serving/apis/prediction_service.proto"),
        ("tensorflow.serving.PredictionService.Predict", "tensorflow_serving/apis/prediction_service.proto"),
        ("tensorflow.TensorProto", "tensorflow/core/framework/tensor.proto"),
        ("tensorflow.TensorProto.float_val", "tensorflow/core/framework/tensor.proto"),
        ("tensorflow.TensorShapeProto.Dim", "tensorflow/core/framework/tensor_shape.proto"),
        ("tensorflow.DataType", "tensorflow/core/framework/types.proto"),
        ("tensorflow.DT_FLOAT", "tensorflow/core/framework/types.proto"),
        ("tensorflow.serving.ModelSpec.version_choice", "tensorflow_serving/apis/model.proto"),
        ("tensorflow.serving.ModelVersionStatus.State", "tensorflow_serving/apis/get_model_status.proto"),
        (
            "tensorflow.serving.ModelVersionStatus.AVAILABLE",
            "tensorflow_serving/apis/get_model_status.proto",
        ),
        ("google.protobuf.Int64Value", "google/protobuf/wrappers.proto"),
    ],
)
def test_a_symbol_is_answered_with_its_file_and_all_that_it_imports(ask: Ask, symbol: str, file: str) -> None:
    answer = ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
    files = [FileDescriptorProto.FromString(serialized) for serialized in answer]
    names = [found.name for found in files]
    assert names[0] == file
    assert len(set(names)) == len(names)
    assert {dependency for found in files for dependency in found.dependency} <= set(names)


def test_protobufs_own_files_are_those_that_clients_have(ask: Ask) -> None:
    answer = ask(file_by_filename="google/protobuf/wrappers.proto").file_descriptor_response
    (serialized,) = answer.file_descriptor_proto
    assert serialized == wrappers_pb2.DESCRIPTOR.serialized_pb


NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ({"file_by_filename": "nothing.proto"}, "File not found."),
        ({"file_containing_symbol": "tensorflow.Nothing"}, "Symbol not found."),
        ({"file_containing_symbol": ""}, "Symbol not found."),
        (
            {
                "file_containing_extension": reflection_pb2.ExtensionRequest(
                    containing_type="tensorflow.TensorProto", extension_number=5
                )
            },
            "Extension not found.",
        ),
        ({"all_extension_numbers_of_type": "tensorflow.Nothing"}, "Type not found."),
    ],
)
def test_what_is_not_there_is_an_error_response(ask: Ask, question: dict[str, Any], text: str) -> None:
    error = ask(**question).error_response
    assert (error.error_code, error.error_message) == (NOT_FOUND, text)


def test_no_type_has_extensions(ask: Ask) -> None:
    answer = ask(all_extension_numbers_of_type="tensorflow.TensorProto").all_extension_numbers_response
    assert (answer.base_type_name, list(answer.extension_number)) == ("tensorflow.TensorProto", [])


def test_a_message_that_asks_nothing_is_an_error_response(ask: Ask) -> None:
    answer = ask(host="there")
    assert answer.error_response.error_code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert answer.valid_host == "there"


def test_questions_of_one_stream_are_answered_in_order(channel: grpc.Channel) -> None:
    names = ["nothing.proto", "tensorflow/core/framework/types.proto", "nothing.proto"]
    answers = stream(
        channel, iter([reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in names])
    )
    kinds = [answer.WhichOneof("message_response") for answer in answers]
    assert kinds == ["error_response", "file_descriptor_response", "error_response"]


def test_garbage_ends_the_stream(channel: grpc.Channel) -> None:
    method: Any = channel.stream_stream(f"/{V1}/ServerReflectionInfo", None, None)
    with pytest.raises(grpc.RpcError) as raised:
        list(method(iter([b"\xff\xff"]), timeout=LIMIT_S))
    assert raised.value.code() is grpc.StatusCode.INTERNAL


class Open:
    """A stream that stays open until ``close``."""

    def __init__(self, channel: grpc.Channel) -> None:
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        self._more: SimpleQueue[Any] = SimpleQueue()
        self._more.put(question)
        self.answers = stream(channel, iter(self._more.get, None))

    def close(self) -> None:
        self._more.put(None)
        self.answers.cancel()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_streams_beyond_the_limit_are_refused_and_places_come_free(transport: TransportName) -> None:
    with serve(transport, max_streams=2) as channel:
        opened = [Open(channel) for _ in range(2)]
        for one in opened:
            next(one.answers)
        refused = Open(channel)
        with pytest.raises(grpc.RpcError) as raised:
            next(refused.answers)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        opened[0].close()
        answer = None
        while answer is None:
            last = Open(channel)
            with contextlib.suppress(grpc.RpcError):
                answer = next(last.answers)
            last.close()
        for one in (refused, opened[1]):
            one.close()
    assert answer.WhichOneof("message_response") == "list_services_response"
