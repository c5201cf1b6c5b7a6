from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
import pytest

import inserve
from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_together import PredictTogether, RanTogether
from inserve.handlers.request_tap import RequestTap
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.load_saved_model import load_saved_model

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


class OneServable:
    """A finder that has version 2 of model ``half_plus_two``."""

    def __init__(self, servable: SavedModelServable) -> None:
        self._servable = servable

    def find(self, spec: ModelSpec | None) -> ServableHandle[SavedModelServable]:
        if spec is None or spec.name != "half_plus_two":
            raise NotFoundError("no such model")
        return ServableHandle(Lease(ServableId("half_plus_two", 2), self._servable, SimpleQueue()))


class Scene:
    """The handler under test over a batched model, and the rows of each run."""

    def __init__(self, servable: SavedModelServable) -> None:
        finder: Any = OneServable(servable)
        self.tap = RequestTap()
        self.servable = servable
        self.alone = PredictHandler(finder, tap=self.tap)
        self.together = PredictTogether(finder, False, self.tap)
        self.rows: list[int] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = SignatureRun.run

        def run(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> Any:
            self.rows.append(len(arrays[0]))
            return real(run, arrays, timeout_s)

        monkeypatch.setattr(SignatureRun, "run", run)
        # How busy this machine is decides nothing here.
        monkeypatch.setattr(SignatureRun, "is_short", lambda *_: True)
        monkeypatch.setattr(SignatureRun, "is_long", lambda *_: False)

    def ask(self, *requests: bytes) -> list[list[float] | None]:
        """Return the values of those that were answered together, None for the others."""
        answered = self.together.answer(requests, [None] * len(requests))
        return [None if known is None else self.values(known.answer) for known in answered]

    @staticmethod
    def values(response: bytes) -> list[float]:
        outputs = messages.PredictResponse.FromString(response).outputs
        return list(outputs["y" if "y" in outputs else "sum"].float_val)


@pytest.fixture(scope="module")
def servable() -> Iterator[SavedModelServable]:
    options = inserve.BatchingOptions(max_batch_size=8)
    load = batch_models(load_saved_model, BatchScheduler(options), options)
    servable = SavedModelServable(load(str(MODELS / "half_plus_two" / "2")))
    servable.signature_run(servable.signatures["serving_default"], ())
    yield servable
    servable.close()


@pytest.fixture
def scene(servable: SavedModelServable, monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene(servable)
    scene.watch(monkeypatch)
    return scene


def request(*values: float, model: str = "half_plus_two", signature: str = "", dtype: int = 1) -> bytes:
    message = messages.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    tensor = message.inputs["x"]
    tensor.dtype = dtype
    tensor.tensor_shape.dim.add(size=len(values))
    if dtype == 1:
        tensor.float_val.extend(values)
    else:
        tensor.int_val.extend(map(int, values))
    return message.SerializeToString()


def test_requests_for_the_same_are_one_run_and_each_gets_its_rows(scene: Scene) -> None:
    assert scene.ask(request(2.0), request(4.0, 6.0), request(8.0)) == [[4.0], [5.0, 6.0], [7.0]]
    assert scene.rows == [4]


def test_an_answer_is_the_one_that_the_request_gets_alone(scene: Scene) -> None:
    asked = [request(2.0), request(4.0), request(6.0)]
    together = [known and known.answer for known in scene.together.answer(asked, [None] * 3)]
    alone = [scene.alone.predict_message(one, None, True) for one in asked]
    assert together == alone


def test_no_run_has_more_rows_than_the_largest_batch(scene: Scene) -> None:
    assert scene.ask(*(request(2.0, 2.0) for _ in range(9))) == [*[[4.0] * 2] * 8, None]
    assert scene.rows == [8, 8]


def test_two_requests_are_left_to_be_answered_alone(scene: Scene) -> None:
    assert scene.ask(request(2.0), request(4.0)) == [None, None]
    assert scene.rows == []


def test_a_bad_request_is_left_to_fail_alone(scene: Scene) -> None:
    answers = scene.ask(
        request(2.0),
        request(4.0, dtype=3),
        b"\xff",
        request(6.0),
        request(1.0, model="nothing"),
        request(8.0),
    )
    assert answers == [[4.0], None, None, [6.0], None, [7.0]]
    assert scene.rows == [3]


def test_other_signatures_models_and_outputs_are_other_runs(scene: Scene) -> None:
    other = messages.PredictRequest.FromString(request(3.0))
    other.output_filter.append("y")
    same = [request(2.0), request(3.0), request(4.0)]
    answers = scene.ask(*same, other.SerializeToString(), request(4.0, signature="nothing"))
    assert answers[3:] == [None, None]
    assert scene.rows == [3]


def test_what_is_known_of_each_request_is_told(scene: Scene) -> None:
    answered = scene.together.answer([request(2.0), request(4.0), request(6.0)], [None] * 3)
    assert scene.rows == [3]
    for known in answered:
        assert known is not None
        record = known.record
        assert (record.model_name, record.version, record.signature_name) == (
            "half_plus_two", 2, "serving_default",
        )  # fmt: skip
        assert record.run_s is not None


def test_a_merged_run_has_the_nearest_of_the_deadlines(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []

    def run(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> Any:
        seen.append(timeout_s)
        return arrays

    monkeypatch.setattr(SignatureRun, "run", run)
    scene.together.answer([request(2.0), request(4.0), request(6.0)], [9.0, None, 3.0])
    assert seen == [3.0]


def test_a_model_whose_rows_may_not_be_merged_is_left_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SavedModelServable, "row_limit", 0)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3
    assert scene.rows == []


def test_requests_of_a_merged_run_that_fails_are_left_to_be_run_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> list[Any]:
        raise InvalidArgumentError("one of them is bad")

    monkeypatch.setattr(SignatureRun, "run", fail)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3


def test_outputs_without_the_rows_of_the_inputs_are_noticed_once(
    scene: Scene, servable: SavedModelServable, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []

    def mean(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> list[Any]:
        runs.append(len(arrays[0]))
        return [np.mean(arrays[0], keepdims=True, dtype=np.float32)]

    monkeypatch.setattr(SignatureRun, "run", mean)
    try:
        for _ in range(2):
            assert scene.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3
        assert runs == [3]
    finally:
        run = servable.prepared_run("serving_default", ())
        assert run is not None
        run.may_merge = True


def test_long_runs_are_left_to_a_thread_that_may_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SignatureRun, "is_short", lambda *_: False)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3
    assert scene.rows == []


def test_a_merged_run_that_is_known_to_be_long_is_made_now_and_then_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SignatureRun, "is_long", lambda _, arrays: len(arrays[0]) > 1)
    for _ in range(31):
        assert scene.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [[4.0], [5.0], [6.0]]


# --- without batching -----------------------------------------------------------------------------


@pytest.fixture
def row_wise() -> Iterator[Scene]:
    """A scene over a model that is not batched and whose graph proves that rows do not meet."""
    servable = SavedModelServable(load_saved_model(str(MODELS / "half_plus_two" / "2")), merge_row_wise=True)
    run = servable.signature_run(servable.signatures["serving_default"], ())
    for rows in (1, 2, 3, 100):
        run.settle_cost([np.ones(rows, np.float32)], 1e-5)
    yield Scene(servable)
    servable.close()


def runner_rows(scene: Scene, servable: SavedModelServable, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what grows by rows and executor of each run from now on."""
    run = servable.prepared_run("serving_default", ())
    assert run is not None
    runs: list[Any] = []
    real = run._runner.run

    def noted(arrays: Any, timeout_s: float | None = None, executor: Executor = Executor.POOL) -> Any:
        runs.append((len(arrays[0]), executor))
        return real(arrays, timeout_s, executor)

    monkeypatch.setattr(run, "_run", noted)
    return runs


def test_requests_of_a_model_without_batching_are_one_run_where_its_graph_proves_that_rows_do_not_meet(
    row_wise: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runner_rows(row_wise, row_wise.servable, monkeypatch)
    asked = [request(2.0), request(4.0, 6.0), request(8.0)]
    assert row_wise.ask(*asked) == [[4.0], [5.0, 6.0], [7.0]]
    assert runs == [(4, Executor.CALLING_THREAD)]


def test_such_a_model_is_left_alone_where_nobody_allowed_it(row_wise: Scene) -> None:
    servable = SavedModelServable(load_saved_model(str(MODELS / "half_plus_two" / "2")))
    run = servable.signature_run(servable.signatures["serving_default"], ())
    assert not run.is_row_wise
    servable.close()


def test_a_graph_that_proves_nothing_is_left_alone() -> None:
    servable = SavedModelServable(load_saved_model(str(MODELS / "cnn" / "1")), merge_row_wise=True)
    assert not any(
        servable.signature_run(signature, ()).is_row_wise for signature in servable.signatures.values()
    )
    servable.close()


@pytest.fixture
def summing() -> Iterator[SavedModelServable]:
    """A model that keeps rows apart, but proves nothing of their bits."""
    servable = SavedModelServable(load_saved_model(str(MODELS / "cnn" / "1")), merge_row_wise=True)
    yield servable
    servable.close()


def test_what_a_trial_has_found_is_merged_up_to_so_many_rows_for_all_outputs(
    summing: SavedModelServable,
) -> None:
    signature = summing.signatures["serving_default"]
    before = summing.signature_run(signature, ())
    assert signature.key in summing.mergeable
    summing.merge_rows(signature.key, 5)
    filtered = summing.signature_run(signature, [next(iter(signature.outputs))])
    assert (before.is_row_wise, before.most_merged_rows) == (True, 5)
    assert not filtered.is_row_wise


def test_it_is_known_how_many_rows_may_be_one_run(
    row_wise: Scene, scene: Scene, summing: SavedModelServable
) -> None:
    spec = ModelSpec("half_plus_two")
    assert row_wise.together.most_rows(spec) == 1024
    assert scene.together.most_rows(spec) == 8
    assert row_wise.together.most_rows(ModelSpec("other")) == 0
    assert row_wise.together.most_rows(ModelSpec("half_plus_two", signature_name="s")) == 0
    own = Scene(summing)
    summing.signature_run(summing.signatures["serving_default"], ())
    assert own.together.most_rows(spec) == 0
    summing.merge_rows("serving_default", 5)
    assert own.together.most_rows(spec) == 5


def test_rows_that_are_known_to_take_little_together_are_one_run_though_alone_they_take_much(
    row_wise: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = row_wise.servable.prepared_run("serving_default", ())
    assert run is not None
    run.settle_cost([np.ones(1, np.float32)], 0.6e-3)
    run.settle_cost([np.ones(3, np.float32)], 0.7e-3)
    runs = runner_rows(row_wise, row_wise.servable, monkeypatch)
    assert row_wise.ask(request(2.0), request(4.0), request(6.0)) == [[4.0], [5.0], [6.0]]
    assert runs == [(3, Executor.CALLING_THREAD)]


def test_runs_that_do_not_belong_on_the_calling_thread_are_left_alone(row_wise: Scene) -> None:
    run = row_wise.servable.prepared_run("serving_default", ())
    assert run is not None
    run.settle_cost([np.ones(1, np.float32)], 1.0)
    assert row_wise.ask(request(2.0), request(4.0), request(6.0)) == [None] * 3


def test_more_elements_than_one_thread_works_on_are_left_alone(row_wise: Scene) -> None:
    run = row_wise.servable.prepared_run("serving_default", ())
    assert run is not None
    large = [1.0] * 12_000
    run.settle_cost([np.ones(len(large), np.float32)], 1e-5)
    assert row_wise.ask(request(*large), request(2.0), request(4.0)) == [None] * 3
    assert row_wise.ask(request(2.0), request(4.0), request(6.0)) != [None] * 3


def test_a_deadline_that_is_near_is_left_to_a_run_that_can_be_ended(row_wise: Scene) -> None:
    asked = [request(2.0), request(4.0), request(6.0)]
    assert list(row_wise.together.answer(asked, [None, 1e-6, 1.0])) == [None] * 3
    assert None not in row_wise.together.answer(asked, [None, 1.0, 1.0])


# --- requests that are bound already --------------------------------------------------------------


def run_bound(scene: Scene, rows: list[list[float]], timeout_s: float | None = None) -> RanTogether | None:
    array = np.array([value for own in rows for value in own], np.float32)
    spec = ModelSpec("half_plus_two")
    return scene.together.run_bound(spec, lambda _: ({"x": array}, [len(own) for own in rows]), timeout_s)


def test_rows_of_several_requests_are_run_as_one_and_given_back_to_each(
    row_wise: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runner_rows(row_wise, row_wise.servable, monkeypatch)
    ran = run_bound(row_wise, [[2.0], [4.0, 6.0]])
    assert ran is not None
    assert [[output.tolist() for output in outputs] for outputs in ran.outputs] == [[[4.0]], [[5.0, 6.0]]]
    assert (ran.version, ran.signature_name, len(ran.aliases)) == (2, "serving_default", 1)
    assert ran.run_s > 0
    assert runs == [(3, Executor.CALLING_THREAD)]


def test_a_batched_model_runs_bound_requests_up_to_its_largest_batch(scene: Scene) -> None:
    assert run_bound(scene, [[2.0] * 4, [4.0] * 4]) is not None
    assert run_bound(scene, [[2.0] * 4, [4.0] * 5]) is None
    assert scene.rows == [8]


@pytest.mark.parametrize(
    "bound",
    [
        None,
        ({"x": np.ones(2, np.float64)}, [1, 1]),
        ({"y": np.ones(2, np.float32)}, [1, 1]),
        ({"x": np.ones((2, 2, 2), np.float32)}, [1, 1]),
    ],
)
def test_what_does_not_fit_is_left_to_be_answered_alone(row_wise: Scene, bound: Any) -> None:
    assert row_wise.together.run_bound(ModelSpec("half_plus_two"), lambda _: bound, None) is None


def test_bound_requests_for_what_there_is_not_are_left_alone(row_wise: Scene) -> None:
    def never(_: Any) -> Any:
        raise AssertionError

    assert row_wise.together.run_bound(ModelSpec("other"), never, None) is None
    assert row_wise.together.run_bound(ModelSpec("half_plus_two", signature_name="s"), never, None) is None


def test_a_listener_hears_of_bound_requests_one_by_one(row_wise: Scene) -> None:
    row_wise.tap.add(cast(Any, None))
    assert run_bound(row_wise, [[2.0], [4.0]]) is None


def test_bound_requests_with_a_near_deadline_are_left_alone(row_wise: Scene) -> None:
    assert run_bound(row_wise, [[2.0], [4.0]], 1e-6) is None
