"""JSON Schemas and examples of the tensors of a signature."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from inserve.frontends.rest_api.route import TensorInfo
from inserve.tensors.dtypes import DataType

__all__ = [
    "MAX_EXAMPLE_VALUES",
    "can_be_json",
    "example_value",
    "gives_rows",
    "has_example",
    "num_example_values",
    "row_schema",
    "stated_rows",
    "takes_rows",
    "tensor_schema",
]

MAX_EXAMPLE_VALUES = 200_000
"""Larger examples are left out: 224 x 224 x 3 fits."""

_B64 = {
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["b64"],
    "additionalProperties": False,
}
_MAX_FLOAT = 3.4028235e38
"""What is beyond becomes infinite."""


def _integer(bits: int, signed: bool) -> Mapping[str, Any]:
    least = -(2 ** (bits - 1)) if signed else 0
    return {"type": "integer", "minimum": least, "maximum": least + 2**bits - 1}


_VALUES: Mapping[int, Mapping[str, Any]] = {
    DataType.DT_FLOAT: {"type": "number", "minimum": -_MAX_FLOAT, "maximum": _MAX_FLOAT},
    DataType.DT_DOUBLE: {"type": "number"},
    DataType.DT_INT8: _integer(8, signed=True),
    DataType.DT_INT16: _integer(16, signed=True),
    DataType.DT_INT32: _integer(32, signed=True),
    DataType.DT_INT64: _integer(64, signed=True),
    DataType.DT_UINT8: _integer(8, signed=False),
    DataType.DT_UINT32: _integer(32, signed=False),
    DataType.DT_UINT64: _integer(64, signed=False),
    DataType.DT_BOOL: {"type": "boolean"},
    DataType.DT_STRING: {"oneOf": [{"type": "string"}, _B64]},
}
"""The types that JSON bodies can carry; TensorFlow Serving reads and writes no others."""

_EXAMPLES_ALIASES = frozenset({"inputs", "examples"})
"""What Estimators call an input of serialized ``tf.Example``."""

_EXAMPLES: Mapping[int, Any] = {
    DataType.DT_FLOAT: 1.0,
    DataType.DT_DOUBLE: 1.0,
    DataType.DT_BOOL: True,
    DataType.DT_STRING: "1",
}


def can_be_json(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether JSON can carry all of *tensors*."""
    return all(info.data_type in _VALUES for info in tensors.values())


def takes_rows(inputs: Mapping[str, TensorInfo]) -> bool:
    """Return whether all of *inputs* can have a common first dimension."""
    sizes = {info.shape[0] for info in inputs.values() if info.shape} - {None}
    return len(sizes) <= 1 and _has_no_scalar(inputs)


def gives_rows(outputs: Mapping[str, TensorInfo]) -> bool:
    """Return whether nothing is known against a common first dimension of all *outputs*."""
    return len({info.shape[0] for info in outputs.values() if info.shape}) <= 1 and _has_no_scalar(outputs)


def has_example(inputs: Mapping[str, TensorInfo]) -> bool:
    """Return whether ``example_value`` is likely to do for *inputs*.

    Their ranks must be known, and none may look like serialized ``tf.Example`` by its name.
    """
    return all(
        info.shape is not None and (info.data_type != DataType.DT_STRING or alias not in _EXAMPLES_ALIASES)
        for alias, info in inputs.items()
    )


def stated_rows(tensors: Mapping[str, TensorInfo]) -> int | None:
    """Return how many rows *tensors* with a common first dimension must have; None for any number."""
    sizes = (info.shape[0] for info in tensors.values() if info.shape)
    return next((size for size in sizes if size is not None), None)


def tensor_schema(info: TensorInfo) -> Mapping[str, Any]:
    """Return the schema of a whole tensor: lists as deep as its rank, as long as its stated sizes."""
    if info.shape is None:
        return {"description": "a value, or lists of any depth of values"}
    return _nested(_VALUES[info.data_type], info.shape)


def row_schema(info: TensorInfo) -> Mapping[str, Any]:
    """Return the schema of one row of a tensor, which must have a first dimension."""
    if info.shape is None:
        return {"description": "a value, or lists of any depth of values"}
    return _nested(_VALUES[info.data_type], info.shape[1:])


def example_value(info: TensorInfo, is_row: bool = False) -> Any:
    """Return nested lists of ones: a tensor, with 1 for every size that is not stated, or one row of it."""
    value: Any = _EXAMPLES.get(info.data_type, 1)
    for size in reversed(_example_shape(info)[1 if is_row else 0 :]):
        value = [value] * size
    return value


def num_example_values(tensors: Mapping[str, TensorInfo]) -> int:
    """Return how many values the examples of *tensors* have together."""
    return sum(prod(_example_shape(info)) for info in tensors.values())


def _has_no_scalar(tensors: Mapping[str, TensorInfo]) -> bool:
    return all(info.shape is None or len(info.shape) > 0 for info in tensors.values())


def _example_shape(info: TensorInfo) -> tuple[int, ...]:
    return (1,) if info.shape is None else tuple(1 if size is None else size for size in info.shape)


def _nested(schema: Mapping[str, Any], shape: tuple[int | None, ...]) -> Mapping[str, Any]:
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema = {**schema, "minItems": size, "maxItems": size}
    return schema
