"""The thread pool factory config file. No factory exists, neither here nor in the C++ server's own binary.

Rules: TensorFlow Serving, ``servables/tensorflow/thread_pool_factory_config.proto``.
"""

from __future__ import annotations

import os

from inserve.errors import NotFoundError
from inserve.protos import messages
from inserve.server.config_files import read_text_proto

__all__ = ["check_thread_pool_factory_config"]


def check_thread_pool_factory_config(path: str | os.PathLike[str]) -> None:
    """Return if the ``ThreadPoolFactoryConfig`` text file *path* is valid and names no factory.

    Raises:
        NotFoundError: it names one.
        InserveError: what ``read_text_proto`` raises.
    """
    config = read_text_proto(path, messages.ThreadPoolFactoryConfig)
    if config.HasField("thread_pool_factory_config"):
        kind = config.thread_pool_factory_config.type_url.rpartition("/")[2]
        raise NotFoundError(f"no thread pool factory is registered for {kind or 'an empty config'}")
