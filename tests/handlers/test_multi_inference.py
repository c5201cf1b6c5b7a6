from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.handlers.classify import CLASSIFY_METHOD, classify
from inserve.handlers.inference_codec import Classification, InferenceTask
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.multi_inference import multi_inference
from inserve.handlers.placement import WouldBlock
from inserve.handlers.regress import REGRESS_METHOD, regress
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.interface import Executor
from inserve.tensors.dtypes import DataType

EXAMPLES = [b"one", b"two"]
VALUES: dict[str, NDArray[Any]] = {
    "scores:0": np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
    "value:0": np.array([[1.0], [2.0]], np.float32),
    "shared:0": np.array([3.0, 4.0], np.float32),
}


class ScriptedModel:
    """Gives ``VALUES`` by the names of the tensors fetched, and keeps what each run was fed."""

    def __init__(self, meta_graph_def: bytes) -> None:
        self.meta_graph_def = meta_graph_def
        self.runs: list[tuple[dict[str, list[bytes]], list[str]]] = []

    @property
    def session(self) -> ScriptedModel:
        return self

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> ScriptedRunner:
        return ScriptedRunner(self, [name for name, _ in feeds], list(fetches))

    def close(self) -> None:
        pass


class ScriptedRunner:
    def __init__(self, model: ScriptedModel, feeds: list[str], fetches: list[str]) -> None:
        self._model = model
        self._feeds = feeds
        self._fetches = fetches

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        fed = {name: array.tolist() for name, array in zip(self._feeds, arrays, strict=True)}
        self._model.runs.append((fed, self._fetches))
        return [VALUES[name] for name in self._fetches]


def add(meta_graph: messages.MetaGraphDef, key: str, feed: str, alias: str, fetch: str) -> None:
    signature = meta_graph.signature_def[key]
    signature.inputs["inputs"].name = feed
    signature.inputs["inputs"].dtype = DataType.DT_STRING
    signature.inputs["inputs"].tensor_shape.dim.add(size=-1)
    signature.outputs[alias].name = fetch
    signature.outputs[alias].dtype = DataType.DT_FLOAT


@pytest.fixture
def model() -> ScriptedModel:
    meta_graph = messages.MetaGraphDef()
    add(meta_graph, "classes", "examples:0", "scores", "scores:0")
    add(meta_graph, "value", "examples:0", "outputs", "value:0")
    add(meta_graph, "other", "others:0", "outputs", "shared:0")
    add(meta_graph, "same", "others:0", "outputs", "shared:0")
    return ScriptedModel(meta_graph.SerializeToString())


def task(signature_name: str, method_name: str = REGRESS_METHOD) -> InferenceTask:
    return InferenceTask(ModelSpec("m", signature_name=signature_name), method_name)


def test_all_tasks_take_one_run_in_which_each_tensor_stands_once(model: ScriptedModel) -> None:
    tasks = [task("other"), task("classes", CLASSIFY_METHOD), task("value"), task("same")]
    multi_inference(SavedModelServable(model), tasks, EXAMPLES)
    assert model.runs == [
        ({"examples:0": EXAMPLES, "others:0": EXAMPLES}, ["scores:0", "shared:0", "value:0"]),
    ]


def test_results_stand_in_the_order_of_the_tasks(model: ScriptedModel) -> None:
    tasks = [task("value"), task("classes", CLASSIFY_METHOD)]
    first, second = multi_inference(SavedModelServable(model), tasks, EXAMPLES, version=3)
    assert first.spec == ModelSpec("m", 3, None, "value")
    assert isinstance(first.result, np.ndarray)
    assert first.result.tolist() == [1.0, 2.0]
    assert second.spec == ModelSpec("m", 3, None, "classes")
    assert isinstance(second.result, Classification)
    assert second.result.labels is None


def test_the_method_name_of_the_signature_counts_only_where_it_is_checked(model: ScriptedModel) -> None:
    servable = SavedModelServable(model)
    assert len(multi_inference(servable, [task("value")], EXAMPLES)) == 1
    with pytest.raises(InvalidArgumentError, match=f"method_name to be {REGRESS_METHOD}. Was: $"):
        multi_inference(servable, [task("value")], EXAMPLES, check_method_name=True)


def test_nothing_runs_on_a_thread_that_must_stay_free_until_runs_are_known_to_be_short(
    model: ScriptedModel,
) -> None:
    servable = SavedModelServable(model)
    with pytest.raises(WouldBlock):
        multi_inference(servable, [task("value")], EXAMPLES, may_block=False)
    with pytest.raises(WouldBlock):
        classify(servable, "classes", EXAMPLES, may_block=False)
    with pytest.raises(WouldBlock):
        regress(servable, "value", EXAMPLES, may_block=False)
    assert model.runs == []


def test_a_request_that_is_refused_never_blocks(model: ScriptedModel) -> None:
    servable = SavedModelServable(model)
    with pytest.raises(InvalidArgumentError, match="Input is empty"):
        regress(servable, "value", [], may_block=False)


def test_a_record_learns_how_many_examples_ran(model: ScriptedModel) -> None:
    record, refused = RequestRecord(), RequestRecord()
    servable = SavedModelServable(model)
    multi_inference(servable, [task("value"), task("other")], EXAMPLES, record=record)
    assert record.num_examples == len(EXAMPLES)
    assert record.run_s is not None
    with pytest.raises(InvalidArgumentError):
        multi_inference(servable, [task("value")], [], record=refused)
    assert refused.num_examples is None
