from __future__ import annotations

from typing import Any

import pytest

from inserve.batching.options import (
    BatchingOptions,
    batching_options_from_message,
    check_queue_options,
    check_scheduler_options,
    default_slots,
)
from inserve.errors import InvalidArgumentError
from inserve.protos import messages


def parameters(**values: Any) -> messages.BatchingParameters:
    message = messages.BatchingParameters()
    for name, value in values.items():
        if name == "allowed_batch_sizes":
            message.allowed_batch_sizes.extend(value)
        elif name == "pad_variable_length_inputs":
            message.pad_variable_length_inputs = value
        else:
            field = getattr(message, name)
            field.value = value
    return message


def test_defaults_are_those_of_tensorflow_serving() -> None:
    options = batching_options_from_message(messages.BatchingParameters())
    assert options == BatchingOptions(
        max_batch_size=1000,
        batch_timeout_micros=0,
        max_enqueued_batches=10,
        thread_pool_name="batch_threads",
        strict=True,
    )
    assert options.num_threads >= 1


def test_slots_and_threads_of_runs_together_keep_all_processors_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [default_slots(threads) for threads in (0, 1, 2, 8, 16)] == [4, 8, 4, 1, 1]
    assert BatchingOptions(strict=True).num_threads == 8
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert [default_slots(threads) for threads in (0, 1, 2)] == [2, 2, 1]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    assert default_slots(0) == 1


def test_a_device_beside_processors_has_one_batch_in_work_and_one_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [default_slots(threads, 1) for threads in (0, 1, 16)] == [2, 2, 2]
    assert default_slots(0, 3) == 6


def test_every_field_of_the_message_is_taken() -> None:
    message = parameters(
        max_batch_size=8,
        batch_timeout_micros=50,
        max_enqueued_batches=4,
        num_batch_threads=3,
        thread_pool_name="pool",
        allowed_batch_sizes=[2, 8],
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
    )
    assert batching_options_from_message(message, strict=False) == BatchingOptions(
        8, 50, 4, 3, "pool", (2, 8), True, True, 4
    )


@pytest.mark.parametrize(("stated", "limit"), [({}, 0), ({"max_batch_size": 6}, 6)])
def test_splitting_without_execution_size_takes_the_stated_batch_size(
    stated: dict[str, int], limit: int
) -> None:
    message = parameters(enable_large_batch_splitting=True, **stated)
    assert batching_options_from_message(message).execution_limit == limit


def test_execution_size_counts_only_with_splitting() -> None:
    assert BatchingOptions(max_batch_size=9, max_execution_batch_size=3).execution_limit == 9


@pytest.mark.parametrize("threads", [0, -2])
def test_no_batch_thread_is_refused(threads: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^num_batch_threads must be positive; was {threads}$"):
        check_scheduler_options(BatchingOptions(num_batch_threads=threads))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        (
            {"max_enqueued_batches": 0, "enable_large_batch_splitting": True},
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            {"max_batch_size": 4, "max_execution_batch_size": 8, "enable_large_batch_splitting": True},
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal "
            "to max_execution_batch_size.148",
        ),
        (
            {"allowed_batch_sizes": (2, 4)},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 1000",
        ),
    ],
)
def test_contradicting_queue_options_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        check_queue_options(BatchingOptions(**values))
    assert error.value.message == text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_enqueued_batches": 0},
        {"max_batch_size": 4, "max_execution_batch_size": 8},
        {"max_batch_size": 4, "allowed_batch_sizes": (4, 2, 4)},
    ],
)
def test_what_tensorflow_serving_lets_through_is_let_through(values: dict[str, Any]) -> None:
    check_queue_options(BatchingOptions(**values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", "8"),
        ("max_batch_size", True),
        ("batch_timeout_micros", 1.5),
        ("num_batch_threads", "2"),
        ("thread_pool_name", b"pool"),
        ("strict", 1),
        ("allowed_batch_sizes", 4),
        ("allowed_batch_sizes", ("4",)),
        ("max_execution_batch_size", 2.0),
    ],
)
def test_a_wrong_python_type_is_a_value_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        BatchingOptions(**{name: value})


def test_auto_measures_sizes_and_takes_changes() -> None:
    assert BatchingOptions.auto(max_batch_size=64) == BatchingOptions(max_batch_size=64, measure_sizes=True)


def test_strict_cannot_measure_sizes() -> None:
    with pytest.raises(ValueError, match="strict or measure_sizes"):
        BatchingOptions.auto(strict=True)
