"""Values are compared with what TensorFlow answers, which ``tflite_models.py`` wrote."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
)
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import TensorSpec
from inserve.tensorflow_c.interface import Executor
from inserve.tensors.dtypes import DataType
from inserve.tensors.flat_tensor import shaped
from inserve.testing.manual_clock import ManualClock
from inserve.tflite.interpreter import RunPlan, TfliteInterpreter
from inserve.tflite.signature_defs import name_endpoints
from inserve.tflite.tflite_file import Subgraph, TfliteFile, TfliteTensor
from inserve.tflite.tflite_session import LoadedTfliteModel, TfliteSession

LoadModel = Callable[..., LoadedTfliteModel]
Arrays = dict[str, NDArray[Any]]


def answers(models: Path, name: str) -> tuple[Arrays, Arrays]:
    """Return inputs and outputs that TensorFlow gave."""
    with np.load(models / name / "answers.npz", allow_pickle=True) as saved:
        arrays = {key: saved[key] for key in saved.files}
    return (
        {key[3:]: value for key, value in arrays.items() if key.startswith("in/")},
        {key[4:]: value for key, value in arrays.items() if key.startswith("out/")},
    )


def call(model: LoadedTfliteModel, inputs: Arrays, key: str = "serving_default") -> Arrays:
    """Run a signature the way the rest of inserve does."""
    servable = SavedModelServable(model)
    signature = servable.signatures[key]
    arrays = signature.bind_checked(inputs, _as_it_is, check_shapes=True)
    run = servable.signature_run(signature, ())
    return dict(zip(run.output_aliases, run.run(arrays), strict=True))


def _as_it_is(value: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return value


class FakeInterpreter:
    """Runs *compute* in place of LiteRT."""

    def __init__(self, compute: Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]) -> None:
        self._compute = compute

    def run(self, plan: RunPlan, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._compute(arrays)

    def is_worn(self) -> bool:
        return False


def fake_session(
    compute: Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]],
    clock: ManualClock,
    num_pools: int = 1,
    num_interpreters_per_pool: int = 1,
) -> TfliteSession:
    """Return a session from ``x``, float ``[?]``, to ``y``."""
    tensors = [TfliteTensor(name, DataType.DT_FLOAT, 0, (-1,)) for name in "xy"]
    file = TfliteFile([Subgraph(tensors, (0,), (1,), False)], [], {}, ())
    return TfliteSession(
        "fake",
        file,
        name_endpoints(file),
        lambda: cast(TfliteInterpreter, FakeInterpreter(compute)),
        num_pools,
        num_interpreters_per_pool,
        clock,
    )


@pytest.mark.parametrize("name", ["dense", "two_signatures", "image"])
def test_a_model_answers_what_tensorflow_answers(load: LoadModel, tflite_models: Path, name: str) -> None:
    inputs, expected = answers(tflite_models, name)
    outputs = call(load(name), inputs)
    assert outputs.keys() == expected.keys()
    for alias, value in expected.items():
        np.testing.assert_allclose(outputs[alias], value, rtol=1e-5, atol=1e-5)
        assert outputs[alias].dtype == value.dtype


def test_a_quantised_model_takes_and_gives_whole_numbers(load: LoadModel, tflite_models: Path) -> None:
    inputs, expected = answers(tflite_models, "quantised")
    outputs = call(load("quantised"), inputs)
    assert outputs["features"].dtype == np.int8
    np.testing.assert_allclose(outputs["features"].astype(int), expected["features"].astype(int), atol=1)


def test_strings_come_and_go_whole(load: LoadModel, tflite_models: Path) -> None:
    inputs, expected = answers(tflite_models, "strings")
    outputs = call(load("strings"), inputs)
    assert {alias: value.tolist() for alias, value in outputs.items()} == {
        alias: value.tolist() for alias, value in expected.items()
    }
    assert outputs["all"].dtype == np.object_
    assert isinstance(outputs["next"], np.ndarray)
    assert outputs["next"].shape == ()


def test_every_type_that_arrays_and_models_share_passes_through(load: LoadModel, tflite_models: Path) -> None:
    inputs, _ = answers(tflite_models, "types")
    outputs = call(load("types"), inputs)
    assert len(outputs) == 15
    for alias, value in inputs.items():
        assert outputs[alias].dtype == value.dtype
        assert outputs[alias].tolist() == value.reshape(-1, 1).tolist()


def test_each_signature_is_a_subgraph_of_its_own(load: LoadModel) -> None:
    model = load("two_signatures")
    for rows in (1, 3):
        plus = call(model, {"x": np.arange(rows, dtype=np.float32)}, "plus")
        assert plus["y"].tolist() == [value + 2.0 for value in range(rows)]
        dense = call(model, {"x": np.ones((rows, 4), np.float32)})
        assert dense["sum"].tolist() == [4.0] * rows


def test_the_number_of_rows_may_change_from_run_to_run(load: LoadModel) -> None:
    model = load("dense")
    for rows in (3, 1, 0, 1000, 3):
        outputs = call(model, {"x": np.ones((rows, 4), np.float32)})
        assert outputs["sum"].tolist() == [4.0] * rows
        assert outputs["y"].shape == (rows, 3)


def test_the_signature_refuses_other_shapes_than_the_model_states(load: LoadModel) -> None:
    with pytest.raises(InvalidArgumentError, match=r"must have shape \[\?,4\], got \[1,5\]"):
        call(load("dense"), {"x": np.ones((1, 5), np.float32)})


def test_a_shape_that_the_model_cannot_take_is_an_error_and_the_next_run_is_right(load: LoadModel) -> None:
    runner = load("dense").session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]
    )
    for shape in ((1, 5), (1, 5), (5,), (3, 3)):
        with pytest.raises(InternalError, match="Failed to"):
            runner.run([np.ones(shape, np.float32)])
        assert runner.run([np.ones((2, 4), np.float32)])[0].tolist() == [4.0, 4.0]


def test_an_error_tells_of_its_own_run_only(load: LoadModel) -> None:
    runner = load("strings").session.runner(
        [("serving_default_texts:0", DataType.DT_STRING), ("serving_default_index:0", DataType.DT_INT32)],
        ["PartitionedCall:2"],
    )
    texts = np.array([b"a"], np.object_)
    messages = []
    for _ in range(3):
        with pytest.raises(InternalError) as raised:
            runner.run([texts, np.array(7, np.int32)])
        messages.append(raised.value.message)
    assert "Failed to invoke TfLite interpreter: " in messages[0]
    assert messages[1] == messages[2]
    assert messages[2].count("index out of bounds") == 1


def test_an_interpreter_is_replaced_before_its_errors_fill_the_memory(load: LoadModel) -> None:
    model = load("dense")
    runner = model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
    for _ in range(2000):
        with pytest.raises(InternalError) as raised:
            runner.run([np.ones((1, 5), np.float32)])
        assert len(raised.value.message) < 2000
    assert runner.run([np.ones((1, 4), np.float32)])[0].tolist() == [4.0]


@pytest.mark.parametrize("rank", [7, 11, 20, 40])
def test_more_dimensions_than_litert_holds_are_refused(load: LoadModel, rank: int) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    with pytest.raises(InvalidArgumentError, match="expected at most 6 dimensions"):
        runner.run([np.ones((1,) * rank, np.float32)])


def test_shapes_that_no_array_has_are_refused(load: LoadModel) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    with pytest.raises(InvalidArgumentError, match="takes no array of the shape"):
        runner.run([shaped(np.ones(1, np.float32), (1,) * 100)])
    with pytest.raises(InvalidArgumentError, match=r"has the shape \[2147483648,0\], expected at most 6"):
        runner.run([np.empty((1 << 31, 0), np.float32)])


def test_a_shape_without_elements_takes_no_memory_for_its_other_dimensions(load: LoadModel) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    with pytest.raises(InvalidArgumentError, match="bytes beside the dimensions of size 0"):
        runner.run([np.empty(((1 << 31) - 1, 0), np.float32)])


def test_a_model_that_keeps_state_keeps_its_shapes(load: LoadModel) -> None:
    runner = load("counter").session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]
    )
    with pytest.raises(InvalidArgumentError, match=r"has the shape \[3\], expected \[\]"):
        runner.run([np.ones(3, np.float32)])


@pytest.mark.parametrize(
    "model",
    ["dense", "image", "quantised", "strings", "two_signatures", "types", "no_signatures", "counter"],
)
def test_no_shape_ends_the_process(tflite_models: Path, model: str) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("shapes_child.py")), str(tflite_models), model],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answered, refused = map(int, done.stdout.split())
    assert answered > 0
    assert refused > 0


def test_outputs_are_copies_that_outlive_the_next_run_and_the_model(load: LoadModel) -> None:
    model = load("any_rows")
    runner = model.session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    (first,) = runner.run([np.ones((1, 4), np.float32)])
    runner.run([np.zeros((1, 4), np.float32)])
    model.close()
    assert first.tolist() == [[2.0] * 4]
    first[0, 0] = 5.0


def test_arrays_may_be_strided_and_of_an_equal_type(load: LoadModel) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert runner.run([values.T])[0].tolist() == (values.T * 2).tolist()
    assert runner.run([values[::2]])[0].tolist() == (values[::2] * 2).tolist()


def test_whole_numbers_of_either_c_type_are_taken(load: LoadModel, tflite_models: Path) -> None:
    inputs, _ = answers(tflite_models, "types")
    for code in "lq":
        outputs = call(load("types"), {**inputs, "int64": np.array([1, 2, 3], code)})
        assert outputs["int64"].ravel().tolist() == [1, 2, 3]


def test_a_run_with_other_arrays_than_the_feeds_is_a_mistake_of_the_caller(load: LoadModel) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    with pytest.raises(ValueError, match="expected 1 arrays, got 0"):
        runner.run([])
    with pytest.raises(ValueError, match="feed x: expected an array of float32, got float64"):
        runner.run([np.ones((1, 4))])


def test_a_tensor_that_is_not_there_is_refused_when_a_run_is_prepared(load: LoadModel) -> None:
    session = load("any_rows").session
    feed = ("x", DataType.DT_FLOAT)
    with pytest.raises(InvalidArgumentError, match="Missing input TFLite tensor: z"):
        session.runner([("z", DataType.DT_FLOAT)], ["Identity"])
    with pytest.raises(InvalidArgumentError, match="Missing output TFLite tensor: z"):
        session.runner([feed], ["z"])
    with pytest.raises(InvalidArgumentError, match="Tensor x is DT_FLOAT in the model, expected DT_HALF"):
        session.runner([("x", DataType.DT_HALF)], ["Identity"])
    with pytest.raises(InvalidArgumentError, match="no values for the input tensors x"):
        session.runner([], ["Identity"])


def test_tensors_of_two_subgraphs_are_not_run_together(load: LoadModel) -> None:
    session = load("two_signatures").session
    with pytest.raises(InvalidArgumentError, match="belong to different signatures"):
        session.runner([("plus_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])


def test_sixteen_threads_get_their_own_answers(load: LoadModel) -> None:
    servable = SavedModelServable(load("two_signatures", 3))
    wrong: list[object] = []

    def ask(number: int) -> None:
        run = servable.signature_run(servable.signatures["serving_default"], ["sum"])
        plus = servable.signature_run(servable.signatures["plus"], ())
        for rows in range(1, 40):
            value = number + rows / 64
            if run.run([np.full((rows, 4), value, np.float32)])[0].tolist() != [4 * value] * rows:
                wrong.append((number, rows))
            if plus.run([np.full(rows, value, np.float32)])[0].tolist() != [value + 2] * rows:
                wrong.append((number, rows, "plus"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_closed_model_refuses_runs_and_may_be_closed_again(load: LoadModel) -> None:
    model = load("any_rows")
    runner = model.session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    model.close()
    model.close()
    with pytest.raises(FailedPreconditionError, match=r"the session of .*model\.tflite is closed"):
        runner.run([np.ones((1, 4), np.float32)])


def test_the_executor_is_of_no_importance(load: LoadModel) -> None:
    runner = load("any_rows").session.runner([("x", DataType.DT_FLOAT)], ["Identity"])
    for executor in Executor:
        assert runner.run([np.ones((1, 4), np.float32)], 1.0, executor)[0].tolist() == [[2.0] * 4]


def test_a_run_that_gets_no_interpreter_in_time_is_over_its_deadline() -> None:
    clock, entered, leave = ManualClock(), threading.Event(), threading.Event()

    def compute(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        entered.set()
        assert leave.wait(30)
        return list(arrays)

    runner = fake_session(compute, clock).runner([("x", DataType.DT_FLOAT)], ["y"])
    values = [np.ones(2, np.float32)]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(runner.run, values)
        assert entered.wait(30)
        second = threads.submit(runner.run, values, 1.5)
        clock.block_until_waiting(1)
        clock.advance(1.5)
        with pytest.raises(DeadlineExceededError, match=r"interpreters of fake was free within 1\.5 s"):
            second.result(30)
        leave.set()
        assert first.result(30)[0].tolist() == [1.0, 1.0]


def test_parts_of_a_run_are_computed_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=30)

    def compute(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        barrier.wait()
        return [arrays[0] + 1]

    session = fake_session(compute, ManualClock(), num_pools=3, num_interpreters_per_pool=5)
    values = np.arange(300, dtype=np.float32)
    (result,) = session.runner([("x", DataType.DT_FLOAT)], ["y"]).run([values])
    assert result.tolist() == (values + 1).tolist()
    session.close()


def test_many_rows_are_run_in_parts_where_asked(load: LoadModel, tflite_models: Path) -> None:
    rows = np.arange(2000, dtype=np.float32).reshape(500, 4)
    for num_pools in (1, 3):
        model = load("dense", num_pools, num_interpreters_per_pool=4)
        for count in (1, 125, 126, 499, 500):
            outputs = call(model, {"x": rows[:count]})
            assert outputs["sum"].tolist() == rows[:count].sum(axis=1).tolist()
            assert outputs["y"].shape == (count, 3)


def test_more_rows_than_a_model_in_parts_takes_are_refused_in_the_words_of_tensorflow_serving(
    load: LoadModel,
) -> None:
    model = load("dense", num_interpreters_per_pool=2)
    with pytest.raises(
        InvalidArgumentError, match="Task size 501 is larger than maximum input batch size 500"
    ):
        call(model, {"x": np.ones((501, 4), np.float32)})


def test_an_output_without_rows_cannot_be_run_in_parts() -> None:
    def compute(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.array(arrays[0].sum())]

    session = fake_session(compute, ManualClock(), num_interpreters_per_pool=5)
    runner = session.runner([("x", DataType.DT_FLOAT)], ["y"])
    assert runner.run([np.ones(100, np.float32)])[0].tolist() == 100.0
    with pytest.raises(InternalError, match="Tensor split operation failed: an output has not one row"):
        runner.run([np.ones(101, np.float32)])


def test_a_failing_part_fails_the_run_and_the_session_goes_on(load: LoadModel) -> None:
    runner = load("dense", num_interpreters_per_pool=4).session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]
    )
    with pytest.raises(InternalError):
        runner.run([np.ones((300, 5), np.float32)])
    assert runner.run([np.ones((300, 4), np.float32)])[0].tolist() == [4.0] * 300


def test_state_belongs_to_an_interpreter_and_stays(load: LoadModel) -> None:
    model = load("counter")
    assert [call(model, {"x": np.array(value, np.float32)})["total"].item() for value in (1, 2, 3)] == [
        1,
        3,
        6,
    ]
