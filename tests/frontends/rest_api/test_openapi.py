from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from inserve.frontends.rest_api.openapi import openapi_document
from inserve.frontends.rest_api.route import RequestKey
from inserve.handlers.model_spec import ModelSpec
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.tensors.dtypes import DataType

FLOAT, INT32, STRING, HALF = (
    DataType.DT_FLOAT.value,
    DataType.DT_INT32.value,
    DataType.DT_STRING.value,
    DataType.DT_HALF.value,
)


def tensor(alias: str, data_type: int, shape: tuple[int | None, ...] | None) -> TensorSpec:
    return TensorSpec(alias, f"{alias}:0", data_type, shape)


def document_of(*signatures: Signature, spec: ModelSpec | None = None, root_path: str = "") -> Any:
    by_key = {signature.key: signature for signature in signatures}
    return openapi_document(spec or ModelSpec("m"), 3, by_key, root_path)


def predict_of(*signatures: Signature) -> Any:
    """Return the JSON part of what :predict takes: its schema and its examples by name."""
    operation = document_of(*signatures)["paths"]["/v1/models/m:predict"]["post"]
    return operation["requestBody"]["content"].get("application/json")


def signature(
    key: str, inputs: list[TensorSpec], outputs: list[TensorSpec] | None = None, method: str = ""
) -> Signature:
    return Signature(key, method, inputs, outputs or [tensor("y", FLOAT, (None,))])


ONE = signature("serving_default", [tensor("x", FLOAT, (None, 2))])
TWO = signature("two", [tensor("a", INT32, (None,)), tensor("b", STRING, (None, 1))])


def test_every_example_fits_its_schema() -> None:
    predict = predict_of(ONE, TWO)
    validator = jsonschema_rs.Draft202012Validator(predict["schema"])
    assert predict["examples"].keys() == {
        "serving_default_inputs",
        "serving_default_instances",
        "two_inputs",
        "two_instances",
    }
    for example in predict["examples"].values():
        validator.validate(example["value"])


def test_examples_have_the_form_of_the_signature() -> None:
    examples = predict_of(ONE, TWO)["examples"]
    assert examples["serving_default_inputs"]["value"] == {"inputs": [[1.0, 1.0]]}
    assert examples["serving_default_instances"]["value"] == {"instances": [[1.0, 1.0]]}
    assert examples["two_inputs"]["value"] == {"signature_name": "two", "inputs": {"a": [1], "b": [["1"]]}}
    assert examples["two_instances"]["value"] == {
        "signature_name": "two",
        "instances": [{"a": 1, "b": ["1"]}],
    }


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"instances": [[1, 2.5]]}, True),
        ({"instances": [{"x": [1, 2]}], "signature_name": "serving_default"}, True),
        ({"inputs": {"x": [[1, 2]]}}, True),
        ({"inputs": [[1, 2], [3, 4]]}, True),
        ({"instances": []}, False),
        ({"instances": [[1]]}, False),
        ({"instances": [["a", "b"]]}, False),
        ({"instances": [{"x": [1, 2], "z": 1}]}, False),
        ({"inputs": [[1, 2], [3]]}, False),
        ({"inputs": {}}, False),
        ({"signature_name": "two", "inputs": {"a": [1], "b": [["t"]]}}, True),
        ({"signature_name": "two", "inputs": {"a": [1], "b": [[{"b64": "YQ=="}]]}}, True),
        ({"signature_name": "two", "inputs": {"a": [2**31], "b": [["t"]]}}, False),
        ({"signature_name": "two", "inputs": {"a": [1]}}, False),
        ({"signature_name": "other", "inputs": [[1, 2]]}, False),
        ({}, False),
    ],
)
def test_the_schema_takes_what_the_server_takes(body: Any, is_valid: bool) -> None:
    assert jsonschema_rs.Draft202012Validator(predict_of(ONE, TWO)["schema"]).is_valid(body) is is_valid


