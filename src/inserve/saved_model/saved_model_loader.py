"""Brings one version of a SavedModel into memory and out again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from inserve.errors import FailedPreconditionError, InserveError, NotFoundError
from inserve.protos import messages
from inserve.resources.allocation import MAIN_MEMORY, ResourceAllocation
from inserve.resources.freed_memory import return_freed_memory
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tuned_load import TunedLoad
from inserve.saved_model.tuner import MeasuredInput
from inserve.saved_model.tuning import Tuning
from inserve.saved_model.tuning_cache import TuningCache, default_cache_dir
from inserve.saved_model.unnoticed_signatures import unnoticed_signatures
from inserve.saved_model.warmup import (
    Replay,
    replay_warmup_records,
    run_generated_inputs,
    warmup_file,
)
from inserve.saved_model.warmup_observer import WarmupObserver, generated_measured_inputs
from inserve.tensorflow_c.interface import LoadSavedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model as open_saved_model
from inserve.tensorflow_c.session_options import intra_op_threads

__all__ = ["SavedModelLoader", "SavedModelOptions", "has_usual_kernels", "held_twice_bytes", "tune"]

_MOST_HELD_TWICE_BYTES = 128 << 20
_SHARE_HELD_TWICE = 1 / 16

_RAM_PER_DISK_BYTE = 1.2
"""TensorFlow Serving's estimate (``servables/tensorflow/bundle_factory_util.cc``)."""


def held_twice_bytes(memory_bytes: int) -> int:
    """Return how large a version may be that stays in memory twice, where all have *memory_bytes* together.

    A sixteenth of that, 128 MiB at most.
    """
    return min(_MOST_HELD_TWICE_BYTES, int(memory_bytes * _SHARE_HELD_TWICE))


def has_usual_kernels(config: bytes) -> bool:
    """Return whether sessions with the serialized ``ConfigProto`` *config* run a graph without a compiler."""
    try:
        proto = messages.ConfigProto.FromString(config)
    except DecodeError:
        return False  # the load says what is wrong
    return not proto.HasField("graph_options") and "TF_XLA_FLAGS" not in os.environ


@dataclass(frozen=True)
class SavedModelOptions:
    """How SavedModels are opened and checked."""

    tags: tuple[str, ...] = ("serve",)
    """The meta graph with exactly these tags is loaded."""
    session_config: bytes = b""
    """A serialized ``tensorflow.ConfigProto``."""
    check_shapes: bool = True
    """Whether inputs must have the shapes that signatures state."""
    enable_model_warmup: bool = True
    """Whether a version is warmed up while it loads; without it the next two mean nothing."""
    num_request_iterations_for_warmup: int = 1
    """How often each recorded request is replayed."""
    generate_warmup: bool = True
    """Whether a version without recorded requests runs on inputs made from its signatures."""
    tune: bool = True
    """Whether it is measured after warm-up how runs are fast; a *session_config* that names numbers of
    threads switches that off, too, and without warm-up there is nothing to measure with."""
    tuning_budget_s: float = 1.0
    """What the measuring of a version may take; as much again for a second load of it."""
    cache_dir: str | None = None
    """The folder where results are kept for the next start; None: ``INSERVE_CACHE_DIR`` or a folder in
    the user's cache; empty: they are not kept."""

    held_twice_bytes: int = 0
    """Versions whose files are no larger may stay in memory twice where that makes crowded runs faster
    (``tuned_load``): for models on processors whose operations are TensorFlow's own and whose runs are not
    batched."""

    merge_row_wise: bool = False
    """See ``SavedModelServable``."""
    devices: str = ""
    """What tells machines apart whose processors are the same: figures of one are not used on another."""

    def __post_init__(self) -> None:
        if not self.tuning_budget_s >= 0:
            raise ValueError(f"tuning_budget_s is {self.tuning_budget_s}, expected at least 0")

    def on_devices(self, seen: Sequence[str], replicas: Sequence[str] = ()) -> SavedModelOptions:
        """Return these options for a process that has seen the devices *seen*, named as ``GPU:0``.

        *replicas* are the devices of a version that has some. A version may stay in memory twice only on
        processors.
        """
        is_on_processors = not replicas and all(name.startswith("CPU:") for name in seen)
        return replace(
            self,
            devices=",".join([*seen, "", *replicas]),
            held_twice_bytes=self.held_twice_bytes if is_on_processors else 0,
            merge_row_wise=self.merge_row_wise and is_on_processors,
        )


