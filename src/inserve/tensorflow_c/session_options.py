"""``TF_SessionOptions`` from a serialized ``ConfigProto``."""

from __future__ import annotations

from typing import Any

from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.status import new_status, raise_for_status

__all__ = ["new_session_options"]


def new_session_options(library: Library, config: bytes) -> Any:
    """Return a new ``TF_SessionOptions *`` with *config*, freed with the Python object.

    Raises:
        InvalidArgumentError: *config* is no ``tensorflow.ConfigProto``.
    """
    lib = library.lib
    options = library.ffi.gc(lib.TF_NewSessionOptions(), lib.TF_DeleteSessionOptions)
    if config:
        status = new_status(library)
        lib.TF_SetConfig(options, config, len(config), status)
        raise_for_status(library, status)
    return options
