"""Batching to the letter of TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.batching.bench import LIMIT_S, Bench, rows, value_of

from inserve.batching.options import BatchingOptions
from inserve.batching.statistics import CloseReason
from inserve.errors import (
    FailedPreconditionError,
    InserveError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from inserve.testing import Gate

MakeBench = Callable[..., Bench]


def strict(**changes: Any) -> BatchingOptions:
    return BatchingOptions(
        **{"num_batch_threads": 1, "batch_timeout_micros": 1_000_000, "strict": True, **changes}
    )


def error_of(future: Future[Any]) -> InserveError:
    error = future.exception(LIMIT_S)
    assert isinstance(error, InserveError)
    return error


def test_a_lone_request_waits_for_the_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    future = bench.queue(rows(1))
    bench.clock.advance(0.9)
    assert not future.done()
    bench.clock.advance(0.2)
    assert value_of(future) == [[2.0]]
    assert bench.stats.close_reasons == {CloseReason.TIMEOUT: 1}


def test_the_timeout_counts_from_the_first_request_of_the_batch(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    futures = [bench.queue(rows(1))]
    bench.clock.advance(0.75)
    futures.append(bench.queue(rows(2)))
    bench.clock.advance(0.5)
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0]]]
    assert bench.session.batches == [2]


def test_a_full_batch_runs_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=3))
    futures = [bench.queue(rows(1)), bench.call(rows(2, 3))]
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0], [6.0]]]
    assert bench.session.batches == [3]


def test_without_timeout_a_lone_request_runs_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(strict(batch_timeout_micros=0))
    assert value_of(bench.call(rows(1))) == [[2.0]]


def test_a_request_that_does_not_fit_closes_the_batch_before_it(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=4))
    first, second = bench.queue(rows(1, 2)), bench.call(rows(3, 4, 5))
    assert value_of(first) == [[2.0], [4.0]]
    bench.clock.advance(1.0)
    assert value_of(second) == [[6.0], [8.0], [10.0]]
    assert bench.session.batches == [2, 3]


def test_batches_run_on_threads_of_the_given_name(make_bench: MakeBench) -> None:
    bench = make_bench(strict(batch_timeout_micros=0, thread_pool_name="model_server_batch_threads"))
    bench.call(rows(1)).result(LIMIT_S)
    assert bench.session.calls[0][2] == "model_server_batch_threads-0"


def test_as_many_batches_run_at_once_as_there_are_threads(make_bench: MakeBench) -> None:
    bench = make_bench(strict(num_batch_threads=2, max_batch_size=1))
    gates = [Gate(), Gate()]
    bench.session.gates += gates
    futures = [bench.call(rows(1)), bench.call(rows(2))]
    for gate in gates:
        gate.block_until_entered()
    for gate in gates:
        gate.open()
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0]]]


def test_another_thread_watches_the_time_while_one_runs(make_bench: MakeBench) -> None:
    bench = make_bench(strict(num_batch_threads=2, max_batch_size=2))
    gate = Gate()
    bench.session.gates.append(gate)
    busy = bench.call(rows(1, 1))
    gate.block_until_entered()
    waiting = bench.queue(rows(2))
    bench.clock.advance(1.0)
    assert value_of(waiting) == [[4.0]]
    gate.open()
    busy.result(LIMIT_S)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ([np.array(1.0), np.array(1.0)], "Batching Run() input tensors must have at least one dimension"),
        ([rows(1, 2), rows(1)], "Batching Run() input tensors must have equal 0th-dimension size"),
        ([rows(1, 2, 3)] * 2, "Task size 3 is larger than maximum input batch size 2"),
    ],
)
def test_requests_without_common_or_with_too_many_rows_are_refused(
    make_bench: MakeBench, arrays: list[NDArray[Any]], text: str
) -> None:
    bench = make_bench(strict(max_batch_size=2), feeds=("a", "b"))
    with pytest.raises(InvalidArgumentError) as error:
        bench.runner.run(arrays)
    assert error.value.message == text


def test_a_request_without_inputs_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(strict(), feeds=())
    with pytest.raises(InvalidArgumentError, match="must have at least one input tensor"):
        bench.runner.run([])


def test_a_request_without_rows_is_answered_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    assert bench.runner.run([np.zeros((0, 1), np.float32)])[0].tolist() == []


def test_a_full_queue_refuses(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=1, max_enqueued_batches=1))
    gate = Gate()
    bench.session.gates.append(gate)
    first = bench.call(rows(1))
    gate.block_until_entered()
    second = bench.queue(rows(2))
    with pytest.raises(UnavailableError, match="currently 1 batches enqueued and max_enqueued_batches is 1"):
        bench.runner.run([rows(3)])
    gate.open()
    assert [value_of(first), value_of(second)] == [[[2.0]], [[4.0]]]
    assert bench.stats.refused == 1


def test_an_error_is_given_to_every_request_of_the_batch(make_bench: MakeBench) -> None:
    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise InvalidArgumentError("bad row")

    bench = make_bench(strict(max_batch_size=2), function=fail)
    futures = [bench.queue(rows(1)), bench.call(rows(2))]
    errors = [error_of(future) for future in futures]
    assert [error.message for error in errors] == ["bad row", "bad row"]
    assert errors[0] is not errors[1]
    assert bench.session.batches == [2]


def test_other_shapes_fail_the_batch(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=2))
    futures = [bench.queue(rows(1)), bench.call(np.ones((1, 3), np.float32))]
    for future in futures:
        error = error_of(future)
        assert isinstance(error, FailedPreconditionError)
        assert error.message.startswith("Tensors with name 'x' from different tasks have different shapes")


def test_other_dtypes_fail_the_batch(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=2))
    futures = [bench.queue(rows(1)), bench.call(rows(1).astype(np.int32))]
    for future in futures:
        assert isinstance(error_of(future), InternalError)


def test_padding_uses_the_own_first_element_and_outputs_stay_padded(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=2, pad_variable_length_inputs=True))
    futures = [bench.queue(np.array([[1, 2, 3]], np.float32)), bench.call(rows(7))]
    assert [value_of(future) for future in futures] == [[[2.0, 4.0, 6.0]], [[14.0, 14.0, 14.0]]]


def test_batches_are_padded_with_the_first_row_of_the_last_request(make_bench: MakeBench) -> None:
    seen: list[Any] = []

    def remember(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen.append(inputs["x"].tolist())
        return {"y": inputs["x"]}

    bench = make_bench(strict(max_batch_size=4, allowed_batch_sizes=(4,)), function=remember)
    futures = [bench.queue(rows(1)), bench.queue(rows(2, 3))]
    bench.clock.advance(1.0)
    assert [value_of(future) for future in futures] == [[[1.0]], [[2.0], [3.0]]]
    assert seen == [[[1.0], [2.0], [3.0], [2.0]]]
    assert bench.stats.padding_rows == 1


@pytest.mark.parametrize("output", [np.array(1.0), np.zeros(5)])
def test_outputs_without_the_rows_of_the_batch_are_an_error_even_for_one_request(
    make_bench: MakeBench, output: NDArray[Any]
) -> None:
    bench = make_bench(strict(batch_timeout_micros=0), function=lambda _: {"y": output})
    assert isinstance(error_of(bench.call(rows(1))), FailedPreconditionError)


def test_a_batch_of_expired_requests_is_not_run(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    futures = [bench.queue(rows(1), timeout_s=0.5), bench.queue(rows(2), timeout_s=0.75)]
    bench.clock.advance(1.0)
    for future in futures:
        error = error_of(future)
        assert isinstance(error, ResourceExhaustedError)
        assert error.message == "Run() timeout exceeded while waiting in batching queue"
    assert bench.session.batches == []


def test_an_expired_request_is_answered_with_the_others(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    futures = [bench.queue(rows(1), timeout_s=0.5), bench.queue(rows(2), timeout_s=3.0005)]
    bench.clock.advance(1.0)
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0]]]
    assert bench.session.calls[0][0] == 2.0


def test_a_deadline_that_had_passed_already_counts_for_none(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    future = bench.queue(rows(1), timeout_s=-1.0)
    bench.clock.advance(1.0)
    assert value_of(future) == [[2.0]]


def test_a_large_request_fills_batches_and_its_outputs_are_joined(make_bench: MakeBench) -> None:
    bench = make_bench(
        strict(max_batch_size=10, max_execution_batch_size=4, enable_large_batch_splitting=True)
    )
    gate = Gate()
    bench.session.gates.append(gate)
    busy = bench.call(rows(0, 0, 0, 0))
    gate.block_until_entered()
    small = bench.queue(rows(1))
    large = bench.call(*[rows(*range(9))])
    while bench.stats.queued < 4:
        pass
    gate.open()
    busy.result(LIMIT_S)
    assert value_of(small) == [[2.0]]
    bench.clock.advance(1.0)
    assert value_of(large) == [[2.0 * n] for n in range(9)]
    assert bench.session.batches == [4, 4, 4, 2]


def test_a_request_above_the_capacity_is_refused_with_splitting(make_bench: MakeBench) -> None:
    bench = make_bench(
        strict(
            max_batch_size=10,
            max_execution_batch_size=2,
            enable_large_batch_splitting=True,
            max_enqueued_batches=2,
        )
    )
    with pytest.raises(UnavailableError, match="task size is 5 but scheduling capacity is only 4"):
        bench.runner.run([rows(*range(5))])


def test_splitting_without_any_size_refuses_everything(make_bench: MakeBench) -> None:
    bench = make_bench(strict(enable_large_batch_splitting=True, max_execution_batch_size=0))
    with pytest.raises(UnavailableError, match="scheduling capacity is only 0"):
        bench.runner.run([rows(1)])


def test_submitted_requests_join_batches(make_bench: MakeBench) -> None:
    bench = make_bench(strict(max_batch_size=2))
    outcome: Future[Any] = Future()
    bench.runner.submit([rows(1)], None, outcome.set_result)
    assert value_of(bench.call(rows(2))) == [[4.0]]
    assert outcome.result(LIMIT_S)[0].tolist() == [[2.0]]
    assert bench.session.batches == [2]


def test_stopping_refuses_what_waits_and_what_comes(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    future = bench.queue(rows(1))
    assert bench.scheduler.stop(LIMIT_S)
    assert isinstance(error_of(future), UnavailableError)
    with pytest.raises(UnavailableError, match="stopping"):
        bench.runner.run([rows(1)])


def test_closing_runs_what_waits_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    future = bench.queue(rows(1))
    bench.model.close()
    assert value_of(future) == [[2.0]]
    assert bench.session.is_closed
    with pytest.raises(FailedPreconditionError, match="closed"):
        bench.runner.run([rows(1)])


def test_warm_up_waits_for_nobody(make_bench: MakeBench) -> None:
    bench = make_bench(strict())
    assert bench.runner.would_wait()
    with bench.model.unbatched():
        assert not bench.runner.would_wait()
        assert bench.runner.run([rows(1)])[0].tolist() == [[2.0]]
    future = bench.queue(rows(2))
    assert not future.done()
    bench.clock.advance(1.0)
    assert value_of(future) == [[4.0]]
