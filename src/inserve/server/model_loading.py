"""How a server opens the models that its sources find: what is wrapped around the C API's loading."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.batching.explain import explain_batching
from inserve.batching.options import BatchingOptions, check_queue_options
from inserve.errors import FailedPreconditionError, NotFoundError
from inserve.handlers.prediction_log import prediction_log_replay
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.replicas.replicated_session import replicate
from inserve.resources.allocation import MAIN_MEMORY
from inserve.resources.memory_limit import memory_limit_bytes
from inserve.saved_model.saved_model_loader import (
    SavedModelLoader,
    SavedModelOptions,
    has_usual_kernels,
    held_twice_bytes,
)
from inserve.server.counted_loader import CountedLoader
from inserve.server.model_config import ModelConfig
from inserve.server.options import ServerOptions
from inserve.tensorflow_c.custom_ops import with_custom_ops
from inserve.tensorflow_c.device_placement import place_on
from inserve.tensorflow_c.devices import check_device
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tflite.load_tflite import MODEL_FILE, prefer_tflite

__all__ = ["ModelLoading"]

_MAX_NOTED_PATHS = 4096
"""From so many on, folders whose versions are not loaded any more are forgotten."""


class ModelLoading:
    """Makes the loaders of one server, and has what its models share; any thread may call.

    The order, from the inside: custom operations must be there when a graph is read, replicas are the same
    graph on several devices, TFLite replaces the graph, batching stands before whatever runs.

    Raises:
        InvalidArgumentError: The options of batching would leave it no thread.
    """

    def __init__(self, options: ServerOptions, metrics: ServingMetrics) -> None:
        self._metrics = metrics
        config = options.complete_session_config()
        self._model_options = SavedModelOptions(
            options.tags,
            config,
            options.check_shapes,
            options.enable_model_warmup,
            options.num_request_iterations_for_warmup,
            options.generate_warmup,
            options.tune,
            options.tuning_budget,
            options.cache_dir,
            # Nobody knows what custom operations keep, and batches are formed before either session.
            held_twice_bytes=0 if options.custom_ops or options.batching else _held_twice_bytes(options),
            merge_row_wise=has_usual_kernels(config),
        )
        self._replay = prediction_log_replay(options.enable_signature_method_name_check, metrics.warmup_run)
        self._batching = options.batching_options()
        self._lock = threading.Lock()
        self._seen_devices: tuple[str, ...] = ()
        self._names: dict[str, str] = {}
        self._default_devices = options.devices
        self._devices_by_name: dict[str, tuple[str, ...]] = {}
        self._devices_by_path: dict[str, tuple[str, ...]] = {}
        self._batching_by_name: dict[str, BatchingOptions] = {}
        self._scheduler: BatchScheduler | None = None
        self._load = self._opener(options)

    def _opener(self, options: ServerOptions) -> LoadSavedModel:
        self._prefers_tflite = options.prefer_tflite_model
        load = self._on_devices(with_custom_ops(load_saved_model, options.custom_ops))
        if options.prefer_tflite_model:
            load = prefer_tflite(load, options.num_tflite_pools, options.num_tflite_interpreters_per_pool)
        if self._batching is not None:
            self._scheduler = BatchScheduler(self._batching, observer=self._metrics)
            self._metrics.registry.before_reading(self._scheduler.report_direct_runs)
            load = batch_models(
                load,
                self._scheduler,
                self._options_of_path,
                options.enable_per_model_batching_parameters,
                self._num_accelerators,
            )
        return load

    def loader(self, name: str, path: str) -> SavedModelLoader:
        """Return the loader of the version of model *name* in the folder *path*."""
        with self._lock:
            devices = self._devices_by_name.get(name) or self._default_devices
        if devices:
            self._note_devices(path, devices)
        if self._scheduler is not None:
            self._note_name(self._scheduler, name, path)
        options = self._model_options.on_devices(self._seen_devices, devices)
        return CountedLoader(path, options, self._load, self._replay, self._metrics, devices)

    def see_devices(self, names: Iterable[str]) -> None:
        """Note the devices there are, before any model is loaded."""
        self._seen_devices = tuple(names)

    def prepare(self, models: Iterable[ModelConfig]) -> None:
        """Take in where replicas of *models* are to be; versions that are loaded stay where they are."""
        with self._lock:
            self._devices_by_name = {model.name: model.devices for model in models if model.replicas}

    def _on_devices(self, load: LoadSavedModel) -> LoadSavedModel:
        """Return *load* for versions that have replicas, and those that have none."""

        def load_replicas(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
            with self._lock:
                devices = self._devices_by_path.get(path)
            if not devices:
                return load(path, tags, config)
            for device in dict.fromkeys(devices):
                check_device(device, config)
            return replicate([(device, place_on(load, device)) for device in devices])(path, tags, config)

        return load_replicas

    def _num_accelerators(self, path: str) -> int:
        """Return on how many devices beside processors the runs of the version in the folder *path* are.

        Without replicas TensorFlow puts them on the first one that it sees.
        """
        if self._prefers_tflite and os.path.exists(os.path.join(path, MODEL_FILE)):
            return 0
        with self._lock:
            replicas = self._devices_by_path.get(path)
        accelerators = {name for name in replicas or self._seen_devices if not name.startswith("CPU:")}
        return len(accelerators) if replicas else min(1, len(accelerators))

    def _note_devices(self, path: str, devices: tuple[str, ...]) -> None:
        with self._lock:
            while len(self._devices_by_path) >= _MAX_NOTED_PATHS:
                del self._devices_by_path[next(iter(self._devices_by_path))]
            self._devices_by_path[path] = devices

    def _note_name(self, scheduler: BatchScheduler, name: str, path: str) -> None:
        with self._lock:
            if len(self._names) >= _MAX_NOTED_PATHS:
                loaded = set(scheduler.paths())
                self._names = {known: of for known, of in self._names.items() if known in loaded}
            self._names[path] = name

    def stop(self, timeout_s: float) -> None:
        """Refuse what waits for a batch, and end the threads that run them."""
        if self._scheduler is not None:
            self._scheduler.stop(timeout_s)

    # --- batching ---------------------------------------------------------------------------------

    def set_batching(self, name: str, options: BatchingOptions) -> None:
        """Form the batches of model *name* by *options* from now on, those of later versions too.

        Raises:
            FailedPreconditionError: This server does not batch.
            InvalidArgumentError: A value is out of its range.
            ValueError: *options* want the other of the two modes.
        """
        scheduler, batching = self._batched()
        check_queue_options(options)
        if options.strict is not batching.strict:
            raise ValueError("strict is chosen for the whole server and cannot change")
        with self._lock:
            self._batching_by_name[name] = options
        for path in self._paths(scheduler, name):
            scheduler.set_options(path, options)

    def explain_batching(self, name: str) -> str:
        """Return in words and numbers what batching does for model *name*.

        Raises:
            FailedPreconditionError: This server does not batch.
            NotFoundError: No version of it is loaded with batching.
        """
        scheduler, _ = self._batched()
        options = self._options_of_name(name)
        texts = []
        for path in self._paths(scheduler, name):
            with contextlib.suppress(NotFoundError):  # unloaded a moment ago
                texts.append(explain_batching(scheduler.statistics(path), options))
        if not texts:
            raise NotFoundError(f"no version of model {name} is loaded with batching")
        return "\n\n".join(texts)

    def _batched(self) -> tuple[BatchScheduler, BatchingOptions]:
        if self._scheduler is None or self._batching is None:
            raise FailedPreconditionError("this server does not batch; it was made without batching=")
        return self._scheduler, self._batching

    def _paths(self, scheduler: BatchScheduler, name: str) -> list[str]:
        with self._lock:
            return [path for path in scheduler.paths() if self._names.get(path) == name]

    def _options_of_path(self, path: str) -> BatchingOptions:
        with self._lock:
            name = self._names.get(path, "")
        return self._options_of_name(name)

    def _options_of_name(self, name: str) -> BatchingOptions:
        _, batching = self._batched()
        with self._lock:
            return self._batching_by_name.get(name, batching)


def _held_twice_bytes(options: ServerOptions) -> int:
    budget = options.budget()
    return held_twice_bytes(memory_limit_bytes() if budget is None else budget[MAIN_MEMORY])
