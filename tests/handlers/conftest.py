"""What tests of single handlers share: a model whose runs are written down, and a finder that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.request_tap import RequestTap, ServedRequest
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.interface import Executor
from inserve.tensors.dtypes import DataType


class WrittenModel:
    """A LoadedModel, its session and every runner of it: a run gives *values* by tensor name."""

    def __init__(self, meta_graph_def: bytes, values: Mapping[str, NDArray[Any]]) -> None:
        self.meta_graph_def = meta_graph_def
        self.error: Exception | None = None
        self._values = values

    @property
    def session(self) -> WrittenModel:
        return self

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> WrittenRunner:
        return WrittenRunner(self, [self._values[name] for name in fetches])

    def close(self) -> None:
        pass


class WrittenRunner:
    def __init__(self, model: WrittenModel, outputs: list[NDArray[Any]]) -> None:
        self._model = model
        self._outputs = outputs

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        if self._model.error is not None:
            raise self._model.error
        return self._outputs


class OneModel:
    """A finder that has version 7 of model ``m``, and a tap with one listener."""

    def __init__(self, model: WrittenModel) -> None:
        self.model = model
        self.tap = RequestTap()
        self.heard: list[tuple[ServableId, bytes, bytes]] = []
        self._servable = SavedModelServable(model)

    def find(self, spec: ModelSpec | None) -> ServableHandle[SavedModelServable]:
        if spec is None:
            raise InvalidArgumentError("Missing ModelSpec")
        if spec.name != "m":
            raise NotFoundError(spec.name)
        return ServableHandle(Lease(ServableId("m", 7), self._servable, SimpleQueue()))

    def listen(self) -> None:
        self.tap.add(self)

    def hear(self, served: ServedRequest) -> None:
        self.heard.append((served.id, served.request(), served.response()))


def _add(
    meta_graph: messages.MetaGraphDef, key: str, takes: DataType, outputs: Mapping[str, DataType]
) -> None:
    signature = meta_graph.signature_def[key]
    signature.inputs["inputs"].name = f"{key}_inputs:0"
    signature.inputs["inputs"].dtype = takes
    signature.inputs["inputs"].tensor_shape.dim.add(size=-1)
    for alias, data_type in outputs.items():
        signature.outputs[alias].name = f"{alias}:0"
        signature.outputs[alias].dtype = data_type


@pytest.fixture
def one_model() -> OneModel:
    """Signatures ``serving_default`` (predict), ``classify`` and ``regress``, each for two rows."""
    meta_graph = messages.MetaGraphDef()
    _add(meta_graph, "serving_default", DataType.DT_FLOAT, {"y": DataType.DT_FLOAT, "a": DataType.DT_INT64})
    _add(meta_graph, "classify", DataType.DT_STRING, {"scores": DataType.DT_FLOAT})
    _add(meta_graph, "regress", DataType.DT_STRING, {"outputs": DataType.DT_FLOAT})
    values: dict[str, NDArray[Any]] = {
        "y:0": np.array([1.0, 2.0], np.float32),
        "a:0": np.array([5], np.int64),
        "scores:0": np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
        "outputs:0": np.array([[1.5], [-2.0]], np.float32),
    }
    return OneModel(WrittenModel(meta_graph.SerializeToString(), values))
