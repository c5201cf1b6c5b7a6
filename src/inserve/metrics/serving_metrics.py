"""What a server counts: TensorFlow Serving's metrics under their names, and ours under ``/inserve/``.

Names, labels and what is counted when: TensorFlow Serving, ``servables/tensorflow/util.cc``,
``util/{prometheus_exporter,http_server}.cc`` and ``batching/batching_session.cc``; of TensorFlow itself
``cc/saved_model/loader.cc``. Labels that clients choose are bounded, which they are not there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from inserve.errors import Code
from inserve.metrics.registry import Registry, exponential_bounds
from inserve.metrics.request_record import RequestRecord

__all__ = ["GRPC", "MAX_UNKNOWN_NAMES", "MULTI_INFERENCE", "OTHER_NAMES", "REST", "ServingMetrics"]

GRPC = "GRPC"
"""Where a request came in: value of the label ``entrypoint``."""

REST = "REST"
"""Where a request came in: value of the label ``entrypoint``."""

MULTI_INFERENCE = "MultiInference"
"""The API that runs a model and is not counted as a request."""

MAX_UNKNOWN_NAMES = 128
"""How many names that no model answered to are told apart."""

OTHER_NAMES = "(other)"
"""The label of the names beyond these."""

_MAX_UNKNOWN_NAME_LENGTH = 256
_MAX_KNOWN_NAMES = 4096
_MAX_STATUS_LENGTH = 1024
_MAX_KEPT_CELLS = 4096

_RUNTIME = "TF1"
"""Value of the label ``runtime``: what the stock server has there."""

_LATENCY_BOUNDS = exponential_bounds(10, 1.8, 33)
_QUEUING_BOUNDS = exponential_bounds(100, 1.2, 52)
_BATCH_SIZE_BOUNDS = exponential_bounds(1, 2, 14)
_EXAMPLE_BOUNDS = exponential_bounds(1, 2, 15)

_SERVING = "/tensorflow/serving/"
_BATCHING = _SERVING + "batching_session/"


_AnswerKey: TypeAlias = tuple["str | None", "int | None", str, str, str, Code, bool]

_AnswerCells: TypeAlias = tuple[
    Callable[[], object], Callable[[], object], Callable[[float], None], Callable[[float], None]
]
"""Where one kind of answer is counted: by status, by version, by what it took, by what the run took."""


class ServingMetrics:
    """Records into *registry*; any thread may call any method. Durations come in seconds."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        model = ("model_name",)
        self._request_count = registry.counter(_SERVING + "request_count", (*model, "status"))
        self._request_latency = registry.histogram(
            _SERVING + "request_latency", _LATENCY_BOUNDS, (*model, "API", "entrypoint")
        )
        self._runtime_latency = registry.histogram(
            _SERVING + "runtime_latency", _LATENCY_BOUNDS, (*model, "API", "runtime")
        )
        self._example_counts = registry.histogram(
            _SERVING + "request_example_counts", _EXAMPLE_BOUNDS, ("model",)
        )
        self._example_count_total = registry.counter(_SERVING + "request_example_count_total", ("model",))
        warmup = ("model_path", "status")
        self._warmup_latency = registry.histogram(_SERVING + "model_warmup_latency", _LATENCY_BOUNDS, warmup)
        self._warmup_records = registry.counter(
            _SERVING + "model_warmup_records_read", warmup, only_once_used=True
        )
        self._load_attempts = registry.counter("/tensorflow/cc/saved_model/load_attempt_count", warmup)
        self._load_latency = registry.counter("/tensorflow/cc/saved_model/load_latency", ("model_path",))
        self._queuing_latency = registry.histogram(
            _BATCHING + "queuing_latency", _QUEUING_BOUNDS, ("thread_pool_name",)
        )
        self._batches = registry.counter(_BATCHING + "wrapped_run_count")
        self._input_batch_size = registry.histogram(
            _BATCHING + "input_batch_size", _BATCH_SIZE_BOUNDS, only_once_used=True
        )
        self._processed_batch_size = registry.histogram(
            _BATCHING + "processed_batch_size", _BATCH_SIZE_BOUNDS, only_once_used=True
        )
        self._padding_size = registry.histogram(
            _BATCHING + "padding_size", _BATCH_SIZE_BOUNDS, ("execution_batch_size",), only_once_used=True
        )
        registry.declare(_SERVING + "request_log_count", "counter")
        registry.declare(_SERVING + "mlmd_map", "gauge")
        self._version_count = registry.counter(
            "/inserve/request_count", (*model, "version", "signature_name", "entrypoint", "status")
        )
        self._answer_cells: dict[_AnswerKey, _AnswerCells] = {}
        self._num_dropped = 0
        self._known_names: set[str] = set()
        self._unknown_names: set[str] = set()
        self._names_lock = threading.Lock()

    def value(self, name: str) -> int:
        """Return the first cell of the counter with registry name *name*, 0 where there is none."""
        return self.registry.value(name)

    # --- requests ---------------------------------------------------------------------------------

    def answered(self, record: RequestRecord, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """Count one answer: of an API that runs a model over gRPC, or any over REST.

        *api* is ``Predict``, ``Classify``, ``Regress`` or ``MultiInference`` for gRPC, the lower-case word
        of the path for REST, empty where it has none. *seconds* is what the whole answer took; it counts
        where *code* is OK. Of MultiInference TensorFlow Serving counts nothing but the examples.
        A request that was not understood (its record names no model, not even an empty name) is not
        counted.
        """
        run_s = record.run_s
        key = (
            record.model_name,
            record.version,
            record.signature_name,
            api,
            entrypoint,
            code,
            run_s is None,
        )
        cells = self._answer_cells.get(key)
        if cells is None:
            if record.model_name is None:
                return
            cells = self._cells_of(record, record.model_name, api, entrypoint, code)
            if record.version is not None:
                self._keep(key, cells)
        count, count_of_version, latency, runtime = cells
        count()
        count_of_version()
        latency(seconds * 1e6)
        if run_s is not None:
            runtime(run_s * 1e6)
        if record.num_examples is not None and record.model_name is not None:
            self.example_count(record.model_name, record.num_examples)

    def request(self, model_name: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """Count one answer, as ``answered``, to a request of which no more is known than the name."""
        self.answered(RequestRecord(model_name), api, entrypoint, code, seconds)

    def warmup_run(self, record: RequestRecord, api: str) -> None:
        """Count a recorded request that was run for warm-up; *api* as for gRPC."""
        model_name = record.model_name or ""
        if record.run_s is not None and api != MULTI_INFERENCE:
            self.runtime(model_name, api, record.run_s)
        if record.num_examples is not None:
            self.example_count(model_name, record.num_examples)

    def runtime(self, model_name: str, api: str, seconds: float) -> None:
        """Count a run of *api* (``Predict``, ``Classify``, ``Regress``) that belonged to no request."""
        self._runtime_latency.cell(self._label(model_name), api, _RUNTIME).add(seconds * 1e6)

    def example_count(self, model_name: str, num_examples: int) -> None:
        """Count the examples of one MultiInference that ran."""
        name = self._label(model_name)
        self._example_counts.cell(name).add(num_examples)
        self._example_count_total.cell(name).increment_by(num_examples)

    def _cells_of(
        self, record: RequestRecord, model_name: str, api: str, entrypoint: str, code: Code
    ) -> _AnswerCells:
        is_known = record.version is not None
        name = self._label(model_name, is_known or code is Code.OK)
        count: Callable[[], object] = _count_nothing
        count_of_version: Callable[[], object] = _count_nothing
        latency, runtime = _add_nothing, _add_nothing
        if is_known:
            labels = (name, str(record.version), record.signature_name, entrypoint, code.name)
            count_of_version = self._version_count.cell(*labels).increment
        if api == MULTI_INFERENCE:
            return count, count_of_version, latency, runtime
        count = self._request_count.cell(name, code.name).increment
        if code is Code.OK:
            latency = self._request_latency.cell(name, api, entrypoint).add
        if record.run_s is not None:
            runtime = self._runtime_latency.cell(name, api.capitalize(), _RUNTIME).add
        return count, count_of_version, latency, runtime

    def _keep(self, key: _AnswerKey, cells: _AnswerCells) -> None:
        num_dropped = sum(
            metric.num_dropped
            for metric in (
                self._request_count,
                self._version_count,
                self._request_latency,
                self._runtime_latency,
            )
        )
        # A cell that was dropped is on no page any more: whoever kept it has to ask for it again.
        if num_dropped != self._num_dropped or len(self._answer_cells) >= _MAX_KEPT_CELLS:
            self._answer_cells.clear()
            self._num_dropped = num_dropped
        self._answer_cells[key] = cells

    def _label(self, model_name: str, is_known: bool = False) -> str:
        """Return the label for a name as sent; *is_known* says that a model has it."""
        if model_name in self._known_names:
            return model_name
        with self._names_lock:
            if is_known and len(self._known_names) < _MAX_KNOWN_NAMES:
                self._known_names.add(model_name)
                self._unknown_names.discard(model_name)
                return model_name
            if model_name in self._unknown_names:
                return model_name
            if len(self._unknown_names) >= MAX_UNKNOWN_NAMES or len(model_name) > _MAX_UNKNOWN_NAME_LENGTH:
                return OTHER_NAMES
            self._unknown_names.add(model_name)
            return model_name

    # --- loading ----------------------------------------------------------------------------------

    def load_attempt(self, model_path: str, ok: bool, seconds: float) -> None:
        """Count one attempt to open the SavedModel in the folder *model_path*."""
        self._load_attempts.cell(model_path, "success" if ok else "fail").increment()
        self._load_latency.cell(model_path).increment_by(int(seconds * 1e6))

    def warmup(self, model_path: str, status_text: str, seconds: float, records: int) -> None:
        """Count one warm-up on recorded requests, of which it read *records*.

        *status_text* is ``OK`` or ``<CODE>: <message>``.
        """
        status = status_text[:_MAX_STATUS_LENGTH]
        self._warmup_latency.cell(model_path, status).add(seconds * 1e6)
        self._warmup_records.cell(model_path, status).increment_by(records)

    # --- batching ---------------------------------------------------------------------------------

    # The methods of batching's observer.

    def submitted(self, rows: int, num_inputs: int) -> None:
        """Count a request of *rows* rows in *num_inputs* tensors that is to be batched."""
        self._input_batch_size.cell().add_times(rows, num_inputs)

    def queued(self, seconds: float) -> None:
        """Count a request, or part of one, whose batch starts now, *seconds* after it came."""
        self._queuing_latency.cell("").add(seconds * 1e6)

    def ran(self, rows: int, padding_rows: int) -> None:
        """Count a batch that ran with *rows* rows, *padding_rows* of them padding."""
        self._ran(rows, padding_rows, 1)

    def ran_directly(self, rows: int, num_inputs: int, count: int) -> None:
        """Count *count* requests of about *rows* rows in *num_inputs* tensors: batches of one, at once."""
        self._input_batch_size.cell().add_times(rows, num_inputs * count)
        self._queuing_latency.cell("").add_times(0.0, count)
        self._ran(rows, 0, count)

    def _ran(self, rows: int, padding_rows: int, count: int) -> None:
        self._batches.cell().increment_by(count)
        self._processed_batch_size.cell().add_times(rows, count)
        self._padding_size.cell(str(rows)).add_times(padding_rows, count)


def _add_nothing(value: float) -> None:
    del value


def _count_nothing() -> None:
    pass
