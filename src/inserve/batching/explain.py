"""Says in words what batching did for a model, and what to change."""

from __future__ import annotations

from inserve.batching.options import BatchingOptions
from inserve.batching.statistics import BatchingStatistics, CloseReason, QueueStatistics

__all__ = ["explain_batching"]

_FEW_RUNS = 50
_MANY = 0.2
"""A share from which something is worth a remark."""

_REASONS = {
    CloseReason.FULL: "were full",
    CloseReason.NO_FIT: "closed because the next request did not fit",
    CloseReason.SLOT_FREE: "took all that waited when a slot was free",
    CloseReason.SHARED: "left other slots their share",
    CloseReason.TIMEOUT: "had waited for batch_timeout_micros",
    CloseReason.SHAPES: "left requests of other shapes behind",
    CloseReason.ALONE: "were a request that runs alone",
    CloseReason.CLOSING: "closed because the model was being unloaded",
}


def explain_batching(statistics: BatchingStatistics, options: BatchingOptions) -> str:
    """Return how full the batches of a model were, why they closed, what waiting cost, what to change.

    *statistics* were counted under *options*. One paragraph for each queue that was used.
    """
    lines = [
        f"{statistics.path}: at most {statistics.num_slots} "
        f"{'batch' if statistics.num_slots == 1 else 'batches'} at a time."
    ]
    used = [queue for queue in statistics.queues if queue.runs or queue.refused or queue.queued]
    if not used:
        lines.append("No request was run yet.")
    for queue in used:
        lines.append("")
        lines.append(f"{', '.join(queue.inputs)} -> {', '.join(queue.outputs)}")
        lines += [f"  {line}" for line in _facts(queue, options)]
        lines += [f"  * {line}" for line in _advice(queue, options)]
    return "\n".join(lines)


