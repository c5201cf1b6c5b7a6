"""The one table between TensorFlow's ``DataType`` and NumPy's dtypes.

Every element takes whole bytes on both sides (4-bit and 2-bit integers take one byte each), so the
memory of an array and of a tensor are the same for every fixed-width type. Quantised types are the
structured dtypes that TensorFlow itself uses, ``np.dtype([("qint8", np.int8)])``. Strings are
object arrays of ``bytes``.

Numbers and names: ``tensorflow/core/framework/types.proto`` and ``types.cc``.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

__all__ = [
    "STRING",
    "DataType",
    "ElementType",
    "data_type_name",
    "element_type",
    "element_type_of",
    "find_element_type",
]


class DataType(enum.IntEnum):
    """``tensorflow.DataType`` without the reference types, which no tensor on the wire can have."""

    DT_INVALID = 0
    DT_FLOAT = 1
    DT_DOUBLE = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 5
    DT_INT8 = 6
    DT_STRING = 7
    DT_COMPLEX64 = 8
    DT_INT64 = 9
    DT_BOOL = 10
    DT_QINT8 = 11
    DT_QUINT8 = 12
    DT_QINT32 = 13
    DT_BFLOAT16 = 14
    DT_QINT16 = 15
    DT_QUINT16 = 16
    DT_UINT16 = 17
    DT_COMPLEX128 = 18
    DT_HALF = 19
    DT_RESOURCE = 20
    DT_VARIANT = 21
    DT_UINT32 = 22
    DT_UINT64 = 23
    DT_FLOAT8_E5M2 = 24
    DT_FLOAT8_E4M3FN = 25
    DT_FLOAT8_E4M3FNUZ = 26
    DT_FLOAT8_E4M3B11FNUZ = 27
    DT_FLOAT8_E5M2FNUZ = 28
    DT_INT4 = 29
    DT_UINT4 = 30
    DT_INT2 = 31
    DT_UINT2 = 32
    DT_FLOAT4_E2M1FN = 33


class ElementType(NamedTuple):
    """What one element of a tensor is."""

    data_type: DataType
    name: str
    """TensorFlow's text name (``DataTypeString``): ``float``, ``int32``, ``half``."""
    numpy: np.dtype[Any]
    """The dtype of arrays of it; ``object`` for strings."""
    field: str
    """The typed field of TensorProto that carries it."""


def _quantised(name: str, storage: type[np.generic]) -> np.dtype[Any]:
    return np.dtype([(name, storage)])


_ROWS: tuple[tuple[DataType, str, Any, str], ...] = (
    (DataType.DT_FLOAT, "float", np.float32, "float_val"),
    (DataType.DT_DOUBLE, "double", np.float64, "double_val"),
    (DataType.DT_INT32, "int32", np.int32, "int_val"),
    (DataType.DT_UINT8, "uint8", np.uint8, "int_val"),
    (DataType.DT_INT16, "int16", np.int16, "int_val"),
    (DataType.DT_INT8, "int8", np.int8, "int_val"),
    (DataType.DT_STRING, "string", np.object_, "string_val"),
    (DataType.DT_COMPLEX64, "complex64", np.complex64, "scomplex_val"),
    (DataType.DT_INT64, "int64", np.int64, "int64_val"),
    (DataType.DT_BOOL, "bool", np.bool_, "bool_val"),
    (DataType.DT_QINT8, "qint8", _quantised("qint8", np.int8), "int_val"),
    (DataType.DT_QUINT8, "quint8", _quantised("quint8", np.uint8), "int_val"),
    (DataType.DT_QINT32, "qint32", _quantised("qint32", np.int32), "int_val"),
    (DataType.DT_BFLOAT16, "bfloat16", ml_dtypes.bfloat16, "half_val"),
    (DataType.DT_QINT16, "qint16", _quantised("qint16", np.int16), "int_val"),
    (DataType.DT_QUINT16, "quint16", _quantised("quint16", np.uint16), "int_val"),
    (DataType.DT_UINT16, "uint16", np.uint16, "int_val"),
    (DataType.DT_COMPLEX128, "complex128", np.complex128, "dcomplex_val"),
    (DataType.DT_HALF, "half", np.float16, "half_val"),
    (DataType.DT_UINT32, "uint32", np.uint32, "uint32_val"),
    (DataType.DT_UINT64, "uint64", np.uint64, "uint64_val"),
    (DataType.DT_FLOAT8_E5M2, "float8_e5m2", ml_dtypes.float8_e5m2, "float8_val"),
    (DataType.DT_FLOAT8_E4M3FN, "float8_e4m3fn", ml_dtypes.float8_e4m3fn, "float8_val"),
    (DataType.DT_FLOAT8_E4M3FNUZ, "float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, "float8_val"),
    (DataType.DT_FLOAT8_E4M3B11FNUZ, "float8_e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz, "float8_val"),
    (DataType.DT_FLOAT8_E5M2FNUZ, "float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, "float8_val"),
    (DataType.DT_INT4, "int4", ml_dtypes.int4, "int_val"),
    (DataType.DT_UINT4, "uint4", ml_dtypes.uint4, "int_val"),
    (DataType.DT_INT2, "int2", ml_dtypes.int2, "int_val"),
    (DataType.DT_UINT2, "uint2", ml_dtypes.uint2, "int_val"),
    (DataType.DT_FLOAT4_E2M1FN, "float4_e2m1fn", ml_dtypes.float4_e2m1fn, "float8_val"),
)

_BY_NUMBER = {int(row[0]): ElementType(row[0], row[1], np.dtype(row[2]), row[3]) for row in _ROWS}
_BY_NUMPY = {element.numpy: element for element in _BY_NUMBER.values()}

_NAMES_WITHOUT_ARRAY: dict[int, str] = {DataType.DT_RESOURCE: "resource", DataType.DT_VARIANT: "variant"}

STRING = _BY_NUMBER[DataType.DT_STRING]


def find_element_type(data_type: int) -> ElementType | None:
    """Return the row of a ``DataType`` number, or None for one that no array can have.

    None: ``DT_INVALID``, ``DT_RESOURCE``, ``DT_VARIANT``, reference types and unknown numbers.
    """
    return _BY_NUMBER.get(data_type)


def data_type_name(data_type: int) -> str:
    """Return TensorFlow's text name of any ``DataType`` number: ``float``, ``resource``, ``unknown``."""
    element = _BY_NUMBER.get(data_type)
    if element is not None:
        return element.name
    return _NAMES_WITHOUT_ARRAY.get(data_type, "unknown")


def element_type(data_type: int) -> ElementType:
    """Return the row of a ``DataType`` number.

    Raises:
        ValueError: No array can have that type.
    """
    try:
        return _BY_NUMBER[data_type]
    except KeyError:
        raise ValueError(f"no array has elements of DataType {data_type}") from None


def element_type_of(dtype: np.dtype[Any]) -> ElementType:
    """Return the row of a NumPy *dtype* in the machine's byte order; ``object`` is a string.

    Raises:
        ValueError: TensorFlow has no such type.
    """
    try:
        return _BY_NUMPY[dtype]
    except KeyError:
        raise ValueError(f"TensorFlow has no element type for NumPy dtype {dtype}") from None
