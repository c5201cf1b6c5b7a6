"""Libraries with operations that TensorFlow does not bring itself (``tf.load_op_library``)."""

from __future__ import annotations

import os
import threading

from inserve.errors import error_from_code
from inserve.tensorflow_c import log
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.status import error_of, new_status

__all__ = ["load_custom_ops"]

_lock = threading.Lock()
_loaded: set[str] = set()


def load_custom_ops(path: str | os.PathLike[str]) -> None:
    """Make the operations in the shared library *path* available to models loaded from now on.

    A library is loaded once per process, by its real path; it stays until the process ends. It runs
    code: load only what you trust. It has to be built for the TensorFlow version installed.

    Raises:
        InserveError: What TensorFlow said, with its code, such as ``NotFoundError`` for a file that
            is missing, is no library, or was built for another version; the text names *path*.
        MissingExtraError: TensorFlow is not installed.
    """
    real_path = os.path.realpath(os.fspath(path))
    library = load_library()
    with _lock:
        if real_path in _loaded:
            return
        status = new_status(library)
        # The handle only frees the list of operations; the library itself cannot be closed.
        library.ffi.gc(
            library.lib.TF_LoadLibrary(os.fsencode(real_path), status), library.lib.TF_DeleteLibraryHandle
        )
        error = error_of(library, status)
        if error is not None:
            raise error_from_code(error.code, f"cannot load the operations in {real_path}: {error.message}")
        _loaded.add(real_path)
    log.raise_interrupt()


def _renew_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_after_fork)
