"""Graphs of one operation or a few, for tests of rules about rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import tensorflow as tf
from numpy.typing import NDArray

from inserve.saved_model.signature import TensorSpec

Build = Callable[..., Any]
Array = NDArray[Any]

ROW_COUNTS = (1, 2, 3, 7, 8, 17)

tf1 = tf.compat.v1


class Case(NamedTuple):
    build: Build
    inputs: tuple[Array, ...]


def case(build: Build, *inputs: Array, id: str | None = None) -> Any:
    return pytest.param(Case(build, inputs), id=id)


def graph_of(build: Build, inputs: Sequence[Array]) -> tuple[Any, list[Any], list[Any]]:
    """Return a graph of *build* on placeholders for any number of such rows, and its ends."""
    graph = tf.Graph()
    with graph.as_default():
        feeds = [tf1.placeholder(array.dtype, [None, *array.shape[1:]]) for array in inputs]
        fetches = build(*feeds)
    return graph, feeds, list(fetches) if isinstance(fetches, list | tuple) else [fetches]


def spec_of(alias: str, tensor: Any) -> TensorSpec:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorSpec(alias, tensor.name, tensor.dtype.as_datatype_enum, shape)
