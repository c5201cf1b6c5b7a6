from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inserve.errors import InvalidArgumentError
from inserve.saved_model.input_value import array_from_value
from inserve.saved_model.signature import TensorSpec
from inserve.tensors.dtypes import DataType


def spec(data_type: DataType) -> TensorSpec:
    return TensorSpec("x", "x:0", data_type, None)


def test_an_array_of_the_right_dtype_is_used_as_it_is() -> None:
    array = np.zeros((2, 3), np.float32)
    assert array_from_value(array, spec(DataType.DT_FLOAT)) is array


@pytest.mark.parametrize(
    ("value", "data_type", "dtype", "expected"),
    [
        ([1.0, 2.5], DataType.DT_FLOAT, np.float32, [1.0, 2.5]),
        ([1, 2], DataType.DT_FLOAT, np.float32, [1.0, 2.0]),
        (3, DataType.DT_INT64, np.int64, 3),
        ([[1], [255]], DataType.DT_UINT8, np.uint8, [[1], [255]]),
        (np.array([0.1]), DataType.DT_FLOAT, np.float32, [np.float32(0.1)]),
        (np.array([7], np.int64), DataType.DT_INT32, np.int32, [7]),
        ([True, False], DataType.DT_BOOL, np.bool_, [True, False]),
        ([1.5], DataType.DT_BFLOAT16, ml_dtypes.bfloat16, [1.5]),
        (np.array([1.5], ml_dtypes.bfloat16), DataType.DT_FLOAT, np.float32, [1.5]),
        ([1, -8, 7], DataType.DT_INT4, ml_dtypes.int4, [1, -8, 7]),
        ([1 + 2j], DataType.DT_COMPLEX64, np.complex64, [1 + 2j]),
        ([], DataType.DT_INT32, np.int32, []),
        (np.array([1], ">i4"), DataType.DT_INT32, np.int32, [1]),
    ],
)
def test_values_that_fit_are_converted(value: Any, data_type: DataType, dtype: Any, expected: Any) -> None:
    array = array_from_value(value, spec(data_type))
    assert array.dtype == dtype
    assert array.tolist() == expected


def test_numbers_become_a_quantised_array() -> None:
    array = array_from_value([1, -2], spec(DataType.DT_QINT8))
    assert array.dtype == np.dtype([("qint8", np.int8)])
    assert array["qint8"].tolist() == [1, -2]


@pytest.mark.parametrize(
    ("value", "data_type", "message"),
    [
        ([1.5], DataType.DT_INT32, "Input x takes int32, got float64 values"),
        ([300], DataType.DT_UINT8, "Input x takes uint8, got values from 300 to 300"),
        ([8], DataType.DT_INT4, "Input x takes int4, got values from 8 to 8"),
        ([2**70], DataType.DT_INT64, "Input x takes int64, got object values"),
        ([1], DataType.DT_BOOL, "Input x takes bool, got values from 1 to 1"),
        ([1j], DataType.DT_FLOAT, "Input x takes float, got complex128 values"),
        (["a"], DataType.DT_FLOAT, "Input x takes float, got <U1 values"),
        ([1], DataType.DT_STRING, "Input x takes strings (str or bytes), got int"),
        ([None], DataType.DT_FLOAT, "Input x takes float, got object values"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_what_came(
    value: Any, data_type: DataType, message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        array_from_value(value, spec(data_type))
    assert error.value.message == message


def test_ragged_numbers_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="Input x is not a rectangular array"):
        array_from_value([[1.0], [1.0, 2.0]], spec(DataType.DT_FLOAT))


def test_ragged_strings_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="ragged"):
        array_from_value([["a"], ["b", "c"]], spec(DataType.DT_STRING))


@pytest.mark.parametrize("value", ["é", b"\xff", ["a", b"b"], np.array(["a"]), np.array([b"a"])])
def test_text_and_bytes_are_strings(value: Any) -> None:
    assert array_from_value(value, spec(DataType.DT_STRING)).dtype == np.object_


def test_a_resource_can_not_be_passed() -> None:
    with pytest.raises(InvalidArgumentError, match="resource, which no caller can pass"):
        array_from_value(1, spec(DataType.DT_RESOURCE))


@pytest.mark.parametrize("value", [3, None, 1.5, b"ok".decode, [b"x"]])
def test_an_object_array_holds_nothing_but_strings(value: object) -> None:
    array = np.array([b"ok", None], np.object_)
    array[1] = value
    with pytest.raises(InvalidArgumentError, match=r"Input x takes strings \(str or bytes\), got "):
        array_from_value(array, spec(DataType.DT_STRING))


def test_an_object_array_of_bytes_is_used_as_it_is() -> None:
    array = np.array([[b"a\0"], [b""]], np.object_)
    assert array_from_value(array, spec(DataType.DT_STRING)) is array


def test_text_becomes_utf_8_and_bytes_keep_their_nuls() -> None:
    array = array_from_value(np.array(["b\u00fas", b"a\0"], np.object_), spec(DataType.DT_STRING))
    assert array.tolist() == [b"b\xc3\xbas", b"a\0"]


def test_text_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match="Input x takes text that UTF-8 can hold, got a lone surrogate at 1"
    ):
        array_from_value(["a\udcff"], spec(DataType.DT_STRING))


@pytest.mark.parametrize("rank", [33, 64])
def test_strings_may_have_as_many_dimensions_as_an_array(rank: int) -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("this NumPy has arrays of at most 32 dimensions")
    array = array_from_value(np.full((1,) * rank, "s", np.object_), spec(DataType.DT_STRING))
    assert (array.shape, array.ravel().tolist()) == ((1,) * rank, [b"s"])


def test_a_size_no_memory_holds_is_refused_before_any_value_is_read() -> None:
    with pytest.raises(InvalidArgumentError, match="Input x has an impossible size"):
        array_from_value(np.broadcast_to(np.int8(0), (2**62,)), spec(DataType.DT_INT32))
    with pytest.raises(MemoryError):
        array_from_value(np.broadcast_to(np.int8(0), (2**54,)), spec(DataType.DT_INT32))
