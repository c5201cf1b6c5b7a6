"""Warm-up: runs before a version is available, so that no request pays for what is done once.

A version that brings records of requests (``assets.extra/tf_serving_warmup_requests``) has them
replayed; one that fails, fails the load. Any other is run on inputs made from its signatures; what
then fails is nobody's business. Codes, texts and limits of records: TensorFlow Serving,
``servables/tensorflow/saved_model_warmup_util.cc``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from inserve.errors import (
    DataLossError,
    DeadlineExceededError,
    InserveError,
    InvalidArgumentError,
    UnimplementedError,
    UnknownError,
)
from inserve.protos import messages
from inserve.saved_model.tf_record import read_records
from inserve.saved_model.unnoticed_signatures import unnoticed_signatures
from inserve.saved_model.warmup_inputs import generate_inputs

if TYPE_CHECKING:
    from inserve.saved_model.saved_model_servable import SavedModelServable
    from inserve.saved_model.signature import Signature

__all__ = [
    "MAX_WARMUP_RECORDS",
    "REPLAYED_LOG_TYPES",
    "Replay",
    "replay_warmup_records",
    "run_generated_inputs",
    "warmup_file",
]

Replay: TypeAlias = "Callable[[SavedModelServable, int, bytes], None]"
"""Runs one request: servable, field number of the log type in PredictionLog, serialized request.

The log type is one of ``REPLAYED_LOG_TYPES``. Raises ``InserveError`` where the request fails.
"""

MAX_WARMUP_RECORDS = 1000

REPLAYED_LOG_TYPES = ("classify_log", "regress_log", "multi_inference_log", "predict_log")

_MEASURED_RUNS = 3
"""How often a signature runs after the run that prepared it; the shortest is what it costs."""

_MEASURED_RUN_LIMIT_S = 0.1
"""A run that takes longer is a long one, and that is all there is to know."""

_GENERATED_BUDGET_S = 5.0
"""What the runs on generated inputs of one version may take together; none starts later."""

_MAX_RECORD_TEXT_BYTES = 1024

_LOGGER = logging.getLogger("inserve.saved_model")


def warmup_file(version_dir: str) -> str:
    """Return where the records of requests of the version in *version_dir* lie, if it has any."""
    return os.path.join(version_dir, "assets.extra", "tf_serving_warmup_requests")


def replay_warmup_records(
    servable: SavedModelServable, path: str, replay: Replay, num_iterations: int = 1
) -> None:
    """Run each request of the PredictionLog records in the file *path*, *num_iterations* times in a row.

    Records without a request are passed over, but counted. Blocks for as long as that takes.

    Raises:
        DataLossError: Not a TFRecord file.
        InvalidArgumentError: A record that is no PredictionLog, or more than ``MAX_WARMUP_RECORDS``.
        UnimplementedError: A record of an API that is not replayed.
        UnknownError: The file cannot be read.
        InserveError: What a request failed with.
    """
    started = perf_counter()
    seconds = []
    count = 0
    try:
        for record in read_records(path):
            count += 1
            request = _request_of(record, path)
            if request is not None:
                for _ in range(num_iterations):
                    before = perf_counter()
                    replay(servable, *request)
                    seconds.append(perf_counter() - before)
            if count > MAX_WARMUP_RECORDS:
                raise InvalidArgumentError(
                    f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}"
                )
    except DataLossError as error:
        raise DataLossError(
            f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    except OSError as error:
        raise UnknownError(f"the warmup data {path} cannot be read: {error.strerror}") from error
    _LOGGER.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.%s",
        path,
        count,
        (perf_counter() - started) * 1e6,
        f" First request {seconds[0] * 1e3:.2f} ms, last {seconds[-1] * 1e3:.2f} ms." if seconds else "",
    )


def _request_of(record: bytes, path: str) -> tuple[int, bytes] | None:
    """Return log type and serialized request of a PredictionLog, or None where it has none."""
    try:
        log = messages.PredictionLog.FromString(record)
    except DecodeError:
        shown = record[:_MAX_RECORD_TEXT_BYTES].decode("utf-8", "replace")
        raise InvalidArgumentError(f"Failed to parse warmup record: {shown} from {path}") from None
    log_type = log.WhichOneof("log_type")
    if log_type is None:
        return None
    number = log.DESCRIPTOR.fields_by_name[log_type].number
    if log_type not in REPLAYED_LOG_TYPES:
        raise UnimplementedError(f"Unsupported log_type for warmup: {number}")
    return number, getattr(log, log_type).request.SerializeToString()


def run_generated_inputs(
    servable: SavedModelServable, meta_graph_def: bytes, path: str, now: Callable[[], float] = perf_counter
) -> list[tuple[Signature, list[NDArray[Any]], float]]:
    """Run each signature a few times on inputs made from it, so that it is prepared and its cost known.

    Returns the signatures that ran, the inputs they ran on, and the seconds a run takes.

    Left out: signatures whose run might be noticed (``unnoticed_signatures``), that have no outputs, or
    that take inputs which cannot be made. Blocks for some seconds at most, plus what TensorFlow needs to
    prepare one graph. Failures go to the log at DEBUG and nowhere else.
    """
    started = now()
    deadline = started + _GENERATED_BUDGET_S
    firsts: list[float] = []
    lasts: list[float] = []
    ran: list[tuple[Signature, list[NDArray[Any]], float]] = []
    candidates = [
        signature
        for signature in servable.signatures.values()
        if signature.outputs and not signature.key.startswith("__")
    ]
    for signature in unnoticed_signatures(meta_graph_def, candidates):
        try:
            arrays = generate_inputs(signature, servable.is_fragile)
            if arrays is None or now() >= deadline:
                continue
            seconds = _run_generated(servable, signature, arrays, deadline, now)
        except (InserveError, ValueError) as error:
            _LOGGER.debug("%s: signature %s failed on generated inputs: %s", path, signature.key, error)
            continue
        firsts.append(seconds[0])
        lasts.append(min(seconds[1:], default=seconds[0]))
        ran.append((signature, arrays, lasts[-1]))
    if firsts:
        _LOGGER.info(
            "%s: ran %d of %d signatures on generated inputs in %.1f ms; the slowest took %.2f ms at first, "
            "%.2f ms at last",
            path,
            len(firsts),
            len(candidates),
            (now() - started) * 1e3,
            max(firsts) * 1e3,
            max(lasts) * 1e3,
        )
    return ran


def _run_generated(
    servable: SavedModelServable,
    signature: Signature,
    arrays: list[NDArray[Any]],
    deadline: float,
    now: Callable[[], float],
) -> list[float]:
    """Return the seconds each run of *signature* took."""
    started = now()
    signature.check(arrays, check_shapes=True)
    run = servable.signature_run(signature, ())
    run.run(arrays, deadline - started)
    seconds = [now() - started]
    with contextlib.suppress(DeadlineExceededError):
        for _ in range(_MEASURED_RUNS):
            before = now()
            run.run(arrays, _MEASURED_RUN_LIMIT_S)
            seconds.append(now() - before)
    if len(seconds) > _MEASURED_RUNS:
        run.settle_cost(arrays, min(seconds[1:]))
    return seconds
