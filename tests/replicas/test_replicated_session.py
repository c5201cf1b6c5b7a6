from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.batching.bench import LIMIT_S, FakeSession, rows

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.batching.options import BatchingOptions
from inserve.errors import FailedPreconditionError, InternalError, NotFoundError
from inserve.protos import messages
from inserve.replicas.replicated_session import ReplicatedModel, replicate
from inserve.tensorflow_c.device_placement import place_on
from inserve.tensorflow_c.interface import Executor, LoadedModel, LoadSavedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType
from inserve.testing import Gate

FLOAT = DataType.DT_FLOAT
FEEDS = [("x", FLOAT)]
PATH = "/models/m/1"
MODELS = Path(__file__).parent.parent / "golden" / "models"
TWO_CPUS = messages.ConfigProto(device_count={"CPU": 2}).SerializeToString()


class FakeModel:
    """A model of which each replica answers with its own *number*."""

    def __init__(self, number: int, meta_graph_def: bytes = b"") -> None:
        self.session = FakeSession(lambda inputs: {"y": inputs["x"] * 0 + number})
        self.meta_graph_def = meta_graph_def
        self.closings = 0
        self.error: Exception | None = None

    def close(self) -> None:
        self.closings += 1
        self.session.close()
        if self.error is not None:
            raise self.error


