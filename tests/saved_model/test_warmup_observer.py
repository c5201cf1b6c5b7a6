from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.saved_model.run_cost import RunCost
from inserve.saved_model.saved_model_servable import SignatureRun
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.saved_model.warmup_observer import WarmupObserver, generated_measured_inputs
from inserve.tensorflow_c.interface import Executor
from inserve.tensors.dtypes import DataType

SIGNATURE = Signature("s", "", [TensorSpec("x", "x:0", DataType.DT_FLOAT, (None,))], [])


class Echo:
    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        del timeout_s, executor
        return list(arrays)


def run_of(signature: Signature | None) -> SignatureRun:
    return SignatureRun(Echo(), ("y",), RunCost(), signature)


def zeros(rows: int) -> list[NDArray[Any]]:
    return [np.zeros(rows, np.float32)]


def test_the_two_most_frequent_sizes_of_a_signature_are_kept() -> None:
    observer = WarmupObserver()
    run = run_of(SIGNATURE)
    for rows, count in ((1, 2), (8, 1), (64, 3)):
        for _ in range(count):
            observer(run, zeros(rows), 0.5)
    assert [given.rows for given in observer.inputs([SIGNATURE])] == [64, 1]


def test_an_input_has_the_shortest_time_of_its_size() -> None:
    observer = WarmupObserver()
    for seconds in (0.5, 0.1, 0.3):
        observer(run_of(SIGNATURE), zeros(1), seconds)
    (given,) = observer.inputs([SIGNATURE])
    assert given.seconds == 0.1
    assert given.output_aliases == ("y",)


def test_inputs_of_other_signatures_and_of_tensors_by_name_are_not_told() -> None:
    observer = WarmupObserver()
    observer(run_of(SIGNATURE), zeros(1), 0.1)
    observer(run_of(None), zeros(2), 0.1)
    assert observer.inputs([]) == []
    assert observer.inputs([Signature("other", "", [], [])]) == []


def test_what_is_kept_does_not_change_with_the_request() -> None:
    observer = WarmupObserver()
    arrays = zeros(1)
    observer(run_of(SIGNATURE), arrays, 0.1)
    arrays[0][:] = 9
    assert observer.inputs([SIGNATURE])[0].arrays[0].tolist() == [0]


def test_a_run_tells_its_observer_until_it_is_told_otherwise() -> None:
    told: list[tuple[int, bool]] = []
    run = run_of(SIGNATURE)
    run.tell(lambda which, arrays, seconds: told.append((len(arrays[0]), which is run and seconds >= 0)))
    assert run.run(zeros(3))[0].tolist() == [0, 0, 0]
    run.tell(None)
    run.run(zeros(4))
    assert told == [(3, True)]


@pytest.mark.parametrize(("shape", "rows"), [((None,), [1, 32]), ((1,), [1])])
def test_generated_inputs_come_in_more_rows_where_these_are_free(
    shape: tuple[int | None, ...], rows: list[int]
) -> None:
    signature = Signature("s", "", [TensorSpec("x", "x:0", DataType.DT_FLOAT, shape)], [])
    found = generated_measured_inputs([(signature, zeros(1), 0.25)])
    assert [given.rows for given in found] == rows
    assert found[0].seconds == 0.25
