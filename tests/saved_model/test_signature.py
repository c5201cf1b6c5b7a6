from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.saved_model.signature import Signature, TensorSpec, parse_signature
from inserve.tensors.dtypes import DataType

X = TensorSpec("x", "in_x:0", DataType.DT_FLOAT, (None, 2))
Y = TensorSpec("y", "in_y:0", DataType.DT_INT64, ())
OUT = TensorSpec("out", "out:0", DataType.DT_FLOAT, None)
EXTRA = TensorSpec("extra", "extra:0", DataType.DT_FLOAT, None)


def signature(
    inputs: tuple[TensorSpec, ...] = (X, Y), defaults: dict[str, NDArray[Any]] | None = None
) -> Signature:
    return Signature("serving_default", "tensorflow/serving/predict", inputs, (OUT, EXTRA), defaults)


def as_it_is(value: Any, spec: TensorSpec) -> NDArray[Any]:
    array: NDArray[Any] = value
    return array


ROW = np.zeros((1, 2), np.float32)
SCALAR = np.array(3, np.int64)


def test_inputs_are_bound_in_alias_order_whatever_the_order_sent() -> None:
    bound = signature().bind({"y": SCALAR, "x": ROW}, as_it_is)
    assert [array is want for array, want in zip(bound, [ROW, SCALAR], strict=True)] == [True, True]


def test_a_missing_input_is_named_with_what_was_sent() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        signature().bind({"x": ROW}, as_it_is)
    assert error.value.message == (
        "input size does not match signature: 1!=2 len({x}) != len({x,y}). Sent extra: {}. "
        "Missing but required: {y}."
    )


def test_a_wrong_name_in_the_right_number_is_named_with_its_tensor() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        signature().bind({"x": ROW, "z": SCALAR}, as_it_is)
    assert error.value.message == (
        "Signature input alias: y(feed name: in_y:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {x,z}, or default input alias set: "
    )


def test_an_input_left_out_takes_its_default() -> None:
    bound = signature(defaults={"y": SCALAR}).bind({"x": ROW}, as_it_is)
    assert bound[1] is SCALAR


def test_an_unknown_name_beside_a_default_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        signature(defaults={"y": SCALAR}).bind({"x": ROW, "zz": SCALAR}, as_it_is)
    assert error.value.message == (
        "Inputs contains invalid name. Used request inputs: x, request input: x,zz"
    )


def test_names_are_checked_before_any_value_is_read() -> None:
    def explode(value: object, spec: TensorSpec) -> NDArray[Any]:
        raise AssertionError("a value was read")

    with pytest.raises(InvalidArgumentError, match="input size"):
        signature().bind({}, explode)


def test_an_empty_filter_chooses_every_output() -> None:
    assert signature().choose_outputs(()) == ("extra", "out")


def test_a_filter_chooses_in_alias_order() -> None:
    assert signature().choose_outputs(["out", "extra"]) == ("extra", "out")


@pytest.mark.parametrize(
    ("output_filter", "message"),
    [
        (
            ["no"],
            "output tensor alias not found in signature: no Outputs expected to be in the set {extra,out}.",
        ),
        (["out", "out"], "duplicate output tensor alias: out"),
        (
            ["out", "no", "out"],
            "output tensor alias not found in signature: no Outputs expected to be in the set {extra,out}.",
        ),
    ],
)
def test_a_bad_filter_entry_is_reported_in_request_order(output_filter: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        signature().choose_outputs(output_filter)
    assert error.value.message == message


def test_a_wrong_dtype_is_refused_in_tensorflows_words() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        signature().check([ROW, np.array(3, np.int32)], check_shapes=False)
    assert error.value.message == "Expects arg[1] to be int64 but int32 is provided"


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 2, 1), ()])
def test_a_shape_that_differs_from_the_signature_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    came = "[" + ",".join(map(str, shape)) + "]"
    with pytest.raises(InvalidArgumentError) as error:
        signature().check([np.zeros(shape, np.float32), SCALAR], check_shapes=True)
    assert error.value.message == f"Input x of signature serving_default must have shape [?,2], got {came}"


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_an_open_dimension_takes_any_size(rows: int) -> None:
    signature().check([np.zeros((rows, 2), np.float32), SCALAR], check_shapes=True)


@pytest.mark.parametrize("spec", [TensorSpec("x", "x:0", DataType.DT_FLOAT, (None, None)), OUT])
@pytest.mark.parametrize("shape", [(0, 2**40), (2**40, 0), (2**26 + 1, 0)])
def test_vast_dimensions_beside_a_zero_are_refused(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    one = signature((spec,))
    array = np.empty(shape, np.float32)
    came = f"[{shape[0]},{shape[1]}]"
    for check in (
        lambda: one.check([array], check_shapes=True),
        lambda: one.bind_checked({spec.alias: array}, as_it_is, True),
    ):
        with pytest.raises(InvalidArgumentError) as error:
            check()
        assert error.value.message == (
            f"Input {spec.alias} of signature serving_default has no elements and may have at most "
            f"268435456 bytes in its other dimensions, got {came}"
        )
    one.check([array], check_shapes=False)


def test_an_array_without_elements_is_accepted_up_to_a_bound_of_its_other_dimensions() -> None:
    one = signature((TensorSpec("x", "x:0", DataType.DT_FLOAT, (None, None)),))
    for array in (np.empty((0, 2**26), np.float32), np.empty((0, 0), np.float32)):
        (bound,) = one.bind_checked({"x": array}, as_it_is, True)
        assert bound is array


def test_shapes_pass_unchecked_where_that_is_asked_for() -> None:
    signature().check([np.zeros((9, 9, 9), np.float32), SCALAR], check_shapes=False)


def test_a_signature_is_read_from_its_message() -> None:
    proto = messages.SignatureDef(method_name="tensorflow/serving/predict")
    proto.inputs["a"].name = "a:0"
    proto.inputs["a"].dtype = DataType.DT_STRING
    proto.inputs["a"].tensor_shape.dim.add(size=-1)
    proto.inputs["a"].tensor_shape.dim.add(size=4)
    proto.outputs["b"].name = "b:0"
    proto.outputs["b"].dtype = DataType.DT_FLOAT
    proto.outputs["b"].tensor_shape.unknown_rank = True
    proto.defaults["a"].dtype = DataType.DT_STRING
    proto.defaults["a"].tensor_shape.dim.add(size=1)
    proto.defaults["a"].string_val.append(b"x")
    read = parse_signature("k", proto)
    assert read.inputs["a"] == TensorSpec("a", "a:0", DataType.DT_STRING, (None, 4))
    assert read.outputs["b"].shape is None
    assert read.defaults["a"].tolist() == [b"x"]
    assert repr(read) == "<Signature k(a: string[?,4]) -> (b: float<unknown>)>"
