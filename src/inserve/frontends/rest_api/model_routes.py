"""GET: how models stand, what their signatures are, and which models there are.

Forms: TensorFlow Serving, ``model_servers/http_rest_api_handler.cc``; the list of models is ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import json_format

from inserve.errors import NotFoundError
from inserve.frontends.rest_api.response import Response, json_response
from inserve.frontends.rest_api.route import Answer, ModelDirectory
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.model_status import AnswersModelStatus
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages

__all__ = ["ListRoute", "MetadataRoute", "StatusRoute"]


class StatusRoute:
    """The versions of one model, or one of them; a label is ignored, as the C++ server does."""

    is_rest = True
    api = ""

    def __init__(self, handler: AnswersModelStatus, spec: ModelSpec) -> None:
        self.model_name = spec.name
        self._handler = handler
        self._spec = spec

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        del body
        return self._print(record) if self._handler.is_quick else self._print

    def _print(self, record: RequestRecord | None) -> Response:
        """Say how the versions are, which may have to be asked of another process."""
        del record
        name, version = self._spec.name, self._spec.version
        if not _is_utf8(name):  # no model has such a name, and no message can carry it
            raise NotFoundError(
                f"Could not find any versions of model {name}"
                if version is None
                else f"Could not find version {version} of model {name}"
            )
        return json_response(orjson.dumps(_status(self._handler, name, version), option=orjson.OPT_INDENT_2))


class MetadataRoute:
    """The signatures of one version."""

    is_rest = True
    api = ""

    def __init__(self, handler: ModelMetadataHandler, spec: ModelSpec) -> None:
        self.model_name = spec.name
        self._handler = handler
        self._spec = spec

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        del body, record
        return self._print

    def _print(self, record: RequestRecord | None) -> Response:
        del record
        name, version, label, _ = self._spec
        if not _is_utf8(name) or not _is_utf8(label or ""):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise NotFoundError(f"Servable not found for request: {wanted}")
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        answer = messages.GetModelMetadataResponse.FromString(
            self._handler.get_model_metadata_message(request.SerializeToString())
        )
        signatures = messages.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
        document = {
            "model_spec": {
                "name": answer.model_spec.name,
                "version": str(answer.model_spec.version.value),
                "signature_name": answer.model_spec.signature_name,
            },
            "metadata": {"signature_def": _printed(signatures)},
        }
        return json_response(orjson.dumps(document, option=orjson.OPT_INDENT_2))


class ListRoute:
    """The names of the models of this server, each with its versions."""

    is_rest = True
    model_name = ""
    api = ""

    def __init__(self, handler: AnswersModelStatus, directory: ModelDirectory) -> None:
        self._handler = handler
        self._directory = directory

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        del body
        return self._print(record) if self._handler.is_quick else self._print

    def _print(self, record: RequestRecord | None) -> Response:
        del record
        models = []
        for name in self._directory.names():
            try:
                versions = _status(self._handler, name, None)["model_version_status"]
            except NotFoundError:  # configured, and no version was ever seen
                versions = []
            models.append({"name": name, "versions": versions})
        return json_response(orjson.dumps({"models": models}, option=orjson.OPT_INDENT_2))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _status(handler: AnswersModelStatus, name: str, version: int | None) -> dict[str, Any]:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    answer = handler.get_model_status_message(request.SerializeToString())
    return _printed(messages.GetModelStatusResponse.FromString(answer))


def _printed(message: Any) -> dict[str, Any]:
    """Return *message* as protobuf's JSON printer of C++ writes it: snake_case, defaults included."""
    printed: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {key: _with_short_numbers(value, _shortest_single) for key, value in printed.items()}


def _with_short_numbers(value: Any, shortest: Callable[[float], str]) -> Any:
    """Return *value* with whole numbers in place of the floats that C++ prints without a point."""
    if isinstance(value, dict):
        return {
            key: _with_short_numbers(item, _shortest_double if key.startswith(("double", "dc")) else shortest)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_short_numbers(item, shortest) for item in value]
    if isinstance(value, float):
        text = shortest(value)
        return int(text) if text.lstrip("-").isdigit() else value
    return value


def _shortest_single(value: float) -> str:
    text = f"{value:.6g}"
    single = struct.Struct("<f")
    return text if single.pack(float(text)) == single.pack(value) else f"{value:.9g}"


def _shortest_double(value: float) -> str:
    text = f"{value:.15g}"
    return text if float(text) == value else f"{value:.17g}"
