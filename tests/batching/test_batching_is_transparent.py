"""Whatever is batched with whatever, each request is answered as if it had come alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.batching.bench import LIMIT_S, Bench

from inserve.batching.options import BatchingOptions
from inserve.clock import SystemClock
from inserve.errors import DeadlineExceededError, InserveError, InvalidArgumentError

POISON = 99
DTYPES = (np.int32, np.int64, np.float32)


@dataclass(frozen=True)
class Request:
    values: NDArray[Any]
    timeout_s: float | None


def first_of_row(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return something of each row that padding does not touch; fail over one that is poison."""
    x = inputs["x"]
    if (x == POISON).any():
        raise InvalidArgumentError("poison")
    return {"y": x[:, 0] * 2, "count": np.ones(len(x), np.int8)}


def alone(request: Request, passed_s: float) -> Any:
    """Return what *request* is answered with when it does not meet others but waits *passed_s*."""
    if request.timeout_s is not None and request.timeout_s <= passed_s:
        return DeadlineExceededError
    try:
        outputs = first_of_row({"x": request.values})
    except InserveError as error:
        return type(error)
    return [(output.dtype, output.tolist()) for output in (outputs["count"], outputs["y"])]


def answer(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        return type(outcome)
    return [(output.dtype, output.tolist()) for output in outcome]


@st.composite
def requests(draw: st.DrawFn, with_poison: bool, with_deadlines: bool, dtypes: Any = DTYPES) -> Request:
    shape = (draw(st.integers(0, 6)), draw(st.integers(1, 3)))
    values = draw(st.lists(st.integers(0, 40), min_size=18, max_size=18))
    array = np.array(values[: shape[0] * shape[1]], draw(st.sampled_from(dtypes))).reshape(shape)
    if with_poison and array.size and draw(st.integers(0, 4)) == 0:
        array[0, -1] = POISON
    timeout_s = draw(st.sampled_from([None, 1.0, 5.0])) if with_deadlines else None
    return Request(array, timeout_s)


@st.composite
def any_options(draw: st.DrawFn) -> BatchingOptions:
    most = draw(st.integers(6, 12))
    splits = draw(st.booleans())
    return BatchingOptions(
        max_batch_size=most,
        max_enqueued_batches=1000,
        num_batch_threads=draw(st.integers(1, 2)),
        allowed_batch_sizes=draw(st.sampled_from([(), (2, 5, most)])),
        pad_variable_length_inputs=draw(st.booleans()),
        enable_large_batch_splitting=splits,
        max_execution_batch_size=draw(st.integers(1, 6)) if splits else None,
    )


def outcomes_of(bench: Bench, sent: list[Request], passed_s: float) -> list[Any]:
    """Queue *sent* behind a run that takes *passed_s*, and return what each is answered with."""
    outcomes: list[Any] = [None] * len(sent)
    missing = threading.Semaphore(0)

    def note(index: int) -> Any:
        def done(outcome: Any) -> None:
            outcomes[index] = outcome
            missing.release()

        return done

    with bench.busy(), bench.busy() if bench.model.session.num_slots == 2 else bench.idle():
        for index, request in enumerate(sent):
            bench.runner.submit([request.values], request.timeout_s, note(index))
        bench.clock.advance(passed_s)
    for _ in sent:
        assert missing.acquire(timeout=LIMIT_S)
    return outcomes


@settings(deadline=None, max_examples=60)
@given(any_options(), st.lists(requests(with_poison=True, with_deadlines=True), max_size=12))
def test_the_library_answers_each_request_as_if_alone(options: BatchingOptions, sent: list[Request]) -> None:
    bench = Bench(options, first_of_row, fetches=("count", "y"))
    try:
        outcomes = outcomes_of(bench, sent, 2.0)
    finally:
        bench.stop()
    assert [answer(outcome) for outcome in outcomes] == [alone(request, 2.0) for request in sent]
    assert max(bench.session.batches, default=0) <= options.max_batch_size


@settings(deadline=None, max_examples=60)
@given(
    any_options(),
    st.lists(requests(with_poison=False, with_deadlines=False, dtypes=(np.int32,)), max_size=12),
)
def test_strict_answers_good_requests_as_if_alone(options: BatchingOptions, sent: list[Request]) -> None:
    changes = {"strict": True, "pad_variable_length_inputs": True}
    bench = Bench(BatchingOptions(**{**vars(options), **changes}), first_of_row, fetches=("count", "y"))
    try:
        outcomes = outcomes_of(bench, sent, 0.0)
    finally:
        bench.stop()
    assert [answer(outcome) for outcome in outcomes] == [alone(request, 0.0) for request in sent]


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_of_64_callers_gets_its_own_answers(is_strict: bool, threads: int) -> None:
    options = BatchingOptions(
        max_batch_size=16, max_enqueued_batches=1000, num_batch_threads=threads, strict=is_strict
    )
    bench = Bench(options, first_of_row, fetches=("y",), clock=SystemClock())

    def ask(caller: int) -> list[tuple[Any, Any]]:
        pairs = []
        for number in range(20):
            values = np.array([[caller, number], [number + 1, 0]], np.int64) + 1000
            pairs.append((bench.runner.run([values], 20.0)[0].tolist(), (values[:, 0] * 2).tolist()))
        return pairs

    with ThreadPoolExecutor(64) as callers:
        answers = [pair for pairs in callers.map(ask, range(64)) for pair in pairs]
    stats = bench.stats
    bench.stop()
    assert len(answers) == 64 * 20
    assert [got for got, _ in answers] == [expected for _, expected in answers]
    assert (stats.requests, stats.rows, stats.queued) == (64 * 20, 2 * 64 * 20, 0)
