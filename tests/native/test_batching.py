"""Batching on real models: who shares a run gets what it would have got alone."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.batching.options import BatchingOptions
from inserve.errors import FailedPreconditionError, InserveError, InvalidArgumentError, UnavailableError
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.tensorflow_c.load_saved_model import load_saved_model

LIMIT_S = 30.0
CALLERS = 64


class Batched:
    """A golden model with batching, and its runs by signature."""

    def __init__(self, path: Path, options: BatchingOptions, per_model: bool = False) -> None:
        self.scheduler = BatchScheduler(options)
        self.model = batch_models(load_saved_model, self.scheduler, options, per_model)(str(path))
        self.path = str(path)
        self.servable = SavedModelServable(self.model)

    def run(self, signature: str = "serving_default") -> SignatureRun:
        return self.servable.signature_run(self.servable.signatures[signature], ())

    def close(self) -> None:
        self.scheduler.stop()
        self.servable.close()


@pytest.fixture
def batched(golden_models: Path) -> Iterator[Callable[..., Batched]]:
    opened: list[Batched] = []

    def open_model(name: str, options: BatchingOptions, version: int = 1, per_model: bool = False) -> Batched:
        opened.append(Batched(golden_models / name / str(version), options, per_model))
        return opened[-1]

    yield open_model
    for model in opened:
        model.close()


@pytest.mark.parametrize("is_strict", [False, True])
def test_64_callers_of_a_convolution_get_their_own_answers(
    batched: Callable[..., Batched], is_strict: bool
) -> None:
    options = BatchingOptions(
        num_batch_threads=1, max_batch_size=16, max_enqueued_batches=1000, strict=is_strict
    )
    model = batched("cnn", options)
    reference, run = SavedModelServable(load_saved_model(model.path)), model.run()
    spec = next(iter(run.signature.inputs.values())) if run.signature else None
    assert spec is not None
    assert spec.shape is not None
    shape = tuple(4 if size is None or size < 0 else size for size in spec.shape[1:])
    random = np.random.default_rng(1)
    inputs = [random.random((1 + caller % 3, *shape), np.float32) for caller in range(CALLERS)]
    single = reference.signature_run(reference.signatures["serving_default"], ())
    expected = [single.run([array]) for array in inputs]
    start = threading.Barrier(CALLERS)

    def ask(caller: int) -> list[list[NDArray[Any]]]:
        start.wait(LIMIT_S)
        return [run.run([inputs[caller]], LIMIT_S) for _ in range(3)]

    with ThreadPoolExecutor(CALLERS) as threads:
        answers = list(threads.map(ask, range(CALLERS)))
    for caller, runs in enumerate(answers):
        for outputs in runs:
            for output, wanted in zip(outputs, expected[caller], strict=True):
                np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-5)
    stats = model.scheduler.statistics(model.path).queues[0]
    assert stats.requests == 3 * CALLERS
    assert stats.mean_rows > 4
    reference.close()


def test_a_bad_row_fails_its_own_request_only(batched: Callable[..., Batched]) -> None:
    model = batched("batchable", BatchingOptions(num_batch_threads=1))
    run = model.run("failing")
    run.run([np.zeros((1, 1), np.float32)])
    values = [np.array([[np.nan if number % 4 == 0 else number]], np.float32) for number in range(32)]
    start = threading.Barrier(len(values))

    def ask(value: NDArray[Any]) -> Any:
        start.wait(LIMIT_S)
        try:
            return run.run([value], LIMIT_S)[0].tolist()
        except InvalidArgumentError as error:
            return error.message

    with ThreadPoolExecutor(len(values)) as threads:
        answers = list(threads.map(ask, values))
    for value, got in zip(values, answers, strict=True):
        if np.isnan(value[0, 0]):
            assert "Tensor had NaN values" in got
        else:
            assert got == run.run([value])[0].tolist()


def test_a_model_without_rows_in_its_output_is_run_alone(batched: Callable[..., Batched]) -> None:
    model = batched("batchable", BatchingOptions(num_batch_threads=1))
    run = model.run("scalar_out")
    wanted = run.run([np.ones((2, 1), np.float32)])[0].tolist()
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: run.run([np.ones((2, 1), np.float32)])[0].tolist(), range(64)))
    assert answers == [wanted] * 64


def test_a_closed_version_refuses_and_a_stopped_scheduler_too(batched: Callable[..., Batched]) -> None:
    model = batched("half_plus_two", BatchingOptions())
    run = model.run()
    model.scheduler.stop()
    with pytest.raises(UnavailableError):
        run.run([np.ones(1, np.float32)])
    other = batched("half_plus_two", BatchingOptions())
    run = other.run()
    other.servable.close()
    with pytest.raises(FailedPreconditionError):
        run.run([np.ones(1, np.float32)])


def test_a_version_is_batched_by_its_own_parameters(batched: Callable[..., Batched]) -> None:
    options = BatchingOptions(strict=True)
    run = batched("batchable", options, per_model=True).run()
    assert len(run.run([np.ones((3, 1), np.float32)])[0]) == 3
    with pytest.raises(InvalidArgumentError, match="Task size 4 is larger than maximum input batch size 3"):
        run.run([np.ones((4, 1), np.float32)])
    scalar = batched("half_plus_two", options, version=2, per_model=True).run()
    assert scalar.run([np.array(1.0, np.float32)])[0].tolist() == 3.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_answered_with_an_error_and_never_hangs(
    run_python: Callable[..., Any], golden_models: Path
) -> None:
    program = """