def load_of(model: FakeModel) -> LoadSavedModel:
    def load(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        return model

    return load


def replicated(*models: FakeModel, force: bool = False) -> ReplicatedModel:
    model = replicate([(f"GPU:{index}", load_of(one)) for index, one in enumerate(models)], force)(PATH)
    assert isinstance(model, ReplicatedModel)
    return model


def answer(runner: Any) -> float:
    return float(runner.run([rows(1)])[0][0, 0])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def stateful_meta_graph() -> bytes:
    meta_graph = messages.MetaGraphDef()
    meta_graph.graph_def.node.add(name="y", op="AssignVariableOp")
    meta_graph.signature_def["s"].outputs["y"].name = "y:0"
    return meta_graph.SerializeToString()


# --- dispatch -------------------------------------------------------------------------------------


def test_runs_one_after_the_other_go_round() -> None:
    runner = replicated(FakeModel(0), FakeModel(1)).session.runner(FEEDS, ["y"])
    assert [answer(runner) for _ in range(4)] == [0, 1, 0, 1]


def test_a_busy_replica_is_passed_over(threads: ThreadPoolExecutor) -> None:
    models = [FakeModel(0), FakeModel(1)]
    session = replicated(*models).session
    runner = session.runner(FEEDS, ["y"])
    gate = Gate()
    models[0].session.gates.append(gate)
    slow = threads.submit(answer, runner)
    gate.block_until_entered()
    try:
        assert session.runs_in_progress() == [("GPU:0", 1), ("GPU:1", 0)]
        assert [answer(runner) for _ in range(3)] == [1, 1, 1]
    finally:
        gate.open()
    assert slow.result(LIMIT_S) == 0
    assert session.runs_in_progress() == [("GPU:0", 0), ("GPU:1", 0)]


def test_runs_of_all_signatures_count_together(threads: ThreadPoolExecutor) -> None:
    models = [FakeModel(0), FakeModel(1)]
    session = replicated(*models).session
    one, other = session.runner(FEEDS, ["y"]), session.runner(FEEDS, ["y"])
    gate = Gate()
    models[0].session.gates.append(gate)
    slow = threads.submit(answer, one)
    gate.block_until_entered()
    try:
        assert [answer(other), answer(other)] == [1, 1]
    finally:
        gate.open()
    assert slow.result(LIMIT_S) == 0


def test_a_run_that_fails_is_not_counted_any_more() -> None:
    models = [FakeModel(0), FakeModel(1)]
    session = replicated(*models).session

    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise InternalError("no")

    models[0].session.function = fail
    with pytest.raises(InternalError, match=r"^no$"):
        answer(session.runner(FEEDS, ["y"]))
    assert session.runs_in_progress() == [("GPU:0", 0), ("GPU:1", 0)]


def test_timeout_and_executor_reach_the_replica() -> None:
    models = [FakeModel(0), FakeModel(1)]
    runner = replicated(*models).session.runner(FEEDS, ["y"])
    runner.run([rows(1)], 2.5, Executor.CALLING_THREAD)
    assert models[0].session.calls[0][:2] == (2.5, Executor.CALLING_THREAD)


def test_batches_run_on_all_replicas_at_once(threads: ThreadPoolExecutor) -> None:
    models = [FakeModel(0), FakeModel(1)]
    gates = [Gate(), Gate()]
    for fake, gate in zip(models, gates, strict=True):
        fake.session.gates.append(gate)
    load = replicate([(f"GPU:{index}", load_of(one)) for index, one in enumerate(models)])
    options = BatchingOptions(num_batch_threads=2)
    scheduler = BatchScheduler(options)
    model = batch_models(load, scheduler, options)(PATH)
    try:
        runner = model.session.runner(FEEDS, ["y"])
        runs = [threads.submit(answer, runner) for _ in range(2)]
        for gate in gates:
            gate.block_until_entered()  # both are inside at the same time
        for gate in gates:
            gate.open()
        assert sorted(run.result(LIMIT_S) for run in runs) == [0, 1]
    finally:
        for gate in gates:
            gate.open()
        model.close()
        scheduler.stop(LIMIT_S)


# --- warm-up and tuning ---------------------------------------------------------------------------


def test_a_warm_up_runs_on_the_first_replica_and_then_once_on_the_others() -> None:
    models = [FakeModel(0), FakeModel(1), FakeModel(2)]
    model = replicated(*models)
    with model.unbatched():
        runner = model.session.runner(FEEDS, ["y"])
        assert [answer(runner) for _ in range(3)] == [0, 0, 0]
        assert models[1].session.batches == []
        runner.run([rows(1, 2)])
    assert models[0].session.batches == [1, 1, 1, 2]
    assert models[1].session.batches == models[2].session.batches == [1, 2]
    assert sorted(answer(runner) for _ in range(3)) == [0, 1, 2]


def test_a_warm_up_repeats_the_values_that_the_first_replica_saw() -> None:
    models = [FakeModel(0), FakeModel(1)]
    model = replicated(*models)
    seen: list[list[float]] = []

    def note(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen.append(inputs["x"][:, 0].tolist())
        return {"y": inputs["x"]}

    models[1].session.function = note
    with model.unbatched():
        array = rows(5)
        model.session.runner(FEEDS, ["y"]).run([array])
        array[:] = 6
    assert seen == [[5]]


def test_a_warm_up_that_fails_on_another_replica_names_its_device() -> None:
    models = [FakeModel(0), FakeModel(1)]
    model = replicated(*models)

    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise InternalError("no kernel")

    models[1].session.function = fail

    def warm_up() -> None:
        with model.unbatched():
            answer(model.session.runner(FEEDS, ["y"]))

    with pytest.raises(InternalError, match=r"^replica on GPU:1: no kernel$"):
        warm_up()


def test_what_failed_on_the_first_replica_is_not_tried_on_the_others() -> None:
    models = [FakeModel(0), FakeModel(1)]
    model = replicated(*models)

    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise InternalError("bad record")

    models[0].session.function = fail
    with model.unbatched(), pytest.raises(InternalError, match="bad record"):
        answer(model.session.runner(FEEDS, ["y"]))
    assert models[1].session.batches == []


def test_one_replica_is_measured_for_all() -> None:
    models = [FakeModel(0), FakeModel(1)]
    assert replicated(*models).tunable_session is models[0].session


def test_a_batcher_can_see_how_many_runs_keep_all_replicas_busy() -> None:
    assert replicated(FakeModel(0), FakeModel(1), FakeModel(2)).num_replicas == 3


# --- loading and closing --------------------------------------------------------------------------


def test_one_replica_alone_is_what_it_is_by_itself() -> None:
    model = FakeModel(0, stateful_meta_graph())
    assert replicate([("GPU:1", load_of(model))])(PATH) is model


def test_no_replica_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="expected at least one replica, got none"):
        replicate([])


def test_a_replica_that_does_not_load_fails_the_load_and_names_its_device() -> None:
    first = FakeModel(0)

    def fail(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        raise NotFoundError(f"{path} is gone")

    with pytest.raises(NotFoundError, match=f"^replica on GPU:1: {PATH} is gone$"):
        replicate([("GPU:0", load_of(first)), ("GPU:1", fail)])(PATH)
    assert first.closings == 1


def test_a_model_that_changes_state_is_refused_unless_forced() -> None:
    models = [FakeModel(index, stateful_meta_graph()) for index in range(2)]
    with pytest.raises(FailedPreconditionError, match="cannot be replicated"):
        replicated(*models)
    assert [model.closings for model in models] == [1, 0]
    assert answer(replicated(*models, force=True).session.runner(FEEDS, ["y"])) == 0


def test_closing_closes_every_replica_even_if_one_fails() -> None:
    models = [FakeModel(0), FakeModel(1)]
    model = replicated(*models)
    models[0].error = InternalError("cannot close")
    with pytest.raises(InternalError, match="cannot close"):
        model.close()
    assert [one.session.is_closed for one in models] == [True, True]
    assert models[1].closings == 1


def test_after_closing_runs_are_refused_by_the_name_of_the_model() -> None:
    model = replicated(FakeModel(0), FakeModel(1))
    runner = model.session.runner(FEEDS, ["y"])
    model.close()
    use: tuple[Callable[[], object], ...] = (
        lambda: answer(runner),
        lambda: model.session.runner(FEEDS, ["y"]),
    )
    for call in use:
        with pytest.raises(FailedPreconditionError, match=f"^the session of {PATH} is closed$"):
            call()


def test_the_state_of_the_replicas_is_shown() -> None:
    model = replicated(FakeModel(0), FakeModel(1))
    assert repr(model.session) == f"<ReplicatedSession '{PATH}' [GPU:0: 0 runs, GPU:1: 0 runs]>"
    model.close()
    assert repr(model.session) == f"<ReplicatedSession '{PATH}' [closed]>"


# --- with TensorFlow ------------------------------------------------------------------------------


def on_two_cpus() -> LoadSavedModel:
    return replicate([(name, place_on(load_saved_model, name)) for name in ("CPU:0", "CPU:1")])


def test_replicas_on_two_devices_answer_alike(threads: ThreadPoolExecutor) -> None:
    model = on_two_cpus()(str(MODELS / "half_plus_two" / "1"), ("serve",), TWO_CPUS)
    try:
        runner = model.session.runner([("serving_default_x:0", FLOAT)], ["StatefulPartitionedCall:0"])

        def ask(value: int) -> float:
            executor = Executor(-(value % 2))
            return float(runner.run([np.array([value], np.float32)], None, executor)[0][0])

        assert list(threads.map(ask, range(200))) == [value / 2 + 2 for value in range(200)]
    finally:
        model.close()


def test_a_model_with_a_counter_is_refused_and_freed() -> None:
    with pytest.raises(
        FailedPreconditionError, match=r"signature incr changes state \(AssignAddVariableOp\)"
    ):
        on_two_cpus()(str(MODELS / "counter" / "1"), ("serve",), TWO_CPUS)


def test_a_device_that_is_missing_fails_the_load() -> None:
    with pytest.raises(Exception, match=r"^replica on CPU:1: there is no device CPU:1: TensorFlow sees "):
        on_two_cpus()(str(MODELS / "half_plus_two" / "1"))
