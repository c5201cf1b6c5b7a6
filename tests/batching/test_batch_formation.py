from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.batching.batch_formation import (
    check_capacity,
    check_request_size,
    check_room_for_batch,
    common_rows,
    is_due,
    part_sizes,
    request_rows,
    rows_to_run,
    seconds_until_due,
)
from inserve.errors import InvalidArgumentError, UnavailableError

SCALAR, TWO, THREE = np.array(1.0), np.zeros((2, 5)), np.zeros(3)


def test_the_rows_of_a_request_are_dimension_0_of_every_input() -> None:
    assert request_rows([TWO, np.zeros((2, 1, 7))]) == 2


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ([], "Batching Run() must have at least one input tensor"),
        ([TWO, SCALAR], "Batching Run() input tensors must have at least one dimension"),
        ([TWO, THREE], "Batching Run() input tensors must have equal 0th-dimension size"),
    ],
)
def test_inputs_without_common_rows_are_refused(arrays: list[NDArray[Any]], text: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        request_rows(arrays)
    assert error.value.message == text
    assert common_rows(arrays) is None


def test_a_request_above_the_largest_batch_is_refused() -> None:
    check_request_size(4, 4)
    with pytest.raises(InvalidArgumentError, match="Task size 5 is larger than maximum input batch size 4"):
        check_request_size(5, 4)


def test_the_open_batch_counts_as_enqueued() -> None:
    check_room_for_batch(1, 2)
    with pytest.raises(UnavailableError) as error:
        check_room_for_batch(1, 1)
    assert error.value.message == (
        "The batch scheduling queue to which this task was submitted is full; currently 1 batches enqueued "
        "and max_enqueued_batches is 1"
    )


def test_capacity_with_splitting_is_free_batches_and_the_rest_of_the_open_one() -> None:
    check_capacity(11, enqueued_batches=2, max_enqueued_batches=4, open_rows=1, execution_limit=4)
    with pytest.raises(UnavailableError) as error:
        check_capacity(12, enqueued_batches=2, max_enqueued_batches=4, open_rows=1, execution_limit=4)
    assert error.value.message == (
        "The batch scheduling queue to which this task was submitted is full; task size is 12 but scheduling "
        "capacity is only 11 (num_enqueued_batches=2, max_enqueued_batches=4, open_batch_size=1, "
        "max_execution_batch_size=4)"
    )


@pytest.mark.parametrize(
    ("rows", "open_rows", "parts"),
    [
        (4, 0, [4]),
        (2, 3, [1, 1]),
        (1, 4, [1]),
        (9, 1, [3, 4, 2]),
        (8, 4, [4, 4]),
        (3, 1, [3]),
        (5, 0, [4, 1]),
    ],
)
def test_a_request_is_split_only_where_the_open_batch_has_no_room(
    rows: int, open_rows: int, parts: list[int]
) -> None:
    assert part_sizes(rows, open_rows, 4) == parts


def test_a_batch_is_due_when_full_closed_or_old() -> None:
    def due(rows: int, now: float, closed: bool = False) -> bool:
        return is_due(rows, 10.0, now, 4, 500_000, closed)

    assert not due(3, 10.4)
    assert due(4, 10.0)
    assert due(3, 10.5)
    assert due(1, 10.0, closed=True)


def test_an_empty_batch_is_never_due() -> None:
    assert not is_due(0, 0.0, 99.0, 4, 0, True)


def test_waiting_ends_at_the_timeout_of_the_first_request() -> None:
    assert seconds_until_due(10.0, 10.1, 250_000) == pytest.approx(0.15)
    assert seconds_until_due(10.0, 11.0, 250_000) == 0.0


@pytest.mark.parametrize(
    ("rows", "allowed", "run"),
    [(3, (), 3), (1, (2, 4), 2), (2, (2, 4), 2), (3, (2, 4), 4), (5, (2, 4), 5), (1, (8, 2), 8)],
)
def test_rows_to_run_are_the_first_listed_size_that_holds_them(
    rows: int, allowed: tuple[int, ...], run: int
) -> None:
    assert rows_to_run(rows, allowed) == run