import os, sys, threading
import numpy as np
from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.batching.options import BatchingOptions
from inserve.errors import FailedPreconditionError
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

runners = []
for strict in (False, True):
    options = BatchingOptions(strict=strict, num_batch_threads=1)
    model = batch_models(load_saved_model, BatchScheduler(options), options)(sys.argv[1])
    runners.append(model.session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]))
    runners[-1].run([np.ones(1, np.float32)])
child = os.fork()
if child == 0:
    for runner in runners:
        try:
            runner.run([np.ones(1, np.float32)])
        except FailedPreconditionError:
            continue
        os._exit(1)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = run_python(program, str(golden_models / "half_plus_two" / "2"))
    assert result.stdout.strip() == "7", result.stderr


def golden_groups() -> list[Any]:
    """Return the recorded requests that met in a batch, by server and group, Predict over gRPC only."""
    folder = Path(__file__).parent.parent / "golden"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in (folder / "grpc.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["category"] == "batching" and case.get("group"):
            groups[case["server"], case["group"]].append(case)
    return [
        pytest.param(server, cases, id=f"{server}-{group}")
        for (server, group), cases in groups.items()
        if len(cases) > 1 and "nopad-dtype" not in group
    ]


@pytest.mark.parametrize(("server", "cases"), golden_groups())
def test_strict_answers_recorded_batches_as_tensorflow_serving(
    batched: Callable[..., Batched], server: str, cases: list[dict[str, Any]]
) -> None:
    """Requests of one group meet because each has one row and the largest batch two."""
    from tensorflow import make_ndarray  # the wire format is another folder's business
    from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

    options = BatchingOptions(
        max_batch_size=2,
        batch_timeout_micros=20_000_000,
        max_enqueued_batches=4,
        num_batch_threads=2,
        pad_variable_length_inputs=server == "batching_pad",
        strict=True,
    )
    model = batched("batchable", options)
    futures: list[tuple[Future[Any], SignatureRun]] = []
    with ThreadPoolExecutor(len(cases)) as threads:
        for case in cases:
            request = PredictRequest.FromString(base64.b64decode(case["request_b64"]))
            run = model.run(request.model_spec.signature_name or "serving_default")
            assert run.signature is not None
            arrays = [make_ndarray(request.inputs[alias]) for alias in run.signature.inputs]
            queue = model.scheduler.statistics(model.path).queues
            future = threads.submit(run.run, arrays)
            while not future.done() and case is cases[0]:
                queue = model.scheduler.statistics(model.path).queues
                if sum(one.queued for one in queue):
                    break
            futures.append((future, run))
    for case, (future, run) in zip(cases, futures, strict=True):
        recorded = case["response"]
        if recorded["code"] == "OK":
            response = PredictResponse.FromString(base64.b64decode(recorded["message_b64"]))
            for alias, output in zip(run.output_aliases, future.result(LIMIT_S), strict=True):
                wanted = make_ndarray(response.outputs[alias])
                assert output.tolist() == wanted.tolist()
        else:
            error = future.exception(LIMIT_S)
            assert isinstance(error, InserveError)
            assert (error.code.name, error.message) == (recorded["code"], recorded["message"])
