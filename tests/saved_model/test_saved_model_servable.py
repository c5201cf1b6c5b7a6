from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.saved_model.run_cost import RunCost
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


@pytest.fixture
def half_plus_two() -> Iterator[SavedModelServable]:
    servable = SavedModelServable(load_saved_model(str(MODELS / "half_plus_two" / "1")))
    yield servable
    servable.close()


def test_tensors_are_fed_and_fetched_by_their_names_in_the_graph(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feed, fetch = signature.inputs["x"].tensor_name, signature.outputs["y"].tensor_name
    run = half_plus_two.run_of_tensors(((feed, DataType.DT_FLOAT),), (fetch,))
    assert run.output_aliases == (fetch,)
    (y,) = run.run([np.array([2.0, 4.0], np.float32)])
    assert y.tolist() == [3.0, 4.0]


def test_the_run_of_the_same_tensors_is_prepared_once(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feeds = ((signature.inputs["x"].tensor_name, DataType.DT_FLOAT),)
    fetches = (signature.outputs["y"].tensor_name,)
    assert half_plus_two.run_of_tensors(feeds, fetches) is half_plus_two.run_of_tensors(feeds, fetches)


def test_a_feed_of_another_type_than_in_the_graph_is_refused(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feed, fetch = signature.inputs["x"].tensor_name, signature.outputs["y"].tensor_name
    with pytest.raises(InvalidArgumentError, match="expected DT_STRING for the feed"):
        half_plus_two.tensor_run((feed,), (fetch,))


def test_a_tensor_the_graph_lacks_is_refused(half_plus_two: SavedModelServable) -> None:
    with pytest.raises(InvalidArgumentError, match="Tensor nothing:0"):
        half_plus_two.run_of_tensors((), ("nothing:0",))


class _ToldRunner:
    """Notes deadline and executor of each run, and answers with its first input."""

    def __init__(self) -> None:
        self.runs: list[tuple[float | None, Executor]] = []

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        self.runs.append((timeout_s, executor))
        return list(arrays[:1])


ONE = [np.ones(1, np.float32)]


def known_to_be_fast(*, is_predictable: bool) -> tuple[SignatureRun, _ToldRunner]:
    runner = _ToldRunner()
    cost = RunCost()
    cost.settle(4, 1e-5)
    return SignatureRun(runner, ("y",), cost, is_predictable=is_predictable), runner


def test_a_fast_run_executes_on_the_calling_thread_where_its_deadline_is_far() -> None:
    run, runner = known_to_be_fast(is_predictable=True)
    assert run.is_short(ONE)
    for timeout_s in (None, 1.0, 5e-5):
        run.run(ONE, timeout_s)
    assert runner.runs == [
        (None, Executor.CALLING_THREAD),
        (1.0, Executor.CALLING_THREAD),
        (5e-5, Executor.POOL),
    ]


def test_a_run_that_may_loop_is_never_short_and_keeps_its_deadline() -> None:
    run, runner = known_to_be_fast(is_predictable=False)
    assert not run.is_short(ONE)
    for timeout_s in (None, 1.0):
        run.run(ONE, timeout_s)
    assert runner.runs == [(None, Executor.CALLING_THREAD), (1.0, Executor.POOL)]


def test_the_runs_of_a_model_with_a_loop_are_not_predictable() -> None:
    servable = SavedModelServable(load_saved_model(str(MODELS / "slow" / "1")))
    try:
        signature = servable.signatures["times"]
        run = servable.signature_run(signature, ())
        inputs = [np.ones((), spec.dtype) for spec in signature.inputs.values()]
        run.settle_cost(inputs, 1e-5)
        assert not run.is_short(inputs)
    finally:
        servable.close()


def test_a_run_that_is_long_by_its_figures_is_tried_on_the_calling_thread_now_and_then() -> None:
    runner = _ToldRunner()
    cost = RunCost()
    run = SignatureRun(runner, ("y",), cost)
    run.run(ONE)  # the first tells nothing
    cost.settle(4, 1.0)
    for _ in range(127):
        run.run(ONE, None)
        cost.settle(4, 1.0)
    tried = [executor for _, executor in runner.runs].count(Executor.CALLING_THREAD)
    assert tried == 2
    assert not run.is_short(ONE)


def test_a_run_whose_deadline_could_pass_is_not_tried_on_the_calling_thread() -> None:
    runner = _ToldRunner()
    cost = RunCost()
    run = SignatureRun(runner, ("y",), cost)
    for _ in range(256):
        cost.settle(4, 1.0)
        run.run(ONE, 5.0)
    assert {executor for _, executor in runner.runs} == {Executor.POOL}
