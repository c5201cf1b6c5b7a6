"""Batching in the library's way: slots, leaders, retries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.batching.bench import LIMIT_S, Bench, rows, value_of

from inserve.batching import slot_queue
from inserve.batching.options import BatchingOptions
from inserve.batching.statistics import CloseReason
from inserve.clock import SystemClock
from inserve.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    UnavailableError,
)
from inserve.tensorflow_c.interface import Executor
from inserve.testing import Gate

MakeBench = Callable[..., Bench]


def one_slot(**changes: Any) -> BatchingOptions:
    return BatchingOptions(num_batch_threads=1, **changes)


def refuse_negative(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if (inputs["x"] < 0).any():
        raise InvalidArgumentError("negative")
    return {"y": inputs["x"] * 2}


class Outcomes:
    """Collects what ``submit`` reports."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._arrived = threading.Semaphore(0)

    def __call__(self, outcome: list[NDArray[Any]] | InserveError) -> None:
        self.values.append(outcome if isinstance(outcome, InserveError) else outcome[0].tolist())
        self._arrived.release()

    def wait(self, count: int) -> list[Any]:
        for _ in range(count):
            assert self._arrived.acquire(timeout=LIMIT_S)
        return self.values


def test_a_lone_request_runs_at_once_on_its_own_thread_as_it_asked(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(batch_timeout_micros=10**9))
    assert bench.runner.run([rows(3)], 0.25, Executor.CALLING_THREAD)[0].tolist() == [[6.0]]
    assert bench.session.calls == [(0.25, Executor.CALLING_THREAD, threading.current_thread().name)]


def test_requests_that_come_while_every_slot_is_busy_share_a_batch(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2, 3)), bench.queue(rows(4))]
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0], [6.0]], [[8.0]]]
    assert bench.session.batches == [1, 4]


def test_with_several_slots_as_many_runs_are_in_progress(make_bench: MakeBench) -> None:
    bench = make_bench(BatchingOptions(num_batch_threads=2))
    with bench.busy(), bench.busy():
        future = bench.queue(rows(1))
        assert bench.session.batches == [1, 1]
    assert value_of(future) == [[2.0]]


def test_a_batch_runs_on_the_thread_of_one_of_its_callers(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
    for future in futures:
        future.result(LIMIT_S)
    assert bench.session.calls[1][2].startswith("caller")


def test_a_batch_holds_at_most_its_limit_and_keeps_the_order(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(max_batch_size=4))
    with bench.busy():
        futures = [
            bench.queue(rows(1, 1)),
            bench.queue(rows(2, 2)),
            bench.queue(rows(3, 3, 3)),
            bench.queue(rows(4, 4)),
        ]
    for future in futures:
        future.result(LIMIT_S)
    assert bench.session.batches == [1, 4, 3, 2]
    assert bench.stats.close_reasons == {
        CloseReason.FULL: 1,
        CloseReason.NO_FIT: 1,
        CloseReason.SLOT_FREE: 1,
    }


def test_requests_of_other_shapes_go_into_other_batches(make_bench: MakeBench) -> None:
    bench = make_bench()
    wide = np.ones((1, 2), np.float32)
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(wide), bench.queue(rows(2)), bench.queue(wide)]
    assert [value_of(future) for future in futures] == [[[2.0]], [[2.0, 2.0]], [[4.0]], [[2.0, 2.0]]]
    assert bench.session.batches == [1, 2, 2]
    assert bench.stats.close_reasons[CloseReason.SHAPES] == 1


def test_requests_of_other_lengths_are_padded_where_that_is_asked_for(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(pad_variable_length_inputs=True))
    with bench.busy():
        futures = [bench.queue(np.array([[7]], np.float32)), bench.queue(np.array([[1, 2]], np.float32))]
    assert [value_of(future) for future in futures] == [[[14.0, 14.0]], [[2.0, 4.0]]]


