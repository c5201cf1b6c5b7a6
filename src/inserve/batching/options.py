"""How requests are merged into batches; immutable, and checked where TensorFlow Serving checks.

Fields, defaults, rules and texts: TensorFlow Serving, ``session_bundle_config.proto``,
``servables/tensorflow/bundle_factory_util.cc`` and ``batching/batching_session.h``; TensorFlow,
``kernels/batching_util/shared_batch_scheduler.h``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from inserve.errors import InvalidArgumentError
from inserve.protos import messages

__all__ = [
    "BatchingOptions",
    "batching_options_from_message",
    "check_queue_options",
    "check_scheduler_options",
    "default_slots",
]


def _num_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


@dataclass(frozen=True)
class BatchingOptions:
    """Batching of the requests of one model; sizes are rows (dimension 0 of every input).

    Values out of range are found by ``check_scheduler_options`` and ``check_queue_options``, when a
    server is made and when a model loads.

    Raises:
        ValueError: A value has the wrong Python type, or *strict* and *measure_sizes* are both set.
    """

    max_batch_size: int = 1000
    """The largest request, and without splitting also the largest batch."""
    batch_timeout_micros: int = 0
    """The longest that a batch which is not full stays open for company; only where *strict* does a
    batch wait at all while a thread is free."""
    max_enqueued_batches: int = 10
    """How many batches one queue holds, the open one included; what does not fit is refused."""
    num_batch_threads: int | None = None
    """How many batches run at the same time, of one version of a model; None: ``default_slots``.
    Where *strict*: over all models of a server; None: as many as processors."""
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
    strict: bool = False
    """Do everything as TensorFlow Serving does: wait for *batch_timeout_micros*, fail a batch as a
    whole, answer with its texts."""
    measure_sizes: bool = False
    """Find the batch size that pays by measuring the batches of real requests; *max_batch_size* stays
    the limit of a request."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches"):
            _check_type(name, getattr(self, name), int)
        for name in (
            "pad_variable_length_inputs",
            "enable_large_batch_splitting",
            "strict",
            "measure_sizes",
        ):
            _check_type(name, getattr(self, name), bool)
        _check_type("thread_pool_name", self.thread_pool_name, str)
        for name in ("num_batch_threads", "max_execution_batch_size"):
            if getattr(self, name) is not None:
                _check_type(name, getattr(self, name), int)
        try:
            sizes = tuple(self.allowed_batch_sizes)
        except TypeError:
            raise ValueError(
                f"allowed_batch_sizes is {self.allowed_batch_sizes!r}, expected whole numbers"
            ) from None
        for size in sizes:
            _check_type("an entry of allowed_batch_sizes", size, int)
        object.__setattr__(self, "allowed_batch_sizes", sizes)
        if self.strict and self.measure_sizes:
            raise ValueError("expected either strict or measure_sizes, got both")

    @classmethod
    def auto(cls, **changes: Any) -> BatchingOptions:
        """Return the defaults, *changes* applied, with batch sizes found by measurement."""
        return cls(**{**changes, "measure_sizes": True})

    @property
    def num_threads(self) -> int:
        """How many batches run at the same time where *strict*."""
        return _num_cpus() if self.num_batch_threads is None else self.num_batch_threads

    @property
    def execution_limit(self) -> int:
        """The largest batch that is formed, in rows."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size


def _check_type(name: str, value: object, expected: type) -> None:
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r}, expected {expected.__name__}")


def batching_options_from_message(
    message: messages.BatchingParameters, strict: bool = True
) -> BatchingOptions:
    """Return the options that a ``BatchingParameters`` message states, unset fields by their defaults.

    Where splitting is on and the message states neither size, the largest batch that is run is 0, as
    in TensorFlow Serving, and every request is refused.
    """
    changes: dict[str, Any] = {"strict": strict}
    for name in (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "thread_pool_name",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    ):
        if message.HasField(name):
            changes[name] = getattr(message, name).value
    if changes.get("enable_large_batch_splitting") and "max_execution_batch_size" not in changes:
        changes["max_execution_batch_size"] = changes.get("max_batch_size", 0)
    return BatchingOptions(
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        **changes,
    )


def default_slots(intra_op_threads: int, num_accelerators: int = 0) -> int:
    """Return how many batches of one version run at the same time, so that they keep all processors busy.

    *intra_op_threads* is what one run may use at most; 0: all, of which a large batch keeps about half
    busy. Two are more even on two processors: what one batch does before and after its run, and in its
    narrow parts, leaves them to the other. So it is on each of *num_accelerators* devices that runs are on,
    where more would only stand in each other's way and keep batches small.
    """
    if num_accelerators > 0:
        return 2 * num_accelerators
    num_cpus = _num_cpus()
    if intra_op_threads > 0:
        return max(1, num_cpus // intra_op_threads)
    return min(num_cpus, max(2, num_cpus // 2))


def check_scheduler_options(options: BatchingOptions) -> None:
    """Check what concerns all models of a server.

    Raises:
        InvalidArgumentError: There would be no thread.
    """
    if options.num_threads < 1:
        raise InvalidArgumentError(f"num_batch_threads must be positive; was {options.num_threads}")


def check_queue_options(options: BatchingOptions) -> None:
    """Check what concerns the queues of one model.

    Raises:
        InvalidArgumentError: A size or duration is out of its range, or two contradict each other.
    """
    sizes, limit = options.allowed_batch_sizes, options.max_batch_size
    if sizes and sizes[-1] != limit:
        raise InvalidArgumentError(
            "Last entry in allowed_batch_sizes must match max_batch_size; "
            f"last entry was {sizes[-1]}; expected {limit}"
        )
    if limit < 1:
        raise InvalidArgumentError(f"input_batch_size_limit must be positive; was {limit}")
    if options.batch_timeout_micros < 0:
        raise InvalidArgumentError(
            f"batch_timeout_micros must be non-negative; was {options.batch_timeout_micros}"
        )
    if options.enable_large_batch_splitting:
        if options.max_enqueued_batches < 1:
            raise InvalidArgumentError(
                f"max_enqueued_batches must be positive; was {options.max_enqueued_batches}"
            )
        if limit < options.execution_limit:
            raise InvalidArgumentError(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or "
                f"equal to max_execution_batch_size.1{limit}{options.execution_limit}"
            )