def test_a_fixed_number_of_rows_is_stated() -> None:
    predict = predict_of(signature("serving_default", [tensor("x", FLOAT, (2, 3))]))
    assert predict["examples"]["serving_default_instances"]["value"] == {"instances": [[1.0] * 3] * 2}
    validator = jsonschema_rs.Draft202012Validator(predict["schema"])
    assert validator.is_valid({"instances": [[1, 2, 3]] * 2})
    assert not validator.is_valid({"instances": [[1, 2, 3]] * 3})


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([tensor("x", FLOAT, ())], [tensor("y", FLOAT, (None,))]),
        ([tensor("a", FLOAT, (2,)), tensor("b", FLOAT, (3,))], [tensor("y", FLOAT, (None,))]),
        ([tensor("x", FLOAT, (None,))], [tensor("y", FLOAT, ())]),
        ([tensor("x", FLOAT, (None,))], [tensor("y", FLOAT, (2,)), tensor("z", FLOAT, (3,))]),
    ],
)
def test_rows_are_offered_only_where_they_can_be(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    assert predict_of(signature("s", inputs, outputs))["examples"].keys() == {"s_inputs"}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([tensor("x", HALF, (None,))], [tensor("y", FLOAT, (None,))]),
        ([tensor("x", FLOAT, (None,))], [tensor("y", HALF, (None,))]),
        ([], [tensor("y", FLOAT, (None,))]),
        ([tensor("x", FLOAT, (None,))], [TensorSpec("y", "x:0", FLOAT, (None,))]),
    ],
)
def test_what_json_cannot_call_is_not_offered(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    assert predict_of(signature("s", inputs, outputs)) is None


@pytest.mark.parametrize(
    "spec",
    [
        tensor("x", FLOAT, None),
        tensor("inputs", STRING, (None,)),
        tensor("x", FLOAT, (None, 2000, 2000)),
    ],
)
def test_there_is_no_example_where_none_is_likely_to_do(spec: TensorSpec) -> None:
    predict = predict_of(signature("s", [spec]))
    assert predict["schema"]["anyOf"]
    assert "examples" not in predict


def test_of_a_large_example_one_form_is_given() -> None:
    predict = predict_of(signature("s", [tensor("x", FLOAT, (None, 224, 224, 3))]))
    assert predict["examples"].keys() == {"s_instances"}


def test_the_answer_has_the_form_of_the_outputs() -> None:
    two = signature(
        "s", [tensor("x", FLOAT, (None,))], [tensor("y", FLOAT, (None,)), tensor("z", INT32, (None, 1))]
    )
    operation = document_of(two)["paths"]["/v1/models/m:predict"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator(schema)
    assert validator.is_valid({"outputs": {"y": [1.5], "z": [[1]]}})
    assert validator.is_valid({"predictions": [{"y": 1.5, "z": [1]}]})
    assert not validator.is_valid({"predictions": [{"y": 1.5, "z": [1.5]}]})


def test_errors_are_described() -> None:
    document = document_of(ONE)
    responses = document["paths"]["/v1/models/m:predict"]["post"]["responses"]
    assert {"200", "400", "404", "429", "503", "504"} <= responses.keys()
    assert responses["404"] == {"$ref": "#/components/responses/404"}
    assert document["components"]["schemas"]["Error"]["required"] == ["error"]


def test_examples_are_offered_to_classify_and_regress_where_they_apply() -> None:
    inputs = [tensor("inputs", STRING, (None,))]
    classes = signature("c", inputs, [tensor("scores", FLOAT, (None, None))])
    values = signature("serving_default", inputs, [tensor("outputs", FLOAT, (None, 1))])
    paths = document_of(classes, values, TWO)["paths"]
    classify = paths["/v1/models/m:classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert classify["properties"]["signature_name"] == {"enum": ["c"]}
    assert classify["required"] == ["signature_name", "examples"]
    regress = paths["/v1/models/m:regress"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert regress["required"] == ["examples"]
    assert "/v1/models/m:classify" not in document_of(ONE, TWO)["paths"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (ModelSpec("a/b"), "/v1/models/a%2Fb"),
        (ModelSpec("m", 7), "/v1/models/m/versions/7"),
        (ModelSpec("m", None, "a b"), "/v1/models/m/labels/a%20b"),
    ],
)
def test_paths_are_those_of_the_model_asked_for(spec: ModelSpec, path: str) -> None:
    assert document_of(ONE, spec=spec)["paths"].keys() == {path, f"{path}/metadata", f"{path}:predict"}


def test_a_mounted_document_says_where(bench: Any) -> None:
    app = bench.app()
    key = RequestKey("GET", b"/v1/models/m/openapi.json")
    futures = [app.begin(app.route(key, root), b"") for root in ("", "/tf")]
    bench.pool.run_all()
    plain, mounted = (json.loads(future.result().body) for future in futures)
    assert "servers" not in plain
    assert mounted["servers"] == [{"url": "/tf"}]
    assert (plain["openapi"], plain["info"]) == ("3.1.0", {"title": "m", "version": "3"})


def test_a_document_of_an_unknown_model_is_not_found(bench: Any) -> None:
    app = bench.app()
    future = app.begin(app.route(RequestKey("GET", b"/v1/models/nope/openapi.json")), b"")
    bench.pool.run_all()
    assert future.result().status == 404
