"""An OpenAPI 3.1 document of one model: what its signatures take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from inserve.frontends.rest_api.binary_routes import NPY_TYPE, PROTOBUF_TYPE
from inserve.frontends.rest_api.json_schema import (
    MAX_EXAMPLE_VALUES,
    can_be_json,
    example_value,
    gives_rows,
    has_example,
    num_example_values,
    row_schema,
    stated_rows,
    takes_rows,
    tensor_schema,
)
from inserve.frontends.rest_api.response import Response, json_response
from inserve.frontends.rest_api.route import Answer, ModelDirectory, SignatureInfo
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec
from inserve.handlers.regress import REGRESSION_ALIAS
from inserve.handlers.run_examples import EXAMPLES_ALIAS
from inserve.metrics.request_record import RequestRecord
from inserve.tensors.dtypes import DataType

__all__ = ["OpenApiRoute", "openapi_document"]

_MAX_LARGE_EXAMPLES = 2_000
"""Of an example with more values than this only one form is given."""

_ERRORS: Mapping[str, str] = {
    "400": "The request is malformed, or does not fit the signature.",
    "404": "There is no such model or version.",
    "413": "The body is too large.",
    "429": "Too many requests wait already.",
    "500": "The model failed.",
    "501": "JSON cannot carry a type of this signature.",
    "503": "The model cannot answer now.",
    "504": "The model took too long.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_STATUS_SCHEMA = {
    "type": "object",
    "properties": {
        "model_version_status": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "version": {"type": "string", "pattern": "^[0-9]+$"},
                    "state": {"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                    "status": {
                        "type": "object",
                        "properties": {
                            "error_code": {"type": "string"},
                            "error_message": {"type": "string"},
                        },
                        "required": ["error_code", "error_message"],
                    },
                },
                "required": ["version", "state", "status"],
            },
        }
    },
    "required": ["model_version_status"],
}
_METADATA_SCHEMA = {
    "type": "object",
    "properties": {"model_spec": {"type": "object"}, "metadata": {"type": "object"}},
    "required": ["model_spec", "metadata"],
}


class OpenApiRoute:
    """The document of the model that *spec* names; *root_path* is where this API is mounted."""

    is_rest = True
    api = ""

    def __init__(self, directory: ModelDirectory, spec: ModelSpec, root_path: str) -> None:
        self.model_name = spec.name
        self._directory = directory
        self._spec = spec
        self._root_path = root_path

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        del body, record
        return self._describe

    def _describe(self, record: RequestRecord | None) -> Response:
        del record
        version, signatures = self._directory.signatures(self._spec)
        document = openapi_document(self._spec, version, signatures, self._root_path)
        return json_response(orjson.dumps(document))


def openapi_document(
    spec: ModelSpec, version: int, signatures: Mapping[str, SignatureInfo], root_path: str = ""
) -> dict[str, Any]:
    """Return the document of the model that *spec* names, of which *version* has *signatures*."""
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.version is not None:
        path += f"/versions/{spec.version}"
    elif spec.version_label is not None:
        path += f"/labels/{quote(spec.version_label, safe='')}"
    paths: dict[str, Any] = {
        path: {"get": _operation("status", "How the versions of the model stand.", _STATUS_SCHEMA)},
        f"{path}/metadata": {"get": _operation("metadata", "The signatures of the model.", _METADATA_SCHEMA)},
        f"{path}:predict": {"post": _predict_operation(signatures)},
    }
    takes_examples = {key: signature for key, signature in signatures.items() if _takes_examples(signature)}
    for verb, outputs in (("classify", {"classes", "scores"}), ("regress", {REGRESSION_ALIAS})):
        keys = [
            key
            for key, signature in takes_examples.items()
            if signature.outputs and outputs >= set(signature.outputs)
        ]
        if keys:
            paths[f"{path}:{verb}"] = {"post": _examples_operation(verb, keys)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": spec.name, "version": str(version)},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR_SCHEMA},
            "responses": {
                status: {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for status, text in _ERRORS.items()
            },
        },
    }
    if root_path:
        document["servers"] = [{"url": root_path}]
    return document


def _operation(name: str, summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
            **{status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS},
        },
    }


def _predict_operation(signatures: Mapping[str, SignatureInfo]) -> dict[str, Any]:
    requests, answers, examples = [], [], {}
    has_one_input = False
    for key, signature in signatures.items():
        if not _can_run(signature):
            continue
        has_one_input |= len(signature.inputs) == 1
        if not can_be_json(signature.inputs) or not can_be_json(signature.outputs):
            continue
        has_rows = takes_rows(signature.inputs) and gives_rows(signature.outputs)
        forms = [False, True] if has_rows else [False]
        size = num_example_values(signature.inputs)
        for is_row in forms:
            requests.append(_request_schema(key, signature, is_row))
            answers.append(_answer_schema(signature, is_row))
            if not has_example(signature.inputs):
                continue
            if size <= _MAX_LARGE_EXAMPLES or (size <= MAX_EXAMPLE_VALUES and is_row is forms[-1]):
                name = f"{key}_{'instances' if is_row else 'inputs'}"
                examples[name] = {"value": _example_request(key, signature, is_row)}
    content: dict[str, Any] = {}
    if requests:
        content["application/json"] = {"schema": {"anyOf": requests}}
        if examples:
            content["application/json"]["examples"] = examples
    if has_one_input:
        content[NPY_TYPE.decode()] = {"schema": {"description": "the input of a signature with one input"}}
    content[PROTOBUF_TYPE.decode()] = {"schema": {"description": "tensorflow.serving.PredictRequest"}}
    operation = _operation("predict", "Run a signature.", {"anyOf": answers} if answers else {})
    operation["requestBody"] = {"required": True, "content": content}
    operation["responses"]["200"]["content"].update(
        {
            NPY_TYPE.decode(): {"schema": {"description": "the one output, where Accept asks for it"}},
            PROTOBUF_TYPE.decode(): {"schema": {"description": "tensorflow.serving.PredictResponse"}},
        }
    )
    return operation


def _can_run(signature: SignatureInfo) -> bool:
    """Return whether :predict can run it: with inputs, and outputs none of which is an input itself."""
    fed = {info.tensor_name for info in signature.inputs.values()}
    return bool(fed and signature.outputs) and not any(
        info.tensor_name in fed for info in signature.outputs.values()
    )


def _request_schema(key: str, signature: SignatureInfo, is_row: bool) -> dict[str, Any]:
    inputs = signature.inputs
    value: Mapping[str, Any]
    if is_row:
        schemas = {alias: row_schema(info) for alias, info in inputs.items()}
        rows: list[Mapping[str, Any]] = [_object(schemas, closed=True)]
        rows += schemas.values() if len(inputs) == 1 else ()
        value = {"type": "array", "minItems": 1, "items": rows[0] if len(rows) == 1 else {"anyOf": rows}}
        if (num_rows := stated_rows(inputs)) is not None:
            value = {**value, "minItems": max(1, num_rows), "maxItems": max(1, num_rows)}
    else:
        value = _object({alias: tensor_schema(info) for alias, info in inputs.items()})
        if len(inputs) == 1:
            value = {"anyOf": [value, *(tensor_schema(info) for info in inputs.values())]}
    name: dict[str, Any] = {"const": key}
    schema = _object({"instances" if is_row else "inputs": value, "signature_name": name})
    if key == DEFAULT_SIGNATURE_NAME:
        schema["required"].remove("signature_name")
    return {"title": f"{key}, {'by row' if is_row else 'by name'}", **schema}


def _answer_schema(signature: SignatureInfo, is_row: bool) -> dict[str, Any]:
    outputs = signature.outputs
    make = row_schema if is_row else tensor_schema
    schemas = [make(info) for info in outputs.values()]
    value = schemas[0] if len(schemas) == 1 else _object(dict(zip(outputs, schemas, strict=True)))
    if is_row:
        return _object({"predictions": {"type": "array", "items": value}})
    return _object({"outputs": value})


def _example_request(key: str, signature: SignatureInfo, is_row: bool) -> dict[str, Any]:
    inputs = signature.inputs
    values: Any = {alias: example_value(info, is_row) for alias, info in inputs.items()}
    if len(inputs) == 1:
        [values] = values.values()
    if is_row:
        num_rows = stated_rows(inputs)
        values = [values] * (1 if num_rows is None else num_rows)
    request = {"instances" if is_row else "inputs": values}
    return request if key == DEFAULT_SIGNATURE_NAME else {"signature_name": key, **request}


def _takes_examples(signature: SignatureInfo) -> bool:
    """Return whether :classify or :regress may run it: one input of the name they use, of strings."""
    info = signature.inputs.get(EXAMPLES_ALIAS)
    return info is not None and len(signature.inputs) == 1 and info.data_type == DataType.DT_STRING


def _examples_operation(verb: str, keys: list[str]) -> dict[str, Any]:
    request = _object(
        {
            "signature_name": {"enum": keys},
            "examples": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "context": {"type": "object"},
        }
    )
    request["required"] = ["examples"] if DEFAULT_SIGNATURE_NAME in keys else ["signature_name", "examples"]
    result: dict[str, Any] = {"type": "number"}
    if verb == "classify":
        pair = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}
        result = {"type": "array", "items": pair}
    operation = _operation(
        verb,
        f"Run a signature on examples: objects of features ({verb}).",
        _object({"results": {"type": "array", "items": result}}),
    )
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": request}}}
    return operation


def _object(properties: dict[str, Any], closed: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    return {**schema, "additionalProperties": False} if closed else schema
