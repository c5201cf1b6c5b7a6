"""``TF_SessionOptions`` from a serialized ``ConfigProto``."""

from __future__ import annotations

import os
from typing import Any

from google.protobuf.message import DecodeError

from inserve.protos import messages
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.status import new_status, raise_for_status
from inserve.tensorflow_c.usable_cpus import schedulable_cpus, usable_cpus
from inserve.tensorflow_c.wire import varint

__all__ = ["intra_op_threads", "new_session_options", "with_intra_op_threads", "within_quota"]

_INTRA_OP_PARALLELISM_THREADS_TAG = b"\x10"
_INTER_OP_PARALLELISM_THREADS_TAG = b"\x28"


def new_session_options(library: Library, config: bytes) -> Any:
    """Return a new ``TF_SessionOptions *`` with *config*, freed with the Python object.

    TensorFlow gives its pools as many threads as there are processors, also where a control group lets
    the process use fewer. There the numbers that *config* and the environment leave open are filled in.

    Raises:
        InvalidArgumentError: *config* is no ``tensorflow.ConfigProto``.
    """
    lib = library.lib
    options = library.ffi.gc(lib.TF_NewSessionOptions(), lib.TF_DeleteSessionOptions)
    config = within_quota(config, usable_cpus(), schedulable_cpus())
    if config:
        status = new_status(library)
        lib.TF_SetConfig(options, config, len(config), status)
        raise_for_status(library, status)
    return options


def intra_op_threads(config: bytes) -> int:
    """Return ``intra_op_parallelism_threads`` of the serialized *config*; 0 if it leaves them open."""
    try:
        return messages.ConfigProto.FromString(config).intra_op_parallelism_threads if config else 0
    except DecodeError:
        return 0


def with_intra_op_threads(config: bytes, threads: int) -> bytes:
    """Return the serialized *config* with ``intra_op_parallelism_threads``, as the last word on it."""
    return config + _INTRA_OP_PARALLELISM_THREADS_TAG + varint(threads)


def within_quota(config: bytes, usable: int, schedulable: int) -> bytes:
    """Return *config* with pools of *usable* threads where it and the environment leave that open.

    As it is if that is no fewer than the *schedulable* processors, TensorFlow's own choice.
    """
    if usable >= schedulable:
        return config
    try:
        proto = messages.ConfigProto.FromString(config)
    except DecodeError:
        return config  # TensorFlow says what is wrong
    if not proto.intra_op_parallelism_threads and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        config = with_intra_op_threads(config, usable)
    if not proto.inter_op_parallelism_threads and "TF_NUM_INTEROP_THREADS" not in os.environ:
        config += _INTER_OP_PARALLELISM_THREADS_TAG + varint(usable)
    return config
