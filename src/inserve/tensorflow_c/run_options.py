"""Serialized ``RunOptions`` for the two executors, prepared once and shared by all runs.

Fields: ``tensorflow/core/protobuf/config.proto``, ``timeout_in_ms = 2``,
``inter_op_thread_pool = 3``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.wire import varint

__all__ = ["calling_thread_options", "timeout_options"]

_TIMEOUT_IN_MS_TAG = b"\x10"
_INTER_OP_THREAD_POOL_TAG = b"\x18"
_LONGEST_TIMEOUT_S = 10 * 365 * 86400.0


def calling_thread_options(library: Library) -> Any:
    """Return the ``TF_Buffer *`` that makes a run execute on the thread that calls it."""
    return _options(library, _INTER_OP_THREAD_POOL_TAG + varint(-1))


def timeout_options(library: Library, timeout_s: float) -> Any:
    """Return the ``TF_Buffer *`` of a run on the pool that ends after *timeout_s* seconds.

    Rounded up to whole milliseconds, at least one, because TensorFlow takes 0 as no limit. Above
    ten years it is ten years.
    """
    milliseconds = math.ceil(min(timeout_s, _LONGEST_TIMEOUT_S) * 1000)
    return _options(library, _TIMEOUT_IN_MS_TAG + varint(max(1, milliseconds)))


@functools.lru_cache(maxsize=256)
def _options(library: Library, serialized: bytes) -> Any:
    buffer = library.lib.TF_NewBufferFromString(serialized, len(serialized))
    return library.ffi.gc(buffer, library.lib.TF_DeleteBuffer)
