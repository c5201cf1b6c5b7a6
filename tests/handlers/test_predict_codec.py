"""Predict messages against protobuf's own parser and the recorded answers of the C++ server."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inserve.errors import Code, InserveError, InvalidArgumentError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.predict_codec import (
    MalformedRequestError,
    decode_predict_request,
    decode_predict_response,
    encode_predict_request,
    encode_predict_response,
    to_array,
)
from inserve.protos import messages

GOLDEN = Path(__file__).parents[1] / "golden" / "grpc.jsonl"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
SPEC = ModelSpec("half_plus_two", 3, None, "serving_default")


def recorded(*prefixes: str) -> list[Any]:
    cases = map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines())
    chosen = [case for case in cases if case["category"].startswith(prefixes) and case["method"] == PREDICT]
    return [pytest.param(case, id=case["id"]) for case in chosen]


def answered(case: Mapping[str, Any]) -> bytes:
    """What the codec answers for a model that returns what it gets, or version 2 of half_plus_two."""
    call = decode_predict_request(base64.b64decode(case["request_b64"]))
    assert call.spec is not None
    x = to_array(call.inputs["x"])
    y, version = x, 1
    if call.spec.name == "half_plus_two":
        y, version = x / np.float32(2) + np.float32(3), 2
    elif call.spec.signature_name.startswith("to_"):
        recorded_y = messages.PredictResponse.FromString(base64.b64decode(case["response"]["message_b64"]))
        with np.errstate(over="ignore"):
            y = x.astype(to_array(recorded_y.outputs["y"]).dtype)
    signature_name = call.spec.signature_name or "serving_default"
    as_content = case["server"] == "tensor_content"
    return encode_predict_response([("y", y)], call.spec.name, version, signature_name, as_content)


@pytest.mark.parametrize("case", recorded("codec", "tensor_content", "wire"))
def test_the_recorded_answer_comes_out_byte_for_byte(case: dict[str, Any]) -> None:
    response = case["response"]
    if response["code"] == "OK":
        expected = messages.PredictResponse.FromString(base64.b64decode(response["message_b64"]))
        assert answered(case) == expected.SerializeToString(deterministic=True)
    elif response["code"] == "INTERNAL":
        with pytest.raises(MalformedRequestError) as caught:
            answered(case)
        assert (caught.value.code, caught.value.message) == (Code.INTERNAL, "")
    elif response["message"] == "Missing ModelSpec":
        assert decode_predict_request(base64.b64decode(case["request_b64"])).spec is None
    elif response["message"].startswith("tensor parsing error"):
        with pytest.raises(InvalidArgumentError):
            answered(case)


def request_of(**inputs: NDArray[Any]) -> bytes:
    return encode_predict_request(SPEC, inputs, as_content=False)


def arrays(data: bytes) -> dict[str, list[Any]]:
    return {alias: to_array(source).tolist() for alias, source in decode_predict_request(data).inputs.items()}


def test_values_that_differ_in_a_repeated_form_are_read_anew() -> None:
    for value in (1.0, 2.0, 3.0, 4.0):
        assert arrays(request_of(x=np.array([value], np.float32))) == {"x": [value]}


def test_strings_that_differ_in_a_repeated_form_are_read_anew() -> None:
    for value in (b"one", b"two", b"\xff\x00t", b"six"):
        assert arrays(request_of(x=np.array([value], object))) == {"x": [value]}


def test_names_and_shapes_that_differ_at_the_same_length_are_read_anew() -> None:
    values = np.arange(6, dtype=np.float32)
    for _ in range(3):
        assert arrays(request_of(x=values.reshape(2, 3))) == {"x": [[0, 1, 2], [3, 4, 5]]}
        assert arrays(request_of(x=values.reshape(3, 2))) == {"x": [[0, 1], [2, 3], [4, 5]]}
        assert arrays(request_of(z=values.reshape(3, 2))) == {"z": [[0, 1], [2, 3], [4, 5]]}


def test_an_endless_integer_is_malformed_also_in_a_known_form() -> None:
    good = request_of(x=np.array([2**62, 2**62], np.int64))
    for _ in range(3):
        assert arrays(good) == {"x": [2**62, 2**62]}
    cut = good.replace(b"\x40" + b"\x80" * 8 + b"\x40", b"\x80" * 9 + b"\x80")
    assert len(cut) == len(good)
    assert cut != good
    with pytest.raises(MalformedRequestError):
        decode_predict_request(cut)


def test_a_byte_other_than_0_and_1_in_bool_content_fails_also_in_a_known_form() -> None:
    good = encode_predict_request(SPEC, {"x": np.array([True, False])}, as_content=True)
    for _ in range(3):
        assert arrays(good) == {"x": [True, False]}
    call = decode_predict_request(good.replace(b"\x22\x02\x01\x00", b"\x22\x02\x02\x00"))
    with pytest.raises(InvalidArgumentError, match="byte 2, expected 0 or 1"):
        to_array(call.inputs["x"])


def test_large_values_are_views_of_the_request() -> None:
    request = request_of(x=np.arange(100_000, dtype=np.float32))
    x = to_array(decode_predict_request(request).inputs["x"])
    assert np.shares_memory(x, np.frombuffer(request, np.uint8))
    assert not x.flags.writeable


def test_version_zero_is_a_version_and_a_label_excludes_it() -> None:
    for spec in (
        ModelSpec("m", 0),
        ModelSpec("m", None, ""),
        ModelSpec("m", None, "stable", "s"),
        ModelSpec(),
    ):
        assert decode_predict_request(encode_predict_request(spec, {})).spec == spec


def test_the_last_entry_of_a_repeated_name_counts() -> None:
    first = messages.PredictRequest()
    first.inputs["x"].dtype = 1
    first.inputs["x"].float_val.extend([1.0])
    second = messages.PredictRequest()
    second.inputs["x"].dtype = 3
    data = first.SerializeToString() + second.SerializeToString()
    assert to_array(decode_predict_request(data).inputs["x"]) == np.int32(0)


def test_the_output_filter_keeps_its_order_and_repetitions() -> None:
    data = encode_predict_request(SPEC, {"x": np.zeros(1, np.float32)}, ["b", "a", "b"])
    assert list(decode_predict_request(data).output_filter) == ["b", "a", "b"]


@pytest.mark.parametrize("data", [b"\x0a\x03\x0a\x01\xff", b"\x12\x05\x0a\x01\xff\x12\x00", b"\x1a\x01\xff"])
def test_a_name_that_is_not_utf8_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        decode_predict_request(data)


def test_an_entry_without_name_or_tensor_has_the_defaults() -> None:
    call = decode_predict_request(b"\x12\x00")
    assert list(call.inputs) == [""]
    with pytest.raises(InvalidArgumentError, match="DataType 0"):
        to_array(call.inputs[""])


def test_response_arrays_come_back_with_the_served_version() -> None:
    outputs = {
        "strings": np.array([[b"a", b""]], np.object_),
        "floats": np.array(1.5, np.float32),
        "integers": np.array([-1, 2**40], np.int64),
    }
    for as_content in (False, True):
        data = encode_predict_response(outputs.items(), "m", 7, "s", as_content)
        spec, decoded = decode_predict_response(data)
        assert spec == ModelSpec("m", 7, None, "s")
        assert {name: array.tolist() for name, array in decoded.items()} == {
            name: array.tolist() for name, array in outputs.items()
        }


def test_a_response_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedRequestError):
        decode_predict_response(b"\xff\xff")


tensor_messages = st.builds(
    lambda dtype, sizes, floats, integers, content, strings: messages.TensorProto(
        dtype=dtype,
        tensor_shape=messages.TensorShapeProto(
            dim=[messages.TensorShapeProto.Dim(size=size) for size in sizes]
        ),
        float_val=floats,
        int64_val=integers,
        tensor_content=content,
        string_val=strings,
    ),
    st.sampled_from([0, 1, 7, 9, 10, 200]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.lists(st.floats(width=32), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.sampled_from([b"", b"\x00\x00\x80\x3f", b"\x01"]),
    st.lists(st.binary(max_size=3), max_size=2),
)
request_messages = st.builds(
    lambda inputs, output_filter, client_id: messages.PredictRequest(
        model_spec=messages.ModelSpec(name="m"),
        inputs=inputs,
        output_filter=output_filter,
        client_id=client_id,
    ),
    st.dictionaries(st.text(max_size=2), tensor_messages, max_size=3),
    st.lists(st.text(max_size=2), max_size=2),
    st.none() | st.binary(max_size=2),
)


def outcome(source: Any) -> Any:
    try:
        array = to_array(source)
    except InserveError as error:
        return error.message
    return (array.dtype, array.shape, array.tolist() if array.dtype == object else array.tobytes())


def judged_by_protobuf(data: bytes) -> Any:
    try:
        request = messages.PredictRequest.FromString(data)
    except Exception:
        return None
    return {alias: outcome(tensor) for alias, tensor in request.inputs.items()}, list(request.output_filter)


@settings(deadline=None, max_examples=300)
@given(
    request=request_messages,
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=2),
    cut=st.floats(0.5, 1),
)
def test_any_bytes_mean_what_protobuf_says_they_mean(
    request: messages.PredictRequest, edits: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(request.SerializeToString())
    for where, byte in edits:
        if damaged:
            damaged[int(where * len(damaged))] = byte
    for data in (bytes(damaged), bytes(damaged[: int(cut * len(damaged))]), bytes(damaged) * 2):
        expected = judged_by_protobuf(data)
        for _ in range(3):
            try:
                call = decode_predict_request(data)
            except MalformedRequestError:
                assert expected is None
                continue
            inputs = {alias: outcome(source) for alias, source in call.inputs.items()}
            assert (inputs, list(call.output_filter)) == expected