def test_a_bad_request_does_not_fail_its_neighbours(make_bench: MakeBench) -> None:
    bench = make_bench(function=refuse_negative)
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(-1)), bench.queue(rows(2))]
    assert value_of(futures[0]) == [[2.0]]
    assert value_of(futures[2]) == [[4.0]]
    with pytest.raises(InvalidArgumentError, match="negative"):
        futures[1].result(LIMIT_S)
    assert bench.session.batches == [1, 3, 1, 1, 1]
    assert bench.stats.failed_batches == 1


def test_an_error_of_a_batch_that_is_no_error_of_inserve_is_treated_alike(make_bench: MakeBench) -> None:
    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 1:
            raise MemoryError
        return {"y": inputs["x"]}

    bench = make_bench(function=fail)
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
    assert [value_of(future) for future in futures] == [[[1.0]], [[2.0]]]


def test_a_model_whose_outputs_have_no_rows_runs_by_itself_from_then_on(make_bench: MakeBench) -> None:
    bench = make_bench(function=lambda inputs: {"y": inputs["x"].sum()})
    with bench.busy():
        futures = [bench.queue(rows(1, 2)), bench.queue(rows(3))]
    assert [value_of(future) for future in futures] == [3.0, 3.0]
    assert (
        bench.stats.not_batching == "its outputs cannot be shared out: Batched output tensor has 0 dimensions"
    )
    with bench.busy(), bench.busy():
        assert bench.runner.run([rows(5)])[0].tolist() == 5.0


def test_a_request_that_expires_while_it_waits_never_runs(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        early, late = bench.queue(rows(1), timeout_s=1.0), bench.queue(rows(2), timeout_s=9.0)
        bench.clock.block_until_waiting(2)
        bench.clock.advance(2.0)
        with pytest.raises(DeadlineExceededError, match="waited for its batch"):
            early.result(LIMIT_S)
    assert value_of(late) == [[4.0]]
    assert bench.session.batches == [1, 1]
    assert (bench.stats.expired, bench.stats.queued) == (1, 0)


def test_a_batch_may_run_until_the_last_of_its_deadlines(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        futures = [bench.queue(rows(1), timeout_s=3.0), bench.queue(rows(2), timeout_s=7.0)]
        bench.clock.block_until_waiting(2)
        bench.clock.advance(1.0)
    for future in futures:
        future.result(LIMIT_S)
    assert bench.session.calls[1][0] == 6.0


def test_nobody_waits_for_a_batch_beyond_his_deadline(make_bench: MakeBench) -> None:
    bench = make_bench()
    gate = Gate()
    with bench.busy():
        bench.session.gates.append(gate)
        early, late = bench.queue(rows(1), timeout_s=3.0), bench.queue(rows(2), timeout_s=70.0)
        bench.clock.block_until_waiting(2)
    gate.block_until_entered()
    bench.clock.advance(4.0)
    with pytest.raises(DeadlineExceededError):
        early.result(LIMIT_S)
    gate.open()
    assert value_of(late) == [[4.0]]


def test_a_deadline_that_ends_the_batch_ends_its_requests(make_bench: MakeBench) -> None:
    def time_out(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 1:
            raise DeadlineExceededError("Timed out")
        return double_of(inputs)

    def double_of(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"y": inputs["x"] * 2}

    bench = make_bench(function=time_out)
    with bench.busy():
        futures = [bench.queue(rows(1), timeout_s=5.0), bench.queue(rows(2), timeout_s=5.0)]
    for future in futures:
        with pytest.raises(DeadlineExceededError):
            future.result(LIMIT_S)
    assert bench.session.batches == [1, 2]


def test_a_request_without_rows_runs_at_once_and_alone(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        assert bench.runner.run([np.zeros((0, 1), np.float32)])[0].tolist() == []


@pytest.mark.parametrize(
    "arrays", [[np.array(1.0), np.array(2.0)], [rows(1, 2), rows(1)], [rows(1), np.array(2.0)]]
)
def test_inputs_without_common_rows_run_alone(make_bench: MakeBench, arrays: list[NDArray[Any]]) -> None:
    def ignore_b(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"y": inputs["a"]}

    bench = make_bench(function=ignore_b, feeds=("a", "b"))
    assert bench.runner.run(arrays)[0].tolist() == arrays[0].tolist()


def test_they_wait_for_a_slot_like_others(make_bench: MakeBench) -> None:
    bench = make_bench(function=lambda inputs: {"y": np.asarray(inputs["x"]) * 2})
    with bench.busy():
        futures = [bench.queue(np.array(1.0)), bench.queue(np.array(2.0)), bench.queue(rows(3))]
    assert [value_of(future) for future in futures] == [2.0, 4.0, [[6.0]]]
    assert sorted(bench.session.batches) == [-1, -1, 1, 1]


def test_a_request_above_the_largest_size_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(max_batch_size=2))
    with pytest.raises(InvalidArgumentError, match="Task size 3 is larger than maximum input batch size 2"):
        bench.runner.run([rows(1, 2, 3)])


def test_a_full_queue_refuses_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(max_batch_size=1, max_enqueued_batches=2))
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
        with pytest.raises(
            UnavailableError, match="currently 2 batches enqueued and max_enqueued_batches is 2"
        ):
            bench.runner.run([rows(3)])
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0]]]
    assert bench.stats.refused == 1


