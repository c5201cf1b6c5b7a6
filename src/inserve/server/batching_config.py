"""The batching parameters file: how requests are merged into batches.

Rules: TensorFlow Serving, ``model_servers/server.cc``.
"""

from __future__ import annotations

import os

from inserve.batching.options import BatchingOptions, batching_options_from_message
from inserve.protos import messages
from inserve.server.config_files import read_text_proto

__all__ = ["read_batching_options"]


def read_batching_options(path: str | os.PathLike[str] | None, strict: bool) -> BatchingOptions:
    """Return what the ``BatchingParameters`` text file *path* says; None: the defaults.

    Ranges are checked where the options are used.

    Raises:
        InserveError: what ``read_text_proto`` raises.
    """
    if path is None:
        return BatchingOptions(thread_pool_name="model_server_batch_threads", strict=strict)
    return batching_options_from_message(read_text_proto(path, messages.BatchingParameters), strict)
