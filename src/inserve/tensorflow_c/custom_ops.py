"""Libraries with operations that TensorFlow does not bring itself (``tf.load_op_library``).

What a graph needs and TensorFlow does not know, TensorFlow finds out while it loads: the wrapper
``with_custom_ops`` then looks for the package that has it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence

from inserve.errors import InserveError, error_from_code
from inserve.tensorflow_c import log
from inserve.tensorflow_c.custom_op_libraries import find_op_libraries, package_folders
from inserve.tensorflow_c.custom_op_packages import OpPackage, package_of_op
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.status import error_of, new_status

__all__ = ["load_custom_ops", "with_custom_ops"]

_UNKNOWN_OP = re.compile(r"Op type not registered '([^']+)'")

_LOGGER = logging.getLogger("inserve.tensorflow_c")

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


def with_custom_ops(load: LoadSavedModel, custom_ops: Sequence[str] = ()) -> LoadSavedModel:
    """Return *load* for models with operations that TensorFlow does not have.

    Before it loads a model, the libraries that *custom_ops* means (``find_op_libraries``) are loaded,
    once per process. A model with an operation that is still unknown is loaded again once the installed
    package that is known to have it has been loaded; where there is none, the error says what to
    install. Its code stays TensorFlow's NOT_FOUND.

    The function returned raises as *load* does, and as ``find_op_libraries`` and ``load_custom_ops``.
    """
    loaded: set[str] = set()

    def load_with_custom_ops(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        for entry in custom_ops:
            if entry not in loaded:
                _load_all(find_op_libraries(entry))
                loaded.add(entry)
        tried: set[OpPackage] = set()
        result = _result_of(load, path, tags, config)
        while isinstance(result, InserveError):
            match = _UNKNOWN_OP.search(result.message)
            if match is None:
                raise result
            package = package_of_op(match[1])
            if package is None or package in tried or not _load_package(package, match[1]):
                raise _explained(result, match[1], package, package in tried) from result
            tried.add(package)
            result = _result_of(load, path, tags, config)
        return result

    return load_with_custom_ops


def _result_of(
    load: LoadSavedModel, path: str, tags: Sequence[str], config: bytes
) -> LoadedModel | InserveError:
    try:
        return load(path, tags, config)
    except InserveError as error:
        return error


def _load_package(package: OpPackage, op: str) -> bool:
    """Load the libraries of *package*; return whether it is installed and has any that can be loaded."""
    if package_folders(package.module) is None:
        return False
    _LOGGER.info("loading the operations of %s: a model uses %s", package.distribution, op)
    try:
        _load_all(find_op_libraries(package.module))
    except InserveError as error:
        _LOGGER.warning("the operations of %s cannot be used: %s", package.distribution, error.message)
        return False
    return True


def _load_all(libraries: Sequence[str]) -> None:
    """Load *libraries*; of several, those that cannot be loaded are passed over with a warning.

    Raises:
        InserveError: None of them can be loaded.
    """
    errors = [error for library in libraries if (error := _error_of_loading(library)) is not None]
    if len(errors) == len(libraries):
        raise errors[0]
    for error in errors:
        _LOGGER.warning("%s", error.message)


def _error_of_loading(library: str) -> InserveError | None:
    try:
        load_custom_ops(library)
    except InserveError as error:
        return error
    return None


def _explained(
    error: InserveError, op: str, package: OpPackage | None, has_been_loaded: bool
) -> InserveError:
    if package is None:
        advice = (
            "Name the library that has it, or the installed package with that library, in custom_ops "
            "(--custom_ops)"
        )
    elif has_been_loaded:
        advice = (
            f"{package.distribution} is installed and was loaded, but has no such operation: "
            "install the version of it that the model was made with"
        )
    elif package_folders(package.module) is not None:
        advice = (
            f"{package.distribution} is installed, but its libraries cannot be loaded: install the version "
            "that was built for the TensorFlow installed here"
        )
    else:
        advice = f"It is in the package {package.distribution}: pip install --no-deps {package.distribution}"
    return error_from_code(
        error.code,
        f"the model uses the operation {op}, which TensorFlow does not have. {advice}. "
        f"TensorFlow says: {error.message}",
    )


def _renew_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_after_fork)