def test_batches_are_padded_to_an_allowed_size_and_cut_back(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(max_batch_size=4, allowed_batch_sizes=(2, 4)))
    assert bench.runner.run([rows(5)])[0].tolist() == [[10.0]]
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2, 3))]
    assert [value_of(future) for future in futures] == [[[2.0]], [[4.0], [6.0]]]
    assert bench.session.batches == [2, 2, 4]
    assert bench.stats.padding_rows == 3


def test_a_large_request_is_split_where_that_is_asked_for(make_bench: MakeBench) -> None:
    bench = make_bench(
        one_slot(max_batch_size=10, max_execution_batch_size=4, enable_large_batch_splitting=True)
    )
    assert bench.runner.run([rows(*range(9))])[0].ravel().tolist() == [2.0 * n for n in range(9)]
    assert bench.session.batches == [4, 4, 1]


def test_a_split_request_fails_with_the_error_of_a_part(make_bench: MakeBench) -> None:
    bench = make_bench(
        one_slot(max_batch_size=10, max_execution_batch_size=2, enable_large_batch_splitting=True),
        function=refuse_negative,
    )
    with pytest.raises(InvalidArgumentError, match="negative"):
        bench.runner.run([rows(1, 2, -1)])


def test_a_thread_that_must_stay_free_learns_whether_it_would_wait(make_bench: MakeBench) -> None:
    bench = make_bench()
    assert not bench.runner.would_wait()
    with bench.busy():
        assert bench.runner.would_wait()
    assert not bench.runner.would_wait()


