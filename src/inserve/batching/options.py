"""How requests are merged into batches; immutable and checked when built.

Fields, defaults and rules: TensorFlow Serving, ``session_bundle_config.proto`` and
``batching/batching_session.h``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

__all__ = ["BatchingOptions"]


def _num_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


@dataclass(frozen=True)
class BatchingOptions:
    """Batching of the requests of one model; sizes are rows (dimension 0 of every input)."""

    max_batch_size: int = 1000
    """The largest request, and without splitting also the largest batch."""
    batch_timeout_micros: int = 0
    """The longest that a batch which is not full stays open for company."""
    max_enqueued_batches: int = 10
    """How many batches one queue holds, the open one included; what does not fit is refused."""
    num_batch_threads: int = field(default_factory=_num_cpus)
    """How many batches run at the same time, over all models of a server."""
    thread_pool_name: str = "batch_threads"
    """How the threads are called."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """Batches are padded up to the next of these, increasing sizes; empty: any size will do."""
    pad_variable_length_inputs: bool = False
    """Pad inputs of one name to a common shape, each with its own first element."""
    enable_large_batch_splitting: bool = False
    """Spread a request over several batches where it does not fit into one."""
    max_execution_batch_size: int | None = None
    """The largest batch that is run where requests are split; None: *max_batch_size*."""
