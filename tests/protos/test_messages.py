"""Our definitions against those that TensorFlow and its serving API install."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, wrappers_pb2  # noqa: F401 - fill the default pool
from google.protobuf import descriptor_pool as default_pool
from google.protobuf.message import DecodeError

from inserve.protos import messages, pool

FIELDS_ELSEWHERE = {
    # Messages of which only some fields, or none, are declared; the rest travels as unknown fields.
    "tensorflow.CostGraphDef",
    "tensorflow.FullTypeDef",
    "tensorflow.FunctionDef.ArgAttrs",
    "tensorflow.GradientDef",
    "tensorflow.GraphDebugInfo",
    "tensorflow.NodeDef.ExperimentalDebugInfo",
    "tensorflow.OpDef",
    "tensorflow.OpList",
    "tensorflow.RegisteredGradient",
    "tensorflow.SavedObjectGraph",
    "tensorflow.StepStats",
}
NOT_INSTALLED = (
    "grpc/reflection/",  # compared with another package, where reflection is tested
    # Files of the server that neither package installs; their facts stand in the sources alone.
    "google/protobuf/",
    "tensorflow/core/tfrt/",
    "tensorflow_serving/apis/internal/",
    "tensorflow_serving/config/monitoring_config.proto",
    "tensorflow_serving/config/ssl_config.proto",
    "tensorflow_serving/resources/",
    "tensorflow_serving/servables/",
    "tensorflow_serving/session_bundle/",
    "tensorflow_serving/sources/",
    "tsl/profiler/protobuf/profiler_service.proto",
    "tsl/profiler/protobuf/profiler_service_monitor_result.proto",
    "grpc/health/",
)
INSTALLED_MODULES = (
    "tensorflow.core.example.example_pb2",
    "tensorflow.core.protobuf.config_pb2",
    "tensorflow.core.protobuf.named_tensor_pb2",
    "tensorflow.core.protobuf.saved_model_pb2",
    "tensorflow.tsl.profiler.protobuf.profiler_options_pb2",
    "tensorflow.tsl.profiler.protobuf.xplane_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.session_service_pb2",
    "tensorflow_serving.config.platform_config_pb2",
)
SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.SessionService",
)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The default pool, with the installed definitions in it."""
    for module in INSTALLED_MODULES:
        importlib.import_module(module)
    return default_pool.Default()


def compared_files() -> list[str]:
    return [name for name in pool.file_names() if not name.startswith(NOT_INSTALLED)]


def messages_of(file: Any) -> Iterator[Any]:
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        yield message
        waiting.extend(message.nested_types)


def enums_of(file: Any) -> Iterator[Any]:
    yield from file.enum_types_by_name.values()
    for message in messages_of(file):
        yield from message.enum_types


def stated(descriptor: Any, proto: Any) -> Any:
    descriptor.CopyToProto(proto)
    return proto


def field_facts(message: Any) -> dict[str, tuple[object, ...]]:
    """What makes each field what it is, on the wire, in JSON and in Python."""
    declaration = stated(message, descriptor_pb2.DescriptorProto())
    return {
        field.name: (
            field.number,
            field.type,
            field.label,
            field.type_name,
            is_packed(message, field),
            field.proto3_optional,
            declaration.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            message.fields_by_name[field.name].has_presence,
            message.fields_by_name[field.name].json_name,
        )
        for field in declaration.field
    }


def is_packed(message: Any, field: Any) -> bool:
    """Whether a repeated number is packed, which is what proto3 does unless told otherwise."""
    if field.options.HasField("packed"):
        return bool(field.options.packed)
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    a_number = field.type not in NOT_PACKABLE
    return (
        repeated
        and a_number
        and stated(message.file, descriptor_pb2.FileDescriptorProto()).syntax == "proto3"
    )


NOT_PACKABLE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
)


def test_every_declared_field_is_that_of_the_installed_package(theirs: Any) -> None:
    count = 0
    for name in compared_files():
        for ours in messages_of(pool.descriptor_pool().FindFileByName(name)):
            our_fields = field_facts(ours)
            their_message = theirs.FindMessageTypeByName(ours.full_name)
            their_fields = field_facts(their_message)
            if ours.full_name in FIELDS_ELSEWHERE:
                their_fields = {name: their_fields[name] for name in our_fields}
            assert our_fields == their_fields, ours.full_name
            assert ours.GetOptions().map_entry == their_message.GetOptions().map_entry
            count += 1
    assert count > 150


