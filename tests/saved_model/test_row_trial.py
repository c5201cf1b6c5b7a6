from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InternalError
from inserve.saved_model.row_trial import MOST_ROWS, most_rows_alike, trial_rows
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.tensors.dtypes import DataType
from inserve.testing import ManualClock

Arrays = Sequence[NDArray[Any]]
ROWS = [np.arange(40, dtype=np.float32).reshape(40, 1) * [[1.0, 2.0, 3.0]]]


def signature(
    data_type: int = DataType.DT_FLOAT, shape: tuple[int | None, ...] | None = (None, 3)
) -> Signature:
    return Signature("s", "", [TensorSpec("x", "x:0", data_type, shape)], [])


def sums(arrays: Arrays) -> list[NDArray[Any]]:
    return [arrays[0].sum(axis=1)]


def most(run: Callable[[Arrays], list[NDArray[Any]]], budget_s: float = 1e9) -> int:
    return most_rows_alike(run, ROWS, budget_s)


def test_rows_that_are_alike_in_any_company_are_so_up_to_the_most_that_is_tried() -> None:
    assert most(sums) == MOST_ROWS


@pytest.mark.parametrize(("changes_from", "expected"), [(2, 0), (3, 2), (16, 15)])
def test_the_last_number_before_bits_change_counts(changes_from: int, expected: int) -> None:
    def run(arrays: Arrays) -> list[NDArray[Any]]:
        (outputs,) = sums(arrays)
        if len(outputs) >= changes_from:
            outputs[-1] = np.nextafter(outputs[-1], np.float32(1e9))
        return [outputs]

    assert most(run) == expected


def test_every_output_counts() -> None:
    assert most(lambda arrays: [*sums(arrays), np.full(len(arrays[0]), len(arrays[0]))]) == 0


def test_the_sign_of_zero_and_the_bits_of_no_number_count() -> None:
    def run_with(odd: float) -> Callable[[Arrays], list[NDArray[Any]]]:
        return lambda arrays: [np.full(len(arrays[0]), 0.0 if len(arrays[0]) == 1 else odd, np.float32)]

    assert most(run_with(-0.0)) == 0
    assert most(run_with(0.0)) == MOST_ROWS
    payload = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert most(lambda arrays: [np.repeat(payload[:1], len(arrays[0]))]) == MOST_ROWS
    assert most(lambda arrays: [np.repeat(payload[int(len(arrays[0]) > 1)], len(arrays[0]))]) == 0


def test_strings_are_compared_by_what_they_say() -> None:
    def run(arrays: Arrays) -> list[NDArray[Any]]:
        return [np.array([b"%d" % value for value in arrays[0][:, 0]], object)]

    assert most(run) == MOST_ROWS
    assert most(lambda arrays: [np.array([b"%d" % len(arrays[0])] * len(arrays[0]), object)]) == 0


def test_a_run_that_fails_ends_the_trial() -> None:
    def run(arrays: Arrays) -> list[NDArray[Any]]:
        if len(arrays[0]) > 5:
            raise InternalError("it fails")
        return sums(arrays)

    assert most(run) == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_outputs_without_rows_are_not_alike(rows: int) -> None:
    def run(arrays: Arrays) -> list[NDArray[Any]]:
        return [np.zeros(7)] if len(arrays[0]) == rows else sums(arrays)

    assert most(run) == 0


def test_when_the_time_is_up_what_was_tried_holds() -> None:
    clock = ManualClock()

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        clock.advance(1.0)
        return sums(arrays)

    # 40 runs alone, then 8 for each number of rows.
    assert most_rows_alike(run, ROWS, 39.5, clock.now) == 0
    assert most_rows_alike(run, ROWS, 60.0, clock.now) == 3


def test_made_up_rows_have_the_sizes_and_the_type_of_the_input() -> None:
    rows = trial_rows(signature(shape=(None, 2, 3)))
    assert rows is not None
    assert (rows[0].shape[1:], rows[0].dtype.name) == ((2, 3), "float32")
    assert len(rows[0]) >= MOST_ROWS


def test_made_up_rows_hold_what_kernels_may_treat_in_another_way() -> None:
    rows = trial_rows(signature())
    assert rows is not None
    values = rows[0]
    assert np.isnan(values).any()
    assert np.isposinf(values).any()
    assert np.isneginf(values).any()
    assert ((values == 0) & np.signbit(values)).any()
    assert ((np.abs(values) > 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any()
    assert np.isfinite(values).all(axis=1).sum() >= MOST_ROWS


def test_pixels_are_any_of_256() -> None:
    rows = trial_rows(signature(DataType.DT_UINT8, (None, 100)))
    assert rows is not None
    assert (rows[0].dtype.name, len(np.unique(rows[0]))) == ("uint8", 256)


@pytest.mark.parametrize(
    "unknown",
    [
        signature(DataType.DT_INT32),
        signature(DataType.DT_STRING),
        signature(shape=(None, None)),
        signature(shape=None),
        signature(shape=()),
        signature(shape=(None, 1 << 20)),
        Signature("s", "", [], []),
    ],
)
def test_of_other_inputs_none_are_made_up(unknown: Signature) -> None:
    assert trial_rows(unknown) is None
