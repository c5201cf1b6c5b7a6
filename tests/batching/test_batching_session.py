from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.batching.bench import Bench, FakeModel, FakeSession, double, rows, value_of

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import BatchedModel, batch_models, read_model_parameters
from inserve.batching.options import BatchingOptions
from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.protos import messages
from inserve.tensorflow_c.interface import LoadedModel
from inserve.tensors.dtypes import DataType

MakeBench = Callable[..., Bench]
FLOAT = DataType.DT_FLOAT
PATH = "/models/m/1"


def combine(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"difference": inputs["a"] - inputs["b"], "sum": inputs["a"] + inputs["b"]}


def load(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
    return FakeModel(FakeSession(double))


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.submissions: list[tuple[int, int]] = []
        self.waits: list[float] = []
        self.runs: list[tuple[int, int]] = []
        self.direct: list[tuple[int, int, int]] = []

    def submitted(self, rows: int, num_inputs: int) -> None:
        self.submissions.append((rows, num_inputs))

    def queued(self, seconds: float) -> None:
        self.waits.append(seconds)

    def ran(self, rows: int, padding_rows: int) -> None:
        self.runs.append((rows, padding_rows))

    def ran_directly(self, rows: int, num_inputs: int, count: int) -> None:
        self.direct.append((rows, num_inputs, count))


def test_runners_of_the_same_tensors_share_batches_in_whatever_order(make_bench: MakeBench) -> None:
    bench = make_bench(function=combine, feeds=("a", "b"), fetches=("sum", "difference"))
    other = bench.model.session.runner([("b", FLOAT), ("a", FLOAT)], ["difference", "sum"])
    assert [array.tolist() for array in other.run([rows(1), rows(5)])] == [[[4.0]], [[6.0]]]
    with bench.busy():
        first = bench.queue(rows(1), rows(2))
        bench.runner = other
        second = bench.queue(rows(1), rows(2))
    assert [array.tolist() for array in first.result()] == [[[3.0]], [[-1.0]]]
    assert [array.tolist() for array in second.result()] == [[[1.0]], [[3.0]]]
    assert bench.session.batches[-1] == 2
    assert len(bench.model.statistics().queues) == 1


def test_an_output_that_is_named_twice_is_two_arrays(make_bench: MakeBench) -> None:
    bench = make_bench()
    runner = bench.model.session.runner([("x", FLOAT)], ["y", "y"])
    with bench.busy():
        bench.runner = runner
        future = bench.queue(rows(1))
    first, second = future.result()
    first[0, 0] = 7
    assert second.tolist() == [[2.0]]


def test_other_outputs_are_another_queue(make_bench: MakeBench) -> None:
    bench = make_bench(function=combine, feeds=("a", "b"), fetches=("sum", "difference"))
    bench.model.session.runner([("a", FLOAT), ("b", FLOAT)], ["sum"])
    assert [queue.outputs for queue in bench.model.statistics().queues] == [("difference", "sum"), ("sum",)]


def test_the_number_of_queues_has_a_bound(make_bench: MakeBench) -> None:
    bench = make_bench()
    for number in range(300):
        bench.model.session.runner([("x", FLOAT)], [f"y{number}"])
    assert len(bench.model.statistics().queues) == 256
    assert bench.model.session.runner([("x", FLOAT)], ["y"]).run([rows(1)])[0].tolist() == [[2.0]]


def test_the_model_behind_is_seen_through(make_bench: MakeBench) -> None:
    bench = make_bench()
    assert bench.model.meta_graph_def == b"graph"
    bench.model.close()
    bench.model.close()
    assert bench.session.is_closed


def test_a_loaded_version_is_found_by_its_folder_until_it_is_closed(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.runner.run([rows(1)])
    assert bench.scheduler.paths() == [PATH]
    assert bench.scheduler.statistics(PATH).queues[0].requests == 1
    bench.model.close()
    assert bench.scheduler.paths() == []
    with pytest.raises(NotFoundError, match=PATH):
        bench.scheduler.statistics(PATH)
    with pytest.raises(NotFoundError, match=PATH):
        bench.scheduler.set_options(PATH, BatchingOptions())


def test_contradicting_options_fail_the_load() -> None:
    scheduler = BatchScheduler(BatchingOptions())
    with pytest.raises(InvalidArgumentError, match="input_batch_size_limit must be positive; was 0"):
        batch_models(load, scheduler, BatchingOptions(max_batch_size=0))(PATH)


def test_a_session_of_one_thread_gets_a_slot_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    wrapped = batch_models(load, BatchScheduler(BatchingOptions()), BatchingOptions())
    one_thread = messages.ConfigProto(intra_op_parallelism_threads=1).SerializeToString()
    slots = []
    for config in (one_thread, b"", b"\xff"):
        model = wrapped(PATH, ("serve",), config)
        assert isinstance(model, BatchedModel)
        slots.append(model.statistics().num_slots)
    assert slots == [8, 4, 4]


def test_tuning_finds_the_session_without_batching(make_bench: MakeBench) -> None:
    bench = make_bench()
    assert bench.model.tunable_session is bench.session


def test_no_thread_fails_the_start() -> None:
    with pytest.raises(InvalidArgumentError, match="num_batch_threads must be positive; was 0"):
        BatchScheduler(BatchingOptions(num_batch_threads=0))


def test_changed_options_are_checked(make_bench: MakeBench) -> None:
    bench = make_bench()
    with pytest.raises(InvalidArgumentError, match="batch_timeout_micros must be non-negative; was -1"):
        bench.scheduler.set_options(PATH, BatchingOptions(batch_timeout_micros=-1))
    with pytest.raises(ValueError, match="strict"):
        bench.scheduler.set_options(PATH, BatchingOptions(strict=True))


def test_options_may_depend_on_the_version() -> None:
    def choose(path: str) -> BatchingOptions | None:
        return BatchingOptions(max_batch_size=2) if path == PATH else None

    wrapped = batch_models(load, BatchScheduler(BatchingOptions()), choose)
    assert isinstance(wrapped("/models/other/1"), FakeModel)
    batched = wrapped(PATH)
    with pytest.raises(InvalidArgumentError, match="Task size 3"):
        batched.session.runner([("x", FLOAT)], ["y"]).run([rows(1, 2, 3)])


def test_a_version_without_parameters_of_its_own_is_not_batched(tmp_path: Path) -> None:
    wrapped = batch_models(load, BatchScheduler(BatchingOptions()), BatchingOptions(), True)
    assert isinstance(wrapped(str(tmp_path)), FakeModel)


def test_parameters_of_a_version_replace_all_but_the_threads(tmp_path: Path) -> None:
    (tmp_path / "batching_params.pbtxt").write_text("max_enqueued_batches { value: 7 }")
    read = read_model_parameters(str(tmp_path), strict=False)
    assert read == BatchingOptions(max_enqueued_batches=7)
    wrapped = batch_models(
        load, BatchScheduler(BatchingOptions()), BatchingOptions(max_batch_size=2), per_model_parameters=True
    )
    batched = wrapped(str(tmp_path))
    assert isinstance(batched, BatchedModel)
    assert len(batched.session.runner([("x", FLOAT)], ["y"]).run([rows(1, 2, 3)])[0]) == 3


@pytest.mark.parametrize("text", ["max_batch_size: 3", "nonsense", "", "\x00", "max_batch_size { value: "])
def test_parameters_that_do_not_parse_fail_the_load(tmp_path: Path, text: str) -> None:
    file = tmp_path / "batching_params.pbtxt"
    file.write_text(text)
    wrapped = batch_models(load, BatchScheduler(BatchingOptions()), BatchingOptions(), True)
    with pytest.raises(InvalidArgumentError) as error:
        wrapped(str(tmp_path))
    assert error.value.message == f"Invalid protobuf file: '{file}'"


@pytest.mark.parametrize("is_strict", [False, True])
def test_an_observer_is_told_of_requests_waits_and_runs(make_bench: MakeBench, is_strict: bool) -> None:
    told = Told()
    options = BatchingOptions(
        num_batch_threads=1, max_batch_size=4, allowed_batch_sizes=(4,), strict=is_strict
    )
    bench = make_bench(options, observer=told)
    with bench.busy():
        future = bench.queue(rows(1, 2))
        bench.clock.advance(0.5)
    value_of(future)
    bench.stop()
    assert told.submissions == [(1, 1), (2, 1)]
    assert told.waits == [0.0, 0.5]
    assert told.runs == [(4, 3), (4, 2)]


def test_direct_runs_are_reported_in_lumps(make_bench: MakeBench) -> None:
    told = Told()
    bench = make_bench(observer=told)
    for values in ((1,), (1,), (1, 2, 3), (1, 2, 3, 4)):
        bench.runner.run([rows(*values)])
    bench.scheduler.report_direct_runs()
    bench.scheduler.report_direct_runs()
    assert told.direct == [(1, 1, 2), (4, 1, 2)]


def test_after_a_stop_requests_are_taken_again_when_it_is_started(make_bench: MakeBench) -> None:
    bench = make_bench(BatchingOptions(num_batch_threads=1, strict=True))
    bench.scheduler.stop()
    bench.scheduler.start()
    assert value_of(bench.call(rows(1))) == [[2.0]]


def test_string_inputs_are_batched_too(make_bench: MakeBench) -> None:
    bench = make_bench(function=lambda inputs: {"y": inputs["x"]})
    with bench.busy():
        futures = [bench.queue(np.array([[b"a\0"]], object)), bench.queue(np.array([[b"b"]], object))]
    assert [value_of(future) for future in futures] == [[[b"a\0"]], [[b"b"]]]
