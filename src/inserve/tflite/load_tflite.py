"""Opens the ``model.tflite`` of a version instead of its SavedModel (``--prefer_tflite_model``).

Rules: ``tensorflow_serving/servables/tensorflow/saved_model_bundle_factory.cc`` and ``tflite_session.cc``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from inserve.clock import Clock, SystemClock
from inserve.errors import InserveError, InvalidArgumentError, PermissionDeniedError, UnknownError
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel
from inserve.tflite.interpreter import TfliteInterpreter
from inserve.tflite.signature_defs import make_meta_graph_def, name_endpoints
from inserve.tflite.tflite_file import TfliteFile, parse_tflite_file
from inserve.tflite.tflite_session import LoadedTfliteModel, TfliteSession

__all__ = ["MODEL_FILE", "load_tflite", "prefer_tflite"]

MODEL_FILE = "model.tflite"


def prefer_tflite(
    load: LoadSavedModel, num_pools: int | None = None, num_interpreters_per_pool: int = 1
) -> LoadSavedModel:
    """Return what opens ``model.tflite`` in folders that have one, and any other folder with *load*.

    *num_pools* interpreters are made for each model, None for as many as this process has processors.
    For *num_interpreters_per_pool* see ``load_tflite``.
    """

    def load_either(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        file = os.path.join(path, MODEL_FILE)
        if not os.path.exists(file):
            return load(path, tags, config)
        return load_tflite(file, num_pools, num_interpreters_per_pool)

    return load_either


def load_tflite(
    path: str,
    num_pools: int | None = None,
    num_interpreters_per_pool: int = 1,
    clock: Clock | None = None,
) -> LoadedTfliteModel:
    """Load the TensorFlow Lite model in the file *path*, once for each of *num_pools* interpreters.

    As many requests are computed at once, each on one thread. With *num_interpreters_per_pool* above 1 a
    request has 500 rows at most and is computed in parts, of the rows that the model is made for, else of
    500 divided by that number. The file is read here and never again.

    Raises:
        MissingExtraError: LiteRT is not installed.
        InvalidArgumentError: Not a model, or a damaged one.
        UnimplementedError: The model has operations that LiteRT has not.
        InternalError: LiteRT cannot make an interpreter of it, or an input or output has a type that no
            array can have.
        AlreadyExistsError: Two inputs or two outputs have one name.
        PermissionDeniedError: The file may not be read.
        UnknownError: The file cannot be read.
    """
    try:
        content = _read(path)
        file = _parse(content)
        endpoints = name_endpoints(file)
        meta_graph_def = make_meta_graph_def(file, endpoints)

        def make_interpreter() -> TfliteInterpreter:
            return TfliteInterpreter(content, file.custom_operations)

        session = TfliteSession(
            path,
            file,
            endpoints,
            make_interpreter,
            _num_processors() if num_pools is None else max(1, num_pools),
            num_interpreters_per_pool,
            SystemClock() if clock is None else clock,
        )
    except InserveError as error:
        raise type(error)(f"{error.message} (of {path})") from error
    return LoadedTfliteModel(session, meta_graph_def)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except PermissionError as error:
        raise PermissionDeniedError(f"the model cannot be read: {error.strerror}") from error
    except OSError as error:
        raise UnknownError(f"the model cannot be read: {error.strerror}") from error


def _parse(content: bytes) -> TfliteFile:
    try:
        return parse_tflite_file(content)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"Cannot build FlatBufferModel from buffer. {error.message}") from error


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
