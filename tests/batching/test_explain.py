from __future__ import annotations

import re
from typing import Any

import pytest

from inserve.batching.explain import explain_batching
from inserve.batching.options import BatchingOptions
from inserve.batching.statistics import BatchingStatistics, CloseReason, QueueStatistics

BUSY: dict[str, Any] = {
    "inputs": ("x:0",),
    "outputs": ("y:0",),
    "batches": 100,
    "batched_requests": 800,
    "rows": 800,
    "runs_by_size": {8: 100},
    "seconds_by_size": {4: 0.010, 8: 0.012},
    "close_reasons": {CloseReason.SLOT_FREE: 100},
    "waited_s": 4.0,
    "wait_p50_s": 0.004,
    "wait_p99_s": 0.016,
    "batch_limit": 1000,
}


def explain(options: BatchingOptions | None = None, **changes: Any) -> str:
    queue = QueueStatistics(**{**BUSY, **changes})
    return explain_batching(
        BatchingStatistics("/models/m/1", (queue,), 2), BatchingOptions() if options is None else options
    )


def test_nothing_run_is_said() -> None:
    assert "No request was run yet." in explain_batching(BatchingStatistics("/m/1", (), 1), BatchingOptions())


def test_fill_waits_and_reasons_are_told_in_numbers() -> None:
    text = explain(direct_runs=200, rows=1000)
    assert "1000 requests in 300 runs, 3.3 rows each on average" in text
    assert "20 % of the requests found a slot free" in text
    assert "100 % took all that waited when a slot was free" in text
    assert "waited 5.00 ms on average, half of them at most 4.00 ms, 99 % at most 16.00 ms" in text
    assert "5-8: 12.00 ms" in text


@pytest.mark.parametrize("reason", CloseReason)
def test_every_reason_has_words(reason: CloseReason) -> None:
    assert re.search(r"Of \d+ batches, 100 % \w+ ", explain(close_reasons={reason: 100}, batches=100))


@pytest.mark.parametrize(
    ("options", "changes", "advice"),
    [
        ({}, {"close_reasons": {CloseReason.FULL: 90}}, "try max_batch_size=2000"),
        ({}, {"refused": 5}, "Raise max_enqueued_batches (now 10)"),
        ({}, {"close_reasons": {CloseReason.SHAPES: 50}}, "pad_variable_length_inputs=True"),
        ({}, {"padding_rows": 800}, "allowed_batch_sizes"),
        ({}, {"failed_batches": 40}, "fail over single requests"),
        ({}, {"waited_s": 80.0}, "num_batch_threads is too small"),
        ({}, {"direct_runs": 9000}, "seldom meet"),
        ({}, {"not_batching": "because"}, "Nothing to tune"),
        ({}, {"batches": 3}, "Too few runs (3)"),
        ({}, {}, "Nothing to change."),
        (
            {"strict": True, "batch_timeout_micros": 5000},
            {"close_reasons": {CloseReason.TIMEOUT: 100}, "rows": 100},
            "batch_timeout_micros=0 saves 5.00 ms",
        ),
        (
            {"strict": True, "batch_timeout_micros": 50_000},
            {"close_reasons": {CloseReason.TIMEOUT: 100}},
            "longer than a run (12.00 ms)",
        ),
    ],
)
def test_advice_follows_from_the_counts(
    options: dict[str, Any], changes: dict[str, Any], advice: str
) -> None:
    assert advice in explain(BatchingOptions(**options), **changes)


def test_larger_batches_are_not_advised_where_they_bring_nothing() -> None:
    text = explain(close_reasons={CloseReason.FULL: 90}, seconds_by_size={4: 0.010, 8: 0.020})
    assert "try max_batch_size" not in text


def test_measured_sizes_are_told() -> None:
    assert "by the largest batch allowed: 1: 80, 2: 120" in explain(measured=((1, 80.0), (2, 120.0)))


def test_losses_are_told() -> None:
    text = explain(expired=1, cancelled=2)
    assert "1 request was too late" in text
    assert "2 requests were given up" in text
