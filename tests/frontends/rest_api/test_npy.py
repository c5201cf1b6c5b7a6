from __future__ import annotations

import io
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.frontends.rest_api.npy import array_of_type, can_write_npy, read_npy, write_npy


def saved(array: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.array(3.5),
        np.zeros((0, 4), np.uint8),
        np.array([1, 2], ">i4"),
        np.array(["a", "é"]),
        np.array([b"a", b"bc"]),
        np.array([], "S1").astype("S0"),
    ],
)
def test_what_numpy_saves_is_read(array: NDArray[Any]) -> None:
    read = read_npy(saved(array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


class Exploding:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def test_objects_are_refused_and_never_unpickled() -> None:
    data = saved(np.array([Exploding()], object), allow_pickle=True)
    with pytest.raises(InvalidArgumentError, match="Python objects"):
        read_npy(data)
    with pytest.raises(InvalidArgumentError, match=r"not an \.npy file"):
        read_npy(pickle.dumps(Exploding()))


def header(text: str) -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY\x03\x00\x00\x00\x00\x00",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,"),
        header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (2,)}"),
        header("__import__('os').abort()"),
        header("(" * 9000),
        saved(np.zeros(3))[:-1],
        saved(np.zeros(3)) + b"x",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}") + bytes(4),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': " + str((1,) * 70) + "}") + bytes(4),
        header("{'descr': [('a', '<f4'), ('b', 'O')], 'fortran_order': False, 'shape': ()}") + bytes(12),
    ],
)
def test_what_is_not_one_whole_array_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        read_npy(data)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([1.5]), np.float32),
        (np.array([1, 2]), np.float32),
        (np.array([200]), np.uint8),
        (np.array([1], ">i4"), np.int32),
        (np.array([True]), np.bool_),
    ],
)
def test_numbers_are_converted_where_every_value_survives(array: NDArray[Any], wanted: Any) -> None:
    converted = array_of_type(array, wanted, "x")
    assert converted.dtype == wanted
    assert converted.dtype.isnative
    np.testing.assert_array_equal(converted, array)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([300]), np.int8),
        (np.array([1.5]), np.int32),
        (np.array([1j]), np.float32),
        (np.array([1]), np.bool_),
        (np.array(["a"]), np.float32),
        (np.array([1.0]), np.object_),
        (np.array([1.0]), None),
    ],
)
def test_other_values_are_refused(array: NDArray[Any], wanted: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="input x"):
        array_of_type(array, wanted, "x")


def test_strings_become_bytes() -> None:
    assert array_of_type(np.array([["é", "b"]]), np.dtype(object), "x").tolist() == [["é".encode(), b"b"]]
    assert array_of_type(np.array([b"ab"]), np.dtype(object), "x").tolist() == [b"ab"]


def test_a_type_that_numpy_lacks_comes_as_its_bytes() -> None:
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    read = array_of_type(read_npy(saved(array)), np.dtype(ml_dtypes.bfloat16), "x")
    assert read.dtype == ml_dtypes.bfloat16
    assert read.tolist() == [1.5, -2.0]


def test_what_is_written_numpy_loads() -> None:
    array = np.arange(6.0).reshape(2, 3).T
    np.testing.assert_array_equal(np.load(io.BytesIO(write_npy(array)), allow_pickle=False), array)


def test_strings_cannot_be_written() -> None:
    assert not can_write_npy(np.array([b"a"], object))
    assert can_write_npy(np.zeros(1, np.float16))


def headed(shape: str, descr: str = "<f4") -> bytes:
    """An .npy file of no values whose header claims *shape*."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "data",
    [
        headed("(False, 3)"),
        headed("(0, 18446744073709551616)"),
        headed("(0, 4611686018427387904, 4611686018427387904)"),
        headed("(1099511627776,)", "|S0"),
    ],
)
def test_a_shape_that_no_array_has_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="npy file"):
        read_npy(data)
