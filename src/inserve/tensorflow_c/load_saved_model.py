"""Opens a SavedModel directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from inserve.errors import InserveError, NotFoundError, UnimplementedError
from inserve.tensorflow_c import fork_guard, log
from inserve.tensorflow_c.intra_op_pool import intra_op_pool
from inserve.tensorflow_c.library import Library, load_library
from inserve.tensorflow_c.process_end import load_in_progress
from inserve.tensorflow_c.run_options import calling_thread_options
from inserve.tensorflow_c.session import GraphSession
from inserve.tensorflow_c.session_options import intra_op_threads, new_session_options
from inserve.tensorflow_c.status import error_of, new_status

__all__ = ["LoadedSavedModel", "load_saved_model"]

_NO_SAVED_MODEL = "Could not find SavedModel .pb or .pbtxt at supplied export directory path"


class LoadedSavedModel:
    """A SavedModel in memory; implements ``interface.LoadedModel``."""

    def __init__(self, session: GraphSession, meta_graph_def: bytes) -> None:
        self._session = session
        self._meta_graph_def = meta_graph_def

    def __repr__(self) -> str:
        return f"<LoadedSavedModel {self._session!r}>"

    @property
    def session(self) -> GraphSession:
        return self._session

    @property
    def meta_graph_def(self) -> bytes:
        """The serialized ``tensorflow.MetaGraphDef`` that was loaded, signatures included."""
        return self._meta_graph_def

    def close(self) -> None:
        """Close the session once no run is in progress; more calls do nothing."""
        self._session.close()


def load_saved_model(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedSavedModel:
    """Load the meta graph with exactly *tags* from the SavedModel directory *path*.

    *config* is a serialized ``tensorflow.ConfigProto``. Blocks while variables are restored and the
    initialisation of the model runs, all on the calling thread: TensorFlow's pool stays free for the
    models that are being served, and the priority of the caller is that of the load. Where *config* asks
    for one intra-op thread, the session has it for itself (``intra_op_pool``).

    Raises:
        InserveError: What TensorFlow said, with its code and text unchanged; for a directory that is
            no SavedModel, what TensorFlow Serving says.
        MissingExtraError: TensorFlow is not installed.
        FailedPreconditionError: TensorFlow is too old, or this process is a fork of one that had
            loaded a model.
        ValueError: *path* or a tag contains a NUL character.
    """
    encoded_path = _encode(path, "path")
    encoded_tags = [_encode(tag, "tag") for tag in tags]
    fork_guard.check_not_forked()
    if os.path.exists(os.path.join(path, "export.meta")):
        raise UnimplementedError("Session Bundle is deprecated and removed.")
    library = load_library()
    ffi, lib = library.ffi, library.lib
    status = new_status(library)
    options = new_session_options(library, config)
    meta_graph = ffi.gc(lib.TF_NewBuffer(), lib.TF_DeleteBuffer)
    tag_strings = [ffi.new("char[]", tag) for tag in encoded_tags]
    tag_array = ffi.new("char *[]", tag_strings)
    graph = lib.TF_NewGraph()
    with load_in_progress(), intra_op_pool(library, intra_op_threads(config) == 1):
        pointer = lib.TF_LoadSessionFromSavedModel(
            options,
            calling_thread_options(library),
            encoded_path,
            tag_array,
            len(tag_strings),
            graph,
            meta_graph,
            status,
        )
    error = error_of(library, status)
    if error is not None:
        lib.TF_DeleteGraph(graph)
        raise _in_words_of_serving(error, path)
    model = LoadedSavedModel(GraphSession(library, pointer, graph, path), _bytes(library, meta_graph))
    log.raise_interrupt()
    return model


def _in_words_of_serving(error: InserveError, path: str) -> InserveError:
    """Return *error*, or what TensorFlow Serving says where it looks before it calls the loader.

    Source: ``tensorflow_serving/servables/tensorflow/bundle_factory_util.cc`` and
    ``session_bundle/session_bundle_util.cc``, as a client sees them.
    """
    if isinstance(error, NotFoundError) and error.message.startswith(_NO_SAVED_MODEL):
        return NotFoundError(
            "Specified file path does not appear to contain a SavedModel bundle "
            f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
        )
    return error


def _encode(text: str, what: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"a {what} has no NUL characters, got {text!r}")
    return os.fsencode(text)


def _bytes(library: Library, buffer: Any) -> bytes:
    return bytes(library.ffi.buffer(buffer.data, buffer.length)) if buffer.length else b""
