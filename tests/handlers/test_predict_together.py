from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import inserve
from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_codec import MalformedRequestError
from inserve.handlers.predict_together import PredictTogether
from inserve.handlers.request_tap import RequestTap
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
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
        tap = RequestTap()
        self.alone = PredictHandler(finder, tap=tap)
        self.together = PredictTogether(self.alone, finder, False, tap)
        self.rows: list[int] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = SignatureRun.run

        def run(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> Any:
            self.rows.append(len(arrays[0]))
            return real(run, arrays, timeout_s)

        monkeypatch.setattr(SignatureRun, "run", run)
        monkeypatch.setattr(SignatureRun, "is_short", lambda *_: True)

    def ask(self, *requests: bytes) -> list[Any]:
        answered = self.together.answer(requests, [None] * len(requests))
        return [self.values(answer) if isinstance(answer, bytes) else type(answer) for answer, _ in answered]

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
    together = [answer for answer, _ in scene.together.answer(asked, [None] * 3)]
    alone = [scene.alone.predict_message(one, None, True) for one in asked]
    assert together == alone


def test_no_run_has_more_rows_than_the_largest_batch(scene: Scene) -> None:
    assert scene.ask(*(request(2.0, 2.0) for _ in range(9))) == [[4.0] * 2] * 9
    assert scene.rows == [8, 8, 2]


def test_two_requests_are_run_one_after_the_other(scene: Scene) -> None:
    assert scene.ask(request(2.0), request(4.0)) == [[4.0], [5.0]]
    assert scene.rows == [1, 1]


def test_a_bad_request_fails_alone(scene: Scene) -> None:
    answers = scene.ask(
        request(2.0),
        request(4.0, dtype=3),
        b"\xff",
        request(6.0),
        request(1.0, model="nothing"),
        request(8.0),
    )
    assert answers == [[4.0], InvalidArgumentError, MalformedRequestError, [6.0], NotFoundError, [7.0]]
    assert scene.rows == [3]


def test_other_signatures_models_and_outputs_are_other_runs(scene: Scene) -> None:
    other = messages.PredictRequest.FromString(request(3.0))
    other.output_filter.append("y")
    same = [request(2.0), request(3.0), request(4.0)]
    scene.ask(*same, other.SerializeToString(), request(4.0, signature="nothing"))
    assert scene.rows == [3, 1]


def test_what_is_known_of_each_request_is_told(scene: Scene) -> None:
    answered = scene.together.answer([request(2.0), request(4.0), request(6.0)], [None] * 3)
    assert scene.rows == [3]
    for _, record in answered:
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


def test_a_model_that_is_not_batched_is_run_request_by_request(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SavedModelServable, "row_limit", 0)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [[4.0], [5.0], [6.0]]
    assert scene.rows == [1, 1, 1]


def test_requests_of_a_merged_run_that_fails_are_run_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_together(run: SignatureRun, arrays: Any, timeout_s: float | None = None) -> list[Any]:
        if len(arrays[0]) > 1:
            raise InvalidArgumentError("one of them is bad")
        return [np.asarray(arrays[0])]

    monkeypatch.setattr(SignatureRun, "run", fail_together)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [[2.0], [4.0], [6.0]]


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
            assert scene.ask(request(2.0), request(4.0), request(6.0)) == [[2.0], [4.0], [6.0]]
        assert runs == [3, 1, 1, 1, 1, 1, 1]
    finally:
        run = servable.prepared_run("serving_default", ())
        assert run is not None
        run.may_merge = True


def test_long_runs_are_left_to_a_thread_that_may_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SignatureRun, "is_short", lambda *_: False)
    assert scene.ask(request(2.0), request(4.0), request(6.0)) == [WouldBlock] * 3
    assert scene.rows == []


def test_a_merged_run_that_is_known_to_be_long_is_made_now_and_then_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SignatureRun, "is_long", lambda _, arrays: len(arrays[0]) > 1)
    for _ in range(32):
        assert scene.ask(request(2.0), request(4.0), request(6.0)) == [[4.0], [5.0], [6.0]]
    assert scene.rows == [1] * 93 + [3]
