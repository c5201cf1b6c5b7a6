from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
)
from inserve.tensorflow_c import run_slots
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.load_saved_model import LoadedSavedModel, load_saved_model
from inserve.tensorflow_c.runner import GraphRunner
from inserve.tensors.dtypes import DataType

Load = Callable[[Path | str], LoadedSavedModel]

X = [("serving_default_x:0", DataType.DT_FLOAT)]
Y = ["StatefulPartitionedCall:0"]
FLOAT = DataType.DT_FLOAT


def floats(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


@pytest.fixture
def half_plus_two(load: Load, half_plus_two_path: str) -> GraphRunner:
    return load(half_plus_two_path).session.runner(X, Y)


@pytest.fixture
def memory(load: Load, extra_models: Path) -> LoadedSavedModel:
    return load(extra_models / "memory")


@pytest.mark.parametrize("executor", list(Executor))
def test_a_run_answers_with_one_array_per_fetch(half_plus_two: GraphRunner, executor: Executor) -> None:
    (y,) = half_plus_two.run([floats(1, 2, 5)], executor=executor)
    assert y.tolist() == [2.5, 3.0, 4.5]
    assert y.dtype == np.float32


def test_the_order_of_feeds_and_fetches_is_that_of_the_runner(load: Load, golden_models: Path) -> None:
    session = load(golden_models / "error" / "1").session
    runner = session.runner([("j:0", DataType.DT_INT32), ("i:0", DataType.DT_INT32)], ["div:0", "mod:0"])
    quotient, rest = runner.run([np.array(5, np.int32), np.array(17, np.int32)])
    assert (int(quotient), int(rest)) == (3, 2)


def test_an_array_may_change_once_the_run_is_over(memory: LoadedSavedModel) -> None:
    runner = memory.session.runner([("x:0", FLOAT)], ["same:0"])
    x = floats(1, 2)
    (same,) = runner.run([x])
    x[:] = 9
    assert same.tolist() == [1, 2]


@pytest.mark.parametrize("rows", [4, 1 << 16], ids=["copied", "handed out"])
def test_an_answer_stays_as_it_is_when_more_runs_follow(memory: LoadedSavedModel, rows: int) -> None:
    runner = memory.session.runner([("x:0", FLOAT)], ["plus_one:0", "same:0"])
    first = runner.run([np.full(rows, 1, np.float32)])
    runner.run([np.full(rows, 5, np.float32)])
    assert [set(array.tolist()) for array in first] == [{2.0}, {1.0}]


@pytest.mark.parametrize("rows", [4, 1 << 16], ids=["small", "large"])
def test_a_variable_that_took_over_the_memory_of_an_input_keeps_its_value(
    memory: LoadedSavedModel, rows: int
) -> None:
    assign = memory.session.runner([("x:0", FLOAT)], ["assigned:0"])
    read = memory.session.runner([], ["kept_value:0"])
    plus_one = memory.session.runner([("x:0", FLOAT)], ["plus_one:0"])
    assign.run([np.full(rows, 1, np.float32)])
    plus_one.run([np.full(rows, 5, np.float32)])
    assert set(read.run([])[0].tolist()) == {1}
    assign.run([np.full(rows, 9, np.float32)])
    assert set(read.run([])[0].tolist()) == {9}


def test_a_large_input_of_any_strides_is_copied_right_into_kept_memory(half_plus_two: GraphRunner) -> None:
    values = np.arange(1 << 17, dtype=np.float32)
    for array in (values[::2], values[1::2], values[: 1 << 16][::-1]):
        np.testing.assert_allclose(half_plus_two.run([array])[0], array / 2 + 2)


def test_large_inputs_are_kept_up_to_a_limit_for_the_process(
    load: Load, half_plus_two_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(half_plus_two_path)
    monkeypatch.setattr(run_slots, "KEPT_BYTES", run_slots.kept_bytes() + (10 << 20))
    large = np.zeros(1 << 20, np.float32)
    runners = [model.session.runner(X, Y) for _ in range(4)]
    for runner in runners:
        runner.run([large])
        runner.run([large])
    kept = [runner.slots.idle[0].kept[0] is not run_slots.NOTHING_KEPT for runner in runners]
    assert kept == [True, True, False, False]
    runners[0].run([np.zeros(1, np.float32)])
    runners[3].run([large])
    assert runners[3].slots.idle[0].kept[0] is not run_slots.NOTHING_KEPT


@pytest.mark.parametrize("fetch", ["constant:0", "variable:0", "filled:0"])
def test_writing_into_an_answer_changes_no_later_answer(memory: LoadedSavedModel, fetch: str) -> None:
    runner = memory.session.runner([], [fetch])
    (first,) = runner.run([])
    before = first.copy()
    first[:] = -1
    assert runner.run([])[0].tolist() == before.tolist()


def test_an_answer_outlives_its_session(half_plus_two_path: str) -> None:
    model = load_saved_model(half_plus_two_path)
    (y,) = model.session.runner(X, Y).run([np.arange(1 << 16, dtype=np.float32)])
    model.close()
    del model
    gc.collect()
    y += 1
    assert y[:3].tolist() == [3.0, 3.5, 4.0]


def test_an_empty_tensor_and_no_feeds_work(memory: LoadedSavedModel) -> None:
    (empty,) = memory.session.runner([], ["empty:0"]).run([])
    assert empty.shape == (0, 3)
    (plus_one,) = memory.session.runner([("x:0", FLOAT)], ["plus_one:0"]).run([floats()])
    assert plus_one.shape == (0,)


def test_a_run_without_fetches_runs_nothing(memory: LoadedSavedModel) -> None:
    with pytest.raises(InvalidArgumentError, match="Must specify at least one target to fetch or execute"):
        memory.session.runner([("x:0", FLOAT)], []).run([floats(1)])


@pytest.mark.parametrize("name", ["nothing:0", "x:1", "x:-1", "x:one", "^x", "", ":0", "x\0:0"])
def test_a_tensor_that_is_not_in_the_graph_is_refused_by_name(memory: LoadedSavedModel, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        memory.session.runner([], [name])
    assert caught.value.message == (
        f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
    )


def test_a_tensor_name_without_an_index_is_output_0(memory: LoadedSavedModel) -> None:
    assert memory.session.runner([("x", FLOAT)], ["same"]).run([floats(3)])[0].tolist() == [3]


def test_a_feed_of_another_type_than_in_the_graph_is_refused(memory: LoadedSavedModel) -> None:
    with pytest.raises(InvalidArgumentError, match="x:0 is float in the graph, expected DT_INT32"):
        memory.session.runner([("x:0", DataType.DT_INT32)], ["same:0"])


@pytest.mark.parametrize(("name", "kind"), [("handle:0", "DT_RESOURCE"), ("variant:0", "DT_VARIANT")])
def test_a_fetch_that_no_array_can_hold_is_refused(memory: LoadedSavedModel, name: str, kind: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name} is {kind}, which no array can hold"):
        memory.session.runner([], [name])


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.0]),
        np.array([1], np.int32),
        np.array([1.0], ">f4"),
        np.array([b"1"], object),
        np.array(["1"]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_of_another_dtype_than_the_feed_is_a_value_error(
    half_plus_two: GraphRunner, array: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(ValueError, match=r"feed serving_default_x:0: expected an array of float32, got "):
        half_plus_two.run([array])
    assert half_plus_two.run([floats(2)])[0].tolist() == [3.0]


def test_another_number_of_arrays_than_feeds_is_a_value_error(half_plus_two: GraphRunner) -> None:
    with pytest.raises(ValueError, match="expected 1 arrays, got 2"):
        half_plus_two.run([floats(1), floats(1)])


def test_what_tensorflow_says_becomes_an_error_with_its_code(load: Load, golden_models: Path) -> None:
    session = load(golden_models / "error" / "1").session
    runner = session.runner([("i:0", DataType.DT_INT32), ("j:0", DataType.DT_INT32)], ["div:0"])
    with pytest.raises(InvalidArgumentError, match="Integer division by zero"):
        runner.run([np.array(1, np.int32), np.array(0, np.int32)])
    assert runner.run([np.array(4, np.int32), np.array(2, np.int32)])[0] == 2


def test_a_message_that_is_not_utf_8_becomes_one_character_per_byte(load: Load, golden_models: Path) -> None:
    runner = load(golden_models / "error" / "1").session.runner(
        [("s:0", DataType.DT_STRING)], ["to_number:0"]
    )
    with pytest.raises(InvalidArgumentError, match="could not correctly convert string: \xff\xfe"):
        runner.run([np.array(b"\xff\xfe", object)])


def test_a_run_on_the_pool_ends_at_its_timeout(load: Load, extra_models: Path) -> None:
    runner = load(extra_models / "queue").session.runner([], ["dequeued:0"])
    with pytest.raises(DeadlineExceededError, match="Timed out waiting for notification"):
        runner.run([], timeout_s=0.02)


@pytest.mark.parametrize("timeout_s", [30.0, 1e300, float("inf")])
def test_a_run_that_ends_before_its_timeout_answers(half_plus_two: GraphRunner, timeout_s: float) -> None:
    assert half_plus_two.run([floats(2)], timeout_s)[0].tolist() == [3.0]


def test_a_timeout_below_a_millisecond_still_ends_the_run(load: Load, extra_models: Path) -> None:
    runner = load(extra_models / "queue").session.runner([], ["dequeued:0"])
    with pytest.raises(DeadlineExceededError):
        runner.run([], timeout_s=0.0)


def test_a_timeout_is_ignored_on_the_calling_thread(half_plus_two: GraphRunner) -> None:
    (y,) = half_plus_two.run([floats(2)], timeout_s=0.0, executor=Executor.CALLING_THREAD)
    assert y.tolist() == [3.0]


@pytest.mark.parametrize("executor", list(Executor))
def test_every_thread_gets_its_own_answer(half_plus_two: GraphRunner, executor: Executor) -> None:
    barrier = threading.Barrier(64)

    def ask(caller: int) -> bool:
        barrier.wait()
        return all(
            half_plus_two.run([np.full(rows, caller, np.float32)], executor=executor)[0].tolist()
            == [caller / 2 + 2] * rows
            for rows in (1, 1, 3, 1, 5000, 2, 2)
        )

    with ThreadPoolExecutor(64) as threads:
        assert all(threads.map(ask, range(64)))


def test_closing_waits_for_the_run_in_progress(extra_models: Path) -> None:
    model = load_saved_model(str(extra_models / "queue"))
    runner = model.session.runner([], ["dequeued:0"])
    order: list[str] = []
    started = threading.Event()

    def wait_in_vain() -> None:
        started.set()
        with pytest.raises(DeadlineExceededError):
            runner.run([], timeout_s=0.3)
        order.append("run")

    thread = threading.Thread(target=wait_in_vain)
    thread.start()
    started.wait()
    while not runner.slots.in_progress():
        pass
    model.close()
    order.append("close")
    thread.join()
    assert sorted(order) == ["close", "run"]
    assert runner.slots.in_progress() == 0


def test_a_closed_session_refuses_runs_and_runners_and_closes_again(half_plus_two_path: str) -> None:
    model = load_saved_model(half_plus_two_path)
    runner = model.session.runner(X, Y)
    runner.run([floats(1)])
    model.close()
    model.close()
    for misuse in (lambda: runner.run([floats(1)]), lambda: model.session.runner(X, Y)):
        with pytest.raises(FailedPreconditionError) as caught:
            misuse()
        assert caught.value.message == f"the session of {half_plus_two_path} is closed"
    assert repr(model.session) == f"<GraphSession {half_plus_two_path!r} [closed]>"


def test_a_run_while_the_session_closes_gets_its_answer_or_the_refusal(
    half_plus_two_path: str,
) -> None:
    model = load_saved_model(half_plus_two_path)
    runner = model.session.runner(X, Y)
    running = threading.Barrier(9)

    def ask(_: int) -> str:
        runner.run([floats(2)])
        running.wait()
        try:
            while True:
                assert runner.run([floats(2)])[0].tolist() == [3.0]
        except FailedPreconditionError as error:
            return error.message

    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(ask, range(8))
        running.wait()
        model.close()
        assert set(answers) == {f"the session of {half_plus_two_path} is closed"}


def test_a_session_dropped_without_closing_can_still_be_run_by_its_runner(half_plus_two_path: str) -> None:
    runner = load_saved_model(half_plus_two_path).session.runner(X, Y)
    gc.collect()
    assert runner.run([floats(2)])[0].tolist() == [3.0]
    del runner
    gc.collect()


def test_the_repr_of_a_runner_names_its_tensors(half_plus_two: GraphRunner) -> None:
    assert repr(half_plus_two) == "<GraphRunner serving_default_x:0 -> StatefulPartitionedCall:0>"


def every_kind_of_run(memory: LoadedSavedModel, errors: LoadedSavedModel) -> Callable[[], None]:
    small = memory.session.runner([("x:0", FLOAT)], ["same:0", "plus_one:0"])
    strings = memory.session.runner([("s:0", DataType.DT_STRING)], ["strings:0", "lengths:0"])
    failing = errors.session.runner([("x:0", FLOAT)], ["Identity:0", "pos:0"])
    sizes = iter(range(1 << 62))
    words = np.array([b"x" * 50, b"short"] * 20, object)

    def call() -> None:
        size = next(sizes)
        small.run([np.zeros(size % 7, np.float32)], None, Executor.CALLING_THREAD)
        if size % 50 == 0:
            small.run([np.zeros(1 << 15, np.float32)])
            strings.run([words])
        if size % 10 == 0:
            with pytest.raises(InvalidArgumentError):
                failing.run([floats(-1)], None, Executor.CALLING_THREAD)
            with pytest.raises(TypeError):
                strings.run([np.array([b"ok", 3], object)])

    return call


@pytest.mark.parametrize("times", [4_000, pytest.param(200_000, marks=pytest.mark.nightly)])
def test_runs_leave_no_memory_behind(
    memory: LoadedSavedModel,
    load: Load,
    golden_models: Path,
    resident_bytes: Callable[[], int],
    times: int,
) -> None:
    call = every_kind_of_run(memory, load(golden_models / "error" / "1"))
    for _ in range(times // 5):
        call()
    before = resident_bytes()
    for _ in range(times - times // 5):
        call()
    assert resident_bytes() - before < 8 << 20
