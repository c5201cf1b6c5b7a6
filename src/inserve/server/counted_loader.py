"""Counts the loads of versions."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from inserve.metrics.serving_metrics import ServingMetrics
from inserve.replicas.replica_devices import replicated_bytes
from inserve.resources.allocation import MAIN_MEMORY, ResourceAllocation
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions
from inserve.saved_model.warmup import Replay
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel

__all__ = ["CountedLoader"]


class CountedLoader(SavedModelLoader):
    """A loader that tells *metrics* how each load opened the version.

    Tuning may open it again for the same load, which is not counted. *devices* are those of its replicas,
    if it has any.
    """

    def __init__(
        self,
        path: str,
        options: SavedModelOptions,
        load_saved_model: LoadSavedModel,
        replay: Replay | None,
        metrics: ServingMetrics,
        devices: Sequence[str] = (),
    ) -> None:
        super().__init__(path, options, self._open, replay)
        self._open_uncounted = load_saved_model
        self._metrics = metrics
        self._is_counted = False
        self._devices = devices

    def estimate_resources(self) -> ResourceAllocation:
        """Return what ``SavedModelLoader`` does, for each replica where it will be."""
        of_one = super().estimate_resources()
        if not self._devices:
            return of_one
        return ResourceAllocation(replicated_bytes(of_one.bytes_on(MAIN_MEMORY), self._devices))

    def load(self) -> ResourceAllocation | None:
        self._is_counted = False
        return super().load()

    def _open(self, path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        if self._is_counted:
            return self._open_uncounted(path, tags, config)
        self._is_counted = True
        started = perf_counter()
        is_open = False
        try:
            model = self._open_uncounted(path, tags, config)
            is_open = True
        finally:
            self._metrics.load_attempt(path, is_open, perf_counter() - started)
        return model