def test_reserved_numbers_are_those_of_the_installed_package(theirs: Any) -> None:
    for name in compared_files():
        for ours in messages_of(pool.descriptor_pool().FindFileByName(name)):
            if ours.full_name in FIELDS_ELSEWHERE:
                continue
            our_proto = stated(ours, descriptor_pb2.DescriptorProto())
            their_message = theirs.FindMessageTypeByName(ours.full_name)
            their_proto = stated(their_message, descriptor_pb2.DescriptorProto())
            assert reserved_numbers(our_proto) == reserved_numbers(their_proto), ours.full_name
            assert set(our_proto.reserved_name) == set(their_proto.reserved_name), ours.full_name


def reserved_numbers(message: Any) -> set[int]:
    return {number for reserved in message.reserved_range for number in range(reserved.start, reserved.end)}


def test_every_enum_value_is_that_of_the_installed_package(theirs: Any) -> None:
    count = 0
    for name in compared_files():
        for ours in enums_of(pool.descriptor_pool().FindFileByName(name)):
            installed = theirs.FindEnumTypeByName(ours.full_name)
            assert numbers(ours) == numbers(installed), ours.full_name
            count += 1
    assert count > 10


def numbers(enum: Any) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_is_that_of_the_installed_package(theirs: Any, service: str) -> None:
    ours = stated(pool.descriptor_pool().FindServiceByName(service), descriptor_pb2.ServiceDescriptorProto())
    installed = stated(theirs.FindServiceByName(service), descriptor_pb2.ServiceDescriptorProto())
    for declaration in (ours, installed):
        for method in declaration.method:
            method.ClearField("options")
    assert ours == installed


def test_profiler_methods_are_unary_and_the_health_watch_streams() -> None:
    profiler: Any = pool.descriptor_pool().FindServiceByName("tensorflow.ProfilerService")
    health: Any = pool.descriptor_pool().FindServiceByName("grpc.health.v1.Health")
    assert sorted(profiler.methods_by_name) == [
        "GetSnapshot",
        "Monitor",
        "Profile",
        "StartContinuousProfiling",
        "StopContinuousProfiling",
        "Terminate",
    ]
    assert not any(method.server_streaming for method in profiler.methods)
    assert [(method.name, method.server_streaming) for method in health.methods] == [
        ("Check", False),
        ("Watch", True),
    ]


def test_well_known_types_are_our_own_and_equal_protobufs() -> None:
    for name in ("google.protobuf.Any", *(f"google.protobuf.{kind}Value" for kind in WRAPPED)):
        ours: Any = pool.message_class(name).DESCRIPTOR
        installed: Any = default_pool.Default().FindMessageTypeByName(name)
        assert ours is not installed
        assert field_facts(ours) == field_facts(installed)


WRAPPED = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")


def test_any_packs_and_unpacks_messages_of_the_private_pool() -> None:
    envelope: Any = messages.Any()
    envelope.Pack(messages.SignatureDefMap(signature_def={"s": messages.SignatureDef(method_name="m")}))
    opened = messages.SignatureDefMap()
    assert envelope.Unpack(opened)
    assert envelope.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert opened.signature_def["s"].method_name == "m"


def test_a_string_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(DecodeError):
        messages.ModelSpec.FromString(b"\x0a\x01\xff")


def test_unknown_fields_travel_through_a_message_declared_in_part() -> None:
    serialized = b"\x08\x01\x12\x02ab"
    assert messages.ClusterDef.FromString(serialized).SerializeToString() == serialized


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchMessage"):
        messages.NoSuchMessage  # type: ignore[attr-defined]  # noqa: B018


def test_every_type_of_the_stub_exists() -> None:
    for name in dir(messages):
        assert getattr(messages, name) is not None
    assert {"PredictRequest", "DataType", "SavedModel", "HealthCheckRequest"} <= set(dir(messages))


@pytest.mark.parametrize("ours_first", [True, False])
def test_tensorflow_serving_can_be_imported_before_or_after(ours_first: bool) -> None:
    ours = "from inserve.protos import messages, pool; pool.descriptor_pool(); messages.PredictRequest"
    installed = "from tensorflow_serving.apis import predict_pb2"
    first, second = (ours, installed) if ours_first else (installed, ours)
    crossing = (
        "request = messages.PredictRequest(client_id=b'1')\n"
        "assert predict_pb2.PredictRequest.FromString(request.SerializeToString()).client_id == b'1'"
    )
    script = "\n".join((first, second, crossing))
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