class SavedModelLoader:
    """The ``Loader`` of the SavedModel in the folder *path*, opened by *load_saved_model*.

    *replay* runs recorded requests; None: there is nobody to run them, and they are not read. Tunings of
    earlier loads are not used with *measure_anew*.
    """

    def __init__(
        self,
        path: str,
        options: SavedModelOptions,
        load_saved_model: LoadSavedModel,
        replay: Replay | None = None,
        measure_anew: bool = False,
    ) -> None:
        self._path = path
        self._options = options
        self._load_saved_model = load_saved_model
        self._replay = replay
        self._measure_anew = measure_anew
        self._servable: SavedModelServable | None = None

    def __repr__(self) -> str:
        return f"<SavedModelLoader {self._path}{' loaded' if self._servable is not None else ''}>"

    def estimate_resources(self) -> ResourceAllocation:
        """Return 1.2 times the size of all files of the version, as main memory.

        Raises:
            FailedPreconditionError: *path* is not a folder.
            NotFoundError: *path* is gone.
        """
        return ResourceAllocation.of_ram(int(_bytes_below(self._path) * _RAM_PER_DISK_BYTE))

    def load(self) -> ResourceAllocation | None:
        """Restore the variables, read the signatures, warm up, and find out how runs are fast.

        Returns what is held where that is more than was estimated: twice as much.

        Raises:
            InserveError: What TensorFlow said, or what a recorded request failed with.
        """
        options = self._options
        version = _Version(self._path, options, self._load_saved_model, self._replay)
        if options.tune and options.tuning_budget_s > 0:
            self._servable = self._tuned_load(version).load()
            if self._servable.num_sessions > 1:
                with suppress(InserveError):  # its folder may be gone meanwhile
                    return ResourceAllocation.of_ram(2 * self.estimate_resources().bytes_on(MAIN_MEMORY))
            return None
        servable = version.open(options.session_config)
        try:
            version.warm_up(servable)
        except BaseException:
            servable.close()
            raise
        threads = intra_op_threads(options.session_config)
        servable.apply_tuning(Tuning("explicit", threads, reason="switched off"))
        self._servable = servable
        return None

    def _tuned_load(self, version: _Version) -> TunedLoad:
        options = self._options
        folder = default_cache_dir() if options.cache_dir is None else options.cache_dir
        return TunedLoad(
            self._path,
            version,
            config=options.session_config,
            tags=options.tags,
            budget_s=options.tuning_budget_s,
            cache=TuningCache(os.path.join(folder, "tuning")) if folder else None,
            version_bytes=lambda: _bytes_below(self._path),
            measure_anew=self._measure_anew,
            held_twice_bytes=options.held_twice_bytes,
            merges_rows=options.merge_row_wise,
            devices=options.devices,
        )

    def unload(self) -> None:
        """Free the session; returns once no run is in progress and the memory is the system's again."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()
            return_freed_memory()

    def servable(self) -> SavedModelServable:
        if self._servable is None:
            raise FailedPreconditionError(f"the SavedModel {self._path} is not loaded")
        return self._servable


class _Version:
    """What ``TunedLoad`` opens and warms up."""

    def __init__(
        self,
        path: str,
        options: SavedModelOptions,
        load_saved_model: LoadSavedModel,
        replay: Replay | None,
    ) -> None:
        self._path = path
        self._options = options
        self._load_saved_model = load_saved_model
        self._replay = replay

    def open(self, config: bytes) -> SavedModelServable:
        model = self._load_saved_model(self._path, self._options.tags, config)
        try:
            return SavedModelServable(model, self._options.check_shapes, self._options.merge_row_wise)
        except BaseException:
            model.close()
            raise

    def warm_up(self, servable: SavedModelServable) -> list[MeasuredInput]:
        """Warm up; return what signatures that leave no trace may be run on again."""
        if not self._options.enable_model_warmup:
            return []
        # Where runs are batched, those of a warm-up would wait for company that does not come.
        unbatched = getattr(servable.model, "unbatched", nullcontext)
        with unbatched():
            return self._warm_up(servable)

    def _warm_up(self, servable: SavedModelServable) -> list[MeasuredInput]:
        options = self._options
        meta_graph_def = servable.model.meta_graph_def
        records = warmup_file(self._path)
        if self._replay is not None and os.path.exists(records):
            observer = WarmupObserver()
            with servable.observed_runs(observer):
                replay_warmup_records(
                    servable, records, self._replay, options.num_request_iterations_for_warmup
                )
            if not options.tune:
                return []
            return observer.inputs(unnoticed_signatures(meta_graph_def, servable.signatures.values()))
        if options.generate_warmup:
            return generated_measured_inputs(run_generated_inputs(servable, meta_graph_def, self._path))
        return []


def _bytes_below(path: str) -> int:
    total = 0
    try:
        entries = list(os.scandir(path))
    except NotADirectoryError as error:
        raise FailedPreconditionError(f"{path}; Not a directory") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}; No such file or directory") from error
    for entry in entries:
        total += _bytes_below(entry.path) if entry.is_dir() else entry.stat().st_size
    return total


def tune(
    path: str,
    options: SavedModelOptions | None = None,
    load_saved_model: LoadSavedModel = open_saved_model,
    replay: Replay | None = None,
) -> Tuning:
    """Measure how the version in the folder *path* runs fast, and return that.

    Nothing is taken from the cache, the result is put there. Recorded requests count only with *replay*.

    Raises:
        InserveError: The version cannot be loaded.
        MissingExtraError: TensorFlow is not installed.
    """
    loader = SavedModelLoader(
        path, options or SavedModelOptions(), load_saved_model, replay, measure_anew=True
    )
    loader.load()
    try:
        return loader.servable().tuning
    finally:
        loader.unload()