def _facts(queue: QueueStatistics, options: BatchingOptions) -> list[str]:
    lines = [
        f"{_count(queue.requests, 'request')} in {_count(queue.runs, 'run')}, {queue.mean_rows:.1f} rows "
        f"each on average; the largest batch may have {queue.batch_limit}."
    ]
    if queue.direct_runs:
        lines.append(
            f"{_percent(queue.direct_runs, queue.requests)} of the requests found a slot free, ran at once."
        )
    if queue.runs_by_size:
        sizes = ", ".join(f"{_up_to(size)}: {count}" for size, count in sorted(queue.runs_by_size.items()))
        lines.append(f"Runs by rows: {sizes}.")
    if queue.batches:
        by_count = sorted(queue.close_reasons.items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{_percent(n, queue.batches)} {_REASONS[reason]}" for reason, n in by_count)
        lines.append(f"Of {_count(queue.batches, 'batch')}, {reasons}.")
        mean_ms = queue.waited_s / max(1, queue.batched_requests) * 1e3
        lines.append(
            f"Requests in batches waited {mean_ms:.2f} ms on average, half of them at most "
            f"{queue.wait_p50_s * 1e3:.2f} ms, 99 % at most {queue.wait_p99_s * 1e3:.2f} ms."
        )
    if queue.seconds_by_size:
        costs = ", ".join(f"{_up_to(n)}: {s * 1e3:.2f} ms" for n, s in queue.seconds_by_size.items())
        lines.append(f"What a batch took, by rows: {costs}.")
    if queue.measured:
        rates = ", ".join(f"{limit}: {rate:.0f}" for limit, rate in queue.measured)
        lines.append(f"Rows per second of one slot, by the largest batch allowed: {rates}.")
    if queue.padding_rows:
        share = _percent(queue.padding_rows, queue.padding_rows + queue.rows)
        lines.append(f"{share} of the rows that were run were padding.")
    for number, what in (
        (queue.refused, "refused because the queue was full"),
        (queue.expired, "too late: their deadline passed while they waited"),
        (queue.cancelled, "given up while they waited"),
    ):
        if number:
            lines.append(f"{_count(number, 'request')} {'was' if number == 1 else 'were'} {what}.")
    if queue.failed_batches:
        after = (
            "every request of it got the error" if options.strict else "its requests were run again, alone"
        )
        lines.append(f"{_count(queue.failed_batches, 'batch')} failed as a whole; {after}.")
    if queue.not_batching is not None:
        lines.append(f"Requests are not merged: {queue.not_batching}.")
    return lines


def _advice(queue: QueueStatistics, options: BatchingOptions) -> list[str]:
    if queue.not_batching is not None:
        return ["Nothing to tune. Switch batching off for this model, or leave it: it costs nothing."]
    if queue.runs < _FEW_RUNS:
        return [f"Too few runs ({queue.runs}) to advise on; ask again after {_FEW_RUNS}."]
    lines = []
    reasons = queue.close_reasons
    batches = max(1, queue.batches)
    mean_wait_s = queue.waited_s / max(1, queue.batched_requests)
    typical_run_s = _typical_run_s(queue)
    limited = reasons.get(CloseReason.FULL, 0) + reasons.get(CloseReason.NO_FIT, 0)
    if queue.direct_runs >= (1 - _MANY) * queue.requests:
        lines.append(
            "Requests seldom meet, so there is little to merge. More callers at once would change that."
        )
    if limited > _MANY * batches and _gains_from_more_rows(queue) and not options.measure_sizes:
        lines.append(
            f"{_percent(limited, batches)} of the batches had no room for more, and larger ones bring more "
            f"rows per second: try max_batch_size={2 * options.max_batch_size}."
        )
    if queue.refused:
        lines.append(
            f"Raise max_enqueued_batches (now {options.max_enqueued_batches}), or send less at once."
        )
    if options.strict and reasons.get(CloseReason.TIMEOUT, 0) > _MANY * batches:
        if queue.mean_rows < 1.5:
            lines.append(
                "Waiting brought hardly any company: batch_timeout_micros=0 saves "
                f"{min(mean_wait_s, options.batch_timeout_micros * 1e-6) * 1e3:.2f} ms a request."
            )
        elif typical_run_s is not None and options.batch_timeout_micros * 1e-6 > typical_run_s:
            lines.append(
                f"batch_timeout_micros is longer than a run ({typical_run_s * 1e3:.2f} ms); a smaller one "
                "costs little throughput."
            )
    if reasons.get(CloseReason.SHAPES, 0) > _MANY * batches:
        lines.append(
            "Requests of different shapes cannot share a batch: send equal shapes, or try "
            "pad_variable_length_inputs=True if the model's results stand padding."
        )
    if queue.padding_rows > _MANY * (queue.rows + queue.padding_rows):
        lines.append("Much is padding: add smaller sizes to allowed_batch_sizes, or leave it empty.")
    if queue.failed_batches > _MANY * batches:
        lines.append("Many batches fail over single requests: find out which, their errors name the reason.")
    if typical_run_s is not None and mean_wait_s > 2 * typical_run_s and queue.batched_requests:
        lines.append(
            f"Requests wait longer ({mean_wait_s * 1e3:.2f} ms) than a run takes "
            f"({typical_run_s * 1e3:.2f} ms): the machine is at its limit, or num_batch_threads is too small."
        )
    return lines or ["Nothing to change."]


def _typical_run_s(queue: QueueStatistics) -> float | None:
    """Return what a batch of average size takes, from the nearest size that was timed."""
    if not queue.seconds_by_size:
        return None
    size = min(queue.seconds_by_size, key=lambda size: abs(size - queue.mean_rows))
    return queue.seconds_by_size[size]


def _gains_from_more_rows(queue: QueueStatistics) -> bool:
    """Return whether rows per second still grew by a twentieth at the largest sizes that were timed."""
    rates = [size / seconds for size, seconds in sorted(queue.seconds_by_size.items()) if seconds > 0]
    return len(rates) < 2 or rates[-1] >= 1.05 * rates[-2]


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"


def _up_to(size: int) -> str:
    return str(size) if size <= 2 else f"{size // 2 + 1}-{size}"


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 1 or not part else "under 1 %"
