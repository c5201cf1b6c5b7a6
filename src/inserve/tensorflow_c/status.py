"""``TF_Status`` becomes an ``InserveError``: the only place where it does.

A status belongs to one call at a time.
"""

from __future__ import annotations

from typing import Any

from inserve.errors import InserveError, error_from_code
from inserve.tensorflow_c.library import Library

__all__ = ["decode_message", "error_of", "new_status", "raise_for_status"]


def decode_message(message: bytes) -> str:
    """Return the text of a message of TensorFlow.

    Messages quote what a request carried, so they may not be UTF-8; each byte is one character
    then, which is what Python clients of gRPC show.
    """
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        return message.decode("latin-1")


def new_status(library: Library) -> Any:
    """Return a new ``TF_Status *``, freed with the Python object."""
    return library.ffi.gc(library.lib.TF_NewStatus(), library.lib.TF_DeleteStatus)


def error_of(library: Library, status: Any) -> InserveError | None:
    """Return the error that *status* stands for, code and text unchanged, or None for OK."""
    code = library.lib.TF_GetCode(status)
    if code == 0:
        return None
    message = library.ffi.string(library.lib.TF_Message(status))
    text = decode_message(message)
    error = error_from_code(code, text)
    if text.encode("utf-8") != message:
        error.message_bytes = message
    return error


def raise_for_status(library: Library, status: Any) -> None:
    """Return if *status* is OK.

    Raises:
        InserveError: What *status* says, code and text unchanged.
    """
    error = error_of(library, status)
    if error is not None:
        raise error
