"""Brings one version of a SavedModel into memory and out again."""

from __future__ import annotations

import os
from dataclasses import dataclass

from inserve.errors import FailedPreconditionError, NotFoundError
from inserve.resources.allocation import ResourceAllocation
from inserve.resources.freed_memory import return_freed_memory
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.warmup import (
    Replay,
    replay_warmup_records,
    run_generated_inputs,
    warmup_file,
)
from inserve.tensorflow_c.interface import LoadSavedModel

__all__ = ["SavedModelLoader", "SavedModelOptions"]

_RAM_PER_DISK_BYTE = 1.2
"""TensorFlow Serving's estimate (``servables/tensorflow/bundle_factory_util.cc``)."""


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


class SavedModelLoader:
    """The ``Loader`` of the SavedModel in the folder *path*, opened by *load_saved_model*.

    *replay* runs recorded requests; None: there is nobody to run them, and they are not read.
    """

    def __init__(
        self,
        path: str,
        options: SavedModelOptions,
        load_saved_model: LoadSavedModel,
        replay: Replay | None = None,
    ) -> None:
        self._path = path
        self._options = options
        self._load_saved_model = load_saved_model
        self._replay = replay
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

    def load(self) -> None:
        """Restore the variables, read the signatures, and warm up.

        Raises:
            InserveError: What TensorFlow said, or what a recorded request failed with.
        """
        model = self._load_saved_model(self._path, self._options.tags, self._options.session_config)
        try:
            servable = SavedModelServable(model, self._options.check_shapes)
            self._warm_up(servable, model.meta_graph_def)
        except BaseException:
            model.close()
            raise
        self._servable = servable

    def _warm_up(self, servable: SavedModelServable, meta_graph_def: bytes) -> None:
        options = self._options
        if not options.enable_model_warmup:
            return
        records = warmup_file(self._path)
        if self._replay is not None and os.path.exists(records):
            replay_warmup_records(servable, records, self._replay, options.num_request_iterations_for_warmup)
        elif options.generate_warmup:
            run_generated_inputs(servable, meta_graph_def, self._path)

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
