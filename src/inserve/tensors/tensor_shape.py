"""Shapes on the wire: ``tensorflow.TensorShapeProto``.

Which shapes a tensor can have: TensorFlow, ``framework/tensor_shape.cc``. Names of dimensions and
``unknown_rank`` mean nothing for a tensor and are ignored.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, encode_varint

__all__ = ["MAX_DIMENSIONS", "SCALAR", "TensorShape", "encode_shape", "read_shape"]

MAX_DIMENSIONS = 254
_MAX_ELEMENTS = 2**63 - 1
_REMEMBERED_BYTES = 256


class TensorShape(NamedTuple):
    """The shape that a message claims."""

    dimensions: tuple[int, ...]
    elements: int
    problem: str
    """Why no tensor has this shape, else empty."""


SCALAR = TensorShape((), 1, "")


def read_shape(serialized: bytes) -> TensorShape:
    """Return the shape in a serialized TensorShapeProto, also one that is not possible.

    Raises:
        DecodeError: It is not one (``google.protobuf.message``).
    """
    if len(serialized) > _REMEMBERED_BYTES:
        return _parse(serialized)
    return _parse_once(serialized)


def _parse(serialized: bytes) -> TensorShape:
    dimensions = tuple(dim.size for dim in messages.TensorShapeProto.FromString(serialized).dim)
    if len(dimensions) > MAX_DIMENSIONS:
        return TensorShape((), 0, f"it has {len(dimensions)} dimensions, allowed at most {MAX_DIMENSIONS}")
    if dimensions and min(dimensions) < 0:
        return TensorShape((), 0, f"dimension {min(dimensions)} is negative")
    elements = 1
    for count, size in enumerate(dimensions, 1):
        # In this order, so that a later 0 saves nothing: TensorFlow ends the process over such a shape.
        elements *= size
        if elements > _MAX_ELEMENTS:
            part = "it has" if count == len(dimensions) else f"its first {count} dimensions have"
            return TensorShape((), 0, f"{part} {elements} elements, allowed at most {_MAX_ELEMENTS}")
    return TensorShape(dimensions, elements, "")


_parse_once = functools.lru_cache(maxsize=1024)(_parse)


def encode_shape(dimensions: tuple[int, ...]) -> bytes:
    """Return the serialized TensorShapeProto of *dimensions*."""
    shape = bytearray()
    for size in dimensions:
        dimension = b"\x08" + encode_varint(size) if size else b""
        shape += encode_length_delimited_header(2, len(dimension)) + dimension
    return bytes(shape)
