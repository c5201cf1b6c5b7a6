"""How a server opens the models that its sources find: what is wrapped around the C API's loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from inserve.handlers.prediction_log import prediction_log_replay
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions
from inserve.server.counted_loader import CountedLoader
from inserve.server.options import ServerOptions
from inserve.tensorflow_c.interface import LoadSavedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model

__all__ = ["LoaderOfPath", "loader_of_path", "model_opener"]

LoaderOfPath: TypeAlias = Callable[[str], SavedModelLoader]
"""Makes the loader of the version in a folder."""


def model_opener(options: ServerOptions) -> LoadSavedModel:
    """Return what opens a version: ``load_saved_model`` within the wrappers that *options* ask for.

    The order, from the inside: custom operations must be there when a graph is read, TFLite replaces
    the graph, batching stands before whatever runs.
    """
    del options
    load: LoadSavedModel = load_saved_model
    return load


def loader_of_path(options: ServerOptions, metrics: ServingMetrics) -> LoaderOfPath:
    """Return what makes the loaders of a server with *options*, which count in *metrics*."""
    model_options = SavedModelOptions(
        options.tags,
        options.session_config,
        options.check_shapes,
        options.enable_model_warmup,
        options.num_request_iterations_for_warmup,
        options.generate_warmup,
    )
    replay = prediction_log_replay(options.enable_signature_method_name_check, metrics.warmup_run)
    load = model_opener(options)

    def make(path: str) -> SavedModelLoader:
        return CountedLoader(path, model_options, load, replay, metrics)

    return make
