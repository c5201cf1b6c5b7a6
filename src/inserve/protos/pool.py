"""The private descriptor pool, filled file by file as message types are asked for.

The shipped descriptor set is read at the first use, not at import. Safe from any thread.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

__all__ = ["descriptor_pool", "enum_type", "file_names", "message_class", "top_level_types"]


class _LazyPool:
    """A descriptor pool and the files that are not in it yet."""

    def __init__(self) -> None:
        serialized = Path(__file__).with_name("descriptors.binpb").read_bytes()
        descriptor_set = descriptor_pb2.FileDescriptorSet.FromString(serialized)
        self._lock = threading.RLock()
        self._missing = {file.name: file for file in descriptor_set.file}
        self._pool = DescriptorPool()
        self.file_names = tuple(self._missing)
        self.full_names: dict[str, str] = {}
        self.file_of: dict[str, str] = {}
        for file in descriptor_set.file:
            prefix = file.package + "."
            for types in (file.message_type, file.enum_type):
                for declared in types:
                    self.full_names[declared.name] = prefix + declared.name
                    self.file_of[prefix + declared.name] = file.name

    def with_file(self, file_name: str) -> DescriptorPool:
        """Return the pool once *file_name* and all that it imports are in it."""
        with self._lock:
            file = self._missing.pop(file_name, None)
            if file is not None:
                for dependency in file.dependency:
                    self.with_file(dependency)
                self._pool.AddSerializedFile(file.SerializeToString())
            return self._pool


@functools.cache
def _lazy_pool() -> _LazyPool:
    return _LazyPool()


def descriptor_pool() -> DescriptorPool:
    """Return the pool with every file in it: for text format with ``Any``, reflection, services."""
    lazy = _lazy_pool()
    for file_name in lazy.file_names:
        lazy.with_file(file_name)
    return lazy.with_file(lazy.file_names[0])


def file_names() -> tuple[str, ...]:
    """Return the names of all files, each after those that it imports."""
    return _lazy_pool().file_names


def top_level_types() -> dict[str, str]:
    """Return the full name of every top-level message and enum by its own name (``TensorProto``)."""
    return dict(_lazy_pool().full_names)


def message_class(full_name: str) -> type[Message]:
    """Return the class of a top-level message, such as ``tensorflow.TensorProto``.

    Raises:
        KeyError: There is no such message.
    """
    lazy = _lazy_pool()
    pool = lazy.with_file(lazy.file_of[full_name])
    descriptor: Any = pool.FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)


def enum_type(full_name: str) -> EnumTypeWrapper:
    """Return names and numbers of a top-level enum, such as ``tensorflow.DataType``.

    Raises:
        KeyError: There is no such enum.
    """
    lazy = _lazy_pool()
    pool = lazy.with_file(lazy.file_of[full_name])
    descriptor: Any = pool.FindEnumTypeByName(full_name)
    return EnumTypeWrapper(descriptor)
