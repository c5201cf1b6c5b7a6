"""What a Python caller may pass for one input, turned into the array its signature takes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.saved_model.signature import TensorSpec

__all__ = ["array_from_value"]

_REAL_KINDS = "iuf"


def array_from_value(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """Return *value* (array, number, string, nested sequence, anything with ``__array__``) as an array.

    An array of the right dtype is returned itself. Otherwise values are converted where their kind
    stays and they fit: floats to floats of any width (rounded), whole numbers to floats, whole
    numbers to whole numbers that can hold each of them. For strings, ``bytes`` are taken, and
    ``str``, which becomes UTF-8.

    Raises:
        InvalidArgumentError: The nesting is ragged, or a value is of another kind or does not fit.
        MemoryError: A converted copy does not fit into memory.
    """
    dtype = spec.dtype
    if type(value) is np.ndarray and (value.dtype is dtype or value.dtype == dtype):
        return value if dtype.kind != "O" else _strings(value, spec)
    if dtype is None:
        raise InvalidArgumentError(f"Input {spec.alias} is a {spec.type_name()}, which no caller can pass")
    try:
        array = np.asarray(value, dtype=object) if dtype == np.object_ else np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"Input {spec.alias} is not a rectangular array: {error}") from error
    if dtype == np.object_:
        return _strings(array, spec)
    if array.dtype == dtype:
        return array
    if array.size == 0:
        return np.empty(array.shape, dtype)
    return _converted(array, dtype, spec)


def _strings(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Return the object *array* itself if it holds nothing but ``bytes``, else a copy that does."""
    values = array.ravel().tolist()
    if set(map(type, values)) <= {bytes}:
        return array
    encoded = [_encoded(value, spec) for value in values]
    return np.fromiter(encoded, np.object_, len(encoded)).reshape(array.shape)


def _encoded(value: Any, spec: TensorSpec) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        kind = "a ragged sequence" if isinstance(value, (list, tuple)) else type(value).__name__
        raise InvalidArgumentError(f"Input {spec.alias} takes strings (str or bytes), got {kind}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"Input {spec.alias} takes text that UTF-8 can hold, got a lone surrogate at {error.start}"
        ) from error


def _converted(array: NDArray[Any], dtype: np.dtype[Any], spec: TensorSpec) -> NDArray[Any]:
    storage = dtype if dtype.names is None else dtype[0]
    came = array.dtype
    try:
        # First of all: an array without memory of its own (``np.broadcast_to``) may claim any size.
        converted = np.empty(array.shape, storage)
    except ValueError as error:
        raise InvalidArgumentError(f"Input {spec.alias} has an impossible size: {error}") from error
    if came == storage:
        fits = True
    elif _is_float(storage):
        fits = came.kind in _REAL_KINDS or _is_float(came) or came == np.bool_
    elif storage.kind == "c":
        fits = came.kind in _REAL_KINDS + "c"
    elif storage == np.bool_:
        fits = False
    else:
        fits = came == np.bool_ or (came.kind in "iu" and _within(array, storage))
    if not fits:
        shown = f"values from {array.min()} to {array.max()}" if came.kind in "iu" else f"{came} values"
        raise InvalidArgumentError(f"Input {spec.alias} takes {spec.type_name()}, got {shown}")
    np.copyto(converted, array, casting="unsafe")
    return converted if dtype.names is None else converted.view(dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    """Whether *dtype* is real floating point, those of ml_dtypes included (NumPy calls them void)."""
    if dtype.kind in "fiubcOSU":
        return dtype.kind == "f"
    return "float" in dtype.name


def _within(array: NDArray[Any], storage: np.dtype[Any]) -> bool:
    limits: Any = ml_dtypes.iinfo(storage)  # type: ignore[no-untyped-call]
    return bool(int(array.min()) >= int(limits.min) and int(array.max()) <= int(limits.max))
