"""gRPC server reflection, ``grpc.reflection.v1`` and ``v1alpha``: what clients without stubs ask.

The two protocols are the same on the wire. Answers come from the private descriptor pool, under
TensorFlow's own file names. Rules and texts: gRPC, ``src/cpp/ext/proto_server_reflection.cc``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import DecodeError

from inserve.errors import Code
from inserve.frontends.grpc_api.byte_handlers import methods_by_service
from inserve.frontends.grpc_api.method import MethodTable
from inserve.protos import messages, pool

__all__ = ["ReflectionHandler", "reflect"]

_V1 = "grpc.reflection.v1"
_V1ALPHA = "grpc.reflection.v1alpha"
_SERVICES = tuple(f"{package}.ServerReflection" for package in (_V1, _V1ALPHA))
_PATHS = frozenset(f"/{service}/ServerReflectionInfo" for service in _SERVICES)
_V1_FILE = "grpc/reflection/v1/reflection.proto"


class ReflectionHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Carries both protocols. Each stream holds a thread; more than *max_streams* at once are refused.

    *services* are the full names of what is served; reflection adds itself.
    """

    def __init__(self, services: Iterable[str], max_streams: int) -> None:
        self._services = tuple(sorted({*services, *_SERVICES}))
        self._max_streams = max_streams
        self._places = threading.Semaphore(max_streams)
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._answer
        )

    @classmethod
    def of_methods(cls, methods: MethodTable, max_streams: int) -> ReflectionHandler:
        """Return the handler that lists the services of *methods*."""
        return cls(methods_by_service(methods), max_streams)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handler if handler_call_details.method in _PATHS else None

    def _answer(self, requests: Iterator[bytes], servicer_context: grpc.ServicerContext) -> Iterator[bytes]:
        if not self._places.acquire(blocking=False):
            servicer_context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._max_streams} reflection streams are open already"
            )
        try:
            for request in requests:
                try:
                    message = messages.ServerReflectionRequest.FromString(request)
                except DecodeError:
                    servicer_context.abort(grpc.StatusCode.INTERNAL, "")
                yield reflect(message, self._services).SerializeToString()
        finally:
            self._places.release()


def reflect(
    request: messages.ServerReflectionRequest, services: Iterable[str]
) -> messages.ServerReflectionResponse:
    """Return the answer to one message of a stream; what is not found is an ``error_response`` in it."""
    response = messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
    asked = request.WhichOneof("message_request")
    files = _files()
    if asked == "list_services":
        response.list_services_response.service.extend(
            messages.ServiceResponse(name=service) for service in services
        )
    elif asked == "file_by_filename":
        _answer_file(response, request.file_by_filename, "File not found.")
    elif asked == "file_containing_symbol":
        _answer_file(response, files.by_symbol.get(request.file_containing_symbol), "Symbol not found.")
    elif asked == "file_containing_extension":
        extension = request.file_containing_extension
        file_name = files.by_extension.get(extension.containing_type, {}).get(extension.extension_number)
        _answer_file(response, file_name, "Extension not found.")
    elif asked == "all_extension_numbers_of_type":
        name = request.all_extension_numbers_of_type
        if name in files.message_types:
            answer = response.all_extension_numbers_response
            answer.base_type_name = name
            answer.extension_number.extend(sorted(files.by_extension.get(name, {})))
        else:
            _answer_error(response, Code.NOT_FOUND, "Type not found.")
    else:
        _answer_error(response, Code.UNIMPLEMENTED, "")
    return response


def _answer_error(response: messages.ServerReflectionResponse, code: Code, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text


def _answer_file(response: messages.ServerReflectionResponse, file_name: str | None, otherwise: str) -> None:
    """Answer with the file and all that it imports, directly or not."""
    files = _files()
    if file_name not in files.serialized:
        _answer_error(response, Code.NOT_FOUND, otherwise)
        return
    names: dict[str, None] = {}
    waiting = [file_name]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names[name] = None
            waiting.extend(files.imports[name])
    response.file_descriptor_response.file_descriptor_proto.extend(files.serialized[name] for name in names)


class _Files:
    """Every file by name, and where each symbol stands."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self.serialized: dict[str, bytes] = {}
        self.imports: dict[str, tuple[str, ...]] = {}
        self.by_symbol: dict[str, str] = {}
        self.message_types: set[str] = set()
        self.by_extension: dict[str, dict[int, str]] = {}
        for file in files:
            self.serialized[file.name] = file.SerializeToString()
            self.imports[file.name] = tuple(file.dependency)
            prefix = f"{file.package}." if file.package else ""
            self._add_types(file.name, prefix, file.message_type, file.enum_type, file.extension)
            for service in file.service:
                self.by_symbol[prefix + service.name] = file.name
                for method in service.method:
                    self.by_symbol[f"{prefix}{service.name}.{method.name}"] = file.name

    def _add_types(
        self,
        file_name: str,
        prefix: str,
        message_types: Iterable[DescriptorProto],
        enum_types: Iterable[EnumDescriptorProto],
        extensions: Iterable[FieldDescriptorProto],
    ) -> None:
        for message in message_types:
            full_name = prefix + message.name
            self.message_types.add(full_name)
            self.by_symbol[full_name] = file_name
            inner = full_name + "."
            names = [field.name for field in message.field] + [oneof.name for oneof in message.oneof_decl]
            self.by_symbol.update(dict.fromkeys((inner + name for name in names), file_name))
            self._add_types(file_name, inner, message.nested_type, message.enum_type, message.extension)
        for enum in enum_types:
            self.by_symbol[prefix + enum.name] = file_name
            for value in enum.value:  # a value's scope is that of its enum
                self.by_symbol[prefix + value.name] = file_name
        for extension in extensions:
            self.by_symbol[prefix + extension.name] = file_name
            numbers = self.by_extension.setdefault(extension.extendee.removeprefix("."), {})
            numbers[extension.number] = file_name


@functools.cache
def _files() -> _Files:
    """Return the files of the private pool; built at the first question, in milliseconds.

    protobuf's own files are its own, because a client may have them registered and others would clash.
    """
    descriptors = pool.descriptor_pool()
    of_protobuf: Any = (any_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR)
    known = {descriptor.name: descriptor for descriptor in of_protobuf}
    files = []
    for name in pool.file_names():
        descriptor = known.get(name) or descriptors.FindFileByName(name)
        file = FileDescriptorProto()
        descriptor.CopyToProto(file)
        files.append(file)
    files.append(_v1alpha(next(file for file in files if file.name == _V1_FILE)))
    return _Files(files)


def _v1alpha(v1: FileDescriptorProto) -> FileDescriptorProto:
    """Return the older protocol's file; it differs from the newer one's in its package alone."""
    file = FileDescriptorProto()
    file.CopyFrom(v1)
    file.name = _V1_FILE.replace("/v1/", "/v1alpha/")
    file.package = _V1ALPHA
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _moved(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type, method.output_type = _moved(method.input_type), _moved(method.output_type)
    return file


def _moved(type_name: str) -> str:
    return type_name.replace(f".{_V1}.", f".{_V1ALPHA}.")