def test_a_callback_that_fails_harms_nobody_else(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench()

    def fail(_: Any) -> None:
        raise RuntimeError("my mistake")

    with bench.busy():
        bench.runner.submit([rows(1)], None, fail)
        future = bench.queue(rows(2))
    assert value_of(future) == [[4.0]]
    assert "my mistake" in caplog.text


def test_a_submitted_request_is_told_of_its_outcome(make_bench: MakeBench) -> None:
    bench = make_bench(function=refuse_negative)
    outcomes = Outcomes()
    bench.runner.submit([rows(4)], None, outcomes)
    assert outcomes.wait(1) == [[[8.0]]]
    bench.runner.submit([rows(-4)], None, outcomes)
    assert isinstance(outcomes.wait(1)[1], InvalidArgumentError)


def test_submitted_requests_share_batches_with_calls(make_bench: MakeBench) -> None:
    bench = make_bench()
    outcomes = Outcomes()
    with bench.busy():
        bench.runner.submit([rows(1)], None, outcomes)
        future = bench.queue(rows(2))
        bench.runner.submit([rows(3)], None, outcomes)
    assert value_of(future) == [[4.0]]
    assert sorted(outcomes.wait(2)) == [[[2.0]], [[6.0]]]
    assert bench.session.batches == [1, 3]


def test_submitted_requests_run_on_named_threads_of_which_there_are_few(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(thread_pool_name="my_threads", max_batch_size=1, max_enqueued_batches=100))
    outcomes = Outcomes()
    for value in range(20):
        bench.runner.submit([rows(value)], None, outcomes)
    outcomes.wait(20)
    assert {thread for _, _, thread in bench.session.calls} == {"my_threads-0"}


def test_a_submitted_request_that_expired_never_runs(make_bench: MakeBench) -> None:
    bench = make_bench()
    outcomes = Outcomes()
    with bench.busy():
        bench.runner.submit([rows(1)], 1.0, outcomes)
        bench.clock.advance(2.0)
    assert isinstance(outcomes.wait(1)[0], DeadlineExceededError)
    assert bench.session.batches == [1]


def test_a_waiting_request_can_be_cancelled(make_bench: MakeBench) -> None:
    bench = make_bench()
    outcomes = Outcomes()
    with bench.busy():
        submitted = bench.runner.submit([rows(1)], None, outcomes)
        assert submitted.cancel()
        assert isinstance(outcomes.wait(1)[0], CancelledError)
        assert not submitted.cancel()
    assert bench.session.batches == [1]
    assert bench.stats.cancelled == 1


def test_a_refused_submission_is_told_so(make_bench: MakeBench) -> None:
    bench = make_bench(one_slot(max_batch_size=1))
    outcomes = Outcomes()
    assert not bench.runner.submit([rows(1, 2)], None, outcomes).cancel()
    assert isinstance(outcomes.wait(1)[0], InvalidArgumentError)


def test_stopping_refuses_what_waits_and_what_comes(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
        assert bench.scheduler.stop(LIMIT_S)
        for future in futures:
            with pytest.raises(UnavailableError, match="stopping"):
                future.result(LIMIT_S)
    with pytest.raises(UnavailableError, match="stopping"):
        bench.runner.run([rows(1)])


def test_closing_lets_waiting_requests_run_and_refuses_others(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.busy():
        future = bench.queue(rows(1))
        closing = threading.Thread(target=bench.model.close)
        closing.start()
        bench.clock.block_until_waiting(2)
        assert not bench.session.is_closed
        with pytest.raises(FailedPreconditionError, match="closed"):
            bench.runner.run([rows(2)])
    assert value_of(future) == [[2.0]]
    closing.join(LIMIT_S)
    assert bench.session.is_closed


def test_options_can_be_changed_while_requests_come(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.scheduler.set_options("/models/m/1", one_slot(max_batch_size=1))
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
    for future in futures:
        future.result(LIMIT_S)
    assert bench.session.batches == [1, 1, 1]


def test_an_interrupted_caller_leaves_the_queue(make_bench: MakeBench) -> None:
    class InterruptingClock(SystemClock):
        def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
            if threading.current_thread().name == "interrupted":
                raise KeyboardInterrupt
            return super().wait(event, timeout_s)

    bench = make_bench(clock=InterruptingClock())
    raised = threading.Event()

    def run() -> None:
        try:
            bench.runner.run([rows(1)])
        except KeyboardInterrupt:
            raised.set()

    with bench.busy():
        thread = threading.Thread(target=run, name="interrupted")
        thread.start()
        thread.join(LIMIT_S)
        assert raised.is_set()
        future = bench.queue(rows(2))
    assert value_of(future) == [[4.0]]
    assert bench.session.batches == [1, 1]


def test_the_callers_of_a_batch_are_waited_for_a_moment(make_bench: MakeBench) -> None:
    def take_a_second(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) == 3:
            bench.clock.advance(0.01)
        return {"y": inputs["x"] * 2}

    bench = make_bench(function=take_a_second)
    with bench.busy():
        futures = [bench.queue(rows(value)) for value in (1, 2, 3)]
    for future in futures:
        future.result(LIMIT_S)
    again = bench.call(rows(4))
    bench.clock.block_until_waiting(1)
    others = [bench.queue(rows(5)), bench.queue(rows(6))]
    assert [value_of(future) for future in (again, *others)] == [[[8.0]], [[10.0]], [[12.0]]]
    assert bench.session.batches == [1, 3, 3]


def test_callers_that_do_not_come_back_are_not_waited_for_long(make_bench: MakeBench) -> None:
    def take_a_second(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) == 2:
            bench.clock.advance(1.0)
        return {"y": inputs["x"] * 2}

    bench = make_bench(function=take_a_second)
    with bench.busy():
        futures = [bench.queue(rows(1)), bench.queue(rows(2))]
    for future in futures:
        future.result(LIMIT_S)
    again = bench.call(rows(3))
    bench.clock.block_until_waiting(1)
    bench.clock.advance(0.005)
    assert value_of(again) == [[6.0]]
    assert bench.runner.run([rows(4)])[0].tolist() == [[8.0]]
    assert bench.session.batches == [1, 2, 1, 1]


@pytest.fixture
def no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_queue, "_GATHER_SHARE", 0.0)


def rounds_of_eight(make_bench: MakeBench, number: int, seconds: Callable[[int], float]) -> Bench:
    """Have eight requests wait for two slots, *number* times; a batch of n rows takes ``seconds(n)``."""

    def take_time(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs["x"]) > 1:
            bench.clock.advance(seconds(len(inputs["x"])))
        return {"y": inputs["x"] * 2}

    bench = make_bench(BatchingOptions(num_batch_threads=2), function=take_time)
    for _ in range(number):
        with bench.busy():
            with bench.busy():
                futures = [bench.queue(rows(value)) for value in range(8)]
            wait(futures, LIMIT_S)
        assert [value_of(future) for future in futures] == [[[2.0 * value]] for value in range(8)]
        bench.clock.advance(1.0)
    return bench


def batches_of(bench: Bench) -> list[int]:
    return [size for size in bench.session.batches if size > 1]


@pytest.mark.usefixtures("no_gathering")
def test_once_long_runs_are_known_what_waits_is_shared_among_the_slots(make_bench: MakeBench) -> None:
    bench = rounds_of_eight(make_bench, 3, lambda size: 0.001 * (2 + size))
    assert batches_of(bench) == [8, 8, 4, 4]
    assert bench.stats.close_reasons[CloseReason.SHARED] == 1


@pytest.mark.usefixtures("no_gathering")
def test_short_runs_are_not_shared(make_bench: MakeBench) -> None:
    bench = rounds_of_eight(make_bench, 4, lambda size: 0.0001 * (2 + size))
    assert batches_of(bench) == [8] * 4


@pytest.mark.usefixtures("no_gathering")
def test_runs_are_not_shared_where_a_share_takes_as_long_as_the_whole(make_bench: MakeBench) -> None:
    bench = rounds_of_eight(make_bench, 5, lambda _: 0.01)
    assert batches_of(bench) == [8, 8, 4, 4, 8, 8]


@pytest.mark.usefixtures("no_gathering")
def test_what_was_not_shared_is_tried_again_some_time(make_bench: MakeBench) -> None:
    bench = rounds_of_eight(make_bench, 40, lambda _: 0.01)
    assert batches_of(bench)[:6] == [8, 8, 4, 4, 8, 8]
    assert batches_of(bench)[6:].count(4) == 1


def test_measured_sizes_limit_batches_and_never_requests(make_bench: MakeBench) -> None:
    bench = make_bench(BatchingOptions.auto(num_batch_threads=1))
    with bench.busy():
        futures = [bench.queue(rows(1, 2, 3)), bench.queue(rows(4))]
    assert [len(value_of(future)) for future in futures] == [3, 1]
    assert bench.session.batches == [1, 3, 1]
    assert bench.stats.batch_limit == 1


def test_a_model_that_gains_nothing_from_batches_is_left_alone(make_bench: MakeBench) -> None:
    def cost_by_row(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        bench.clock.advance(0.001 * len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    bench = make_bench(BatchingOptions.auto(num_batch_threads=1), function=cost_by_row)
    outcomes = Outcomes()
    for _ in range(60):
        with bench.busy():
            for value in range(8):
                bench.runner.submit([rows(value)], None, outcomes)
        outcomes.wait(8)
        bench.clock.advance(1.0)
        if bench.stats.not_batching is not None:
            break
    assert "bring less than 1.2 times" in bench.stats.not_batching
    assert [limit for limit, _ in bench.stats.measured] == [1, 2, 4]
    assert bench.runner.run([rows(4)])[0].tolist() == [[8.0]]
