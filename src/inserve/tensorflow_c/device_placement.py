"""Loads SavedModels onto a device of choice.

TensorFlow's loader takes no device, and a process maps its GPUs once, so that a session cannot be given
one of them by ``visible_device_list``. What a session does obey is the device that a node of the graph
names. Hence a copy of ``saved_model.pb`` is loaded in which the nodes name the device; variables and
assets are linked beside it.

Nodes in the bodies of functions run where the node runs that calls the function, so of those only the
ones change that name an accelerator.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

from inserve.errors import (
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
    error_from_code,
)
from inserve.protos.wire import LENGTH_DELIMITED, encode_length_delimited_header, read_varint
from inserve.tensorflow_c.devices import check_device, short_device_name
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel

__all__ = ["place_on", "write_placed"]

_GRAPH_FILE = "saved_model.pb"

_LOGGER = logging.getLogger("inserve.tensorflow_c")

_ALLOW_SOFT_PLACEMENT = b"\x38\x01"
"""Field 7 of ConfigProto, true: an operation without a kernel for its device runs on the CPU."""

_META_GRAPHS = 2  # of SavedModel
_GRAPH_DEF = 2  # of MetaGraphDef
_NODE, _LIBRARY = 1, 2  # of GraphDef
_FUNCTION = 1  # of FunctionDefLibrary
_FUNCTION_NODE = 3  # of FunctionDef
_NODE_DEVICE = 4  # of NodeDef

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_HIGH_BIT = 0x80

_DEVICE_TYPE = re.compile(rb"/(?:device:([^:/]+)|(cpu|gpu)(?=[:/]|$))", re.I)
_STAYS = (b"CPU", b"XLA_CPU")
_MARKS_OF_DEVICES = (b"/device:", b"/gpu:", b"/GPU:")
"""One of these is in every name of an accelerator."""

_Piece: TypeAlias = "bytes | tuple[int, int]"
"""New bytes, or start and end of old ones."""
_Edit: TypeAlias = "Callable[[int, int], tuple[list[_Piece], int] | None]"
"""Returns pieces and size of what replaces the field between two positions; None: it stays."""


def place_on(load: LoadSavedModel, device: str) -> LoadSavedModel:
    """Return what loads a SavedModel with *load*, all of it on *device* (``GPU:1``, ``/device:GPU:1``).

    Nodes that name no device or any accelerator are placed there; those that name a CPU stay, and so do
    operations that have no kernel for the device, on the CPU (``allow_soft_placement``, which is switched
    on). Texts of errors name the original folder, TensorFlow's log lines during the load the copy.

    The function returned raises as *load* does, and:

    Raises:
        InvalidArgumentError: There is no such device, or ``saved_model.pb`` cannot be read.
        UnimplementedError: The folder has its graph in another form than ``saved_model.pb``.
        NotFoundError, FailedPreconditionError: The copy cannot be made, for instance because the system's
            folder for temporary files (``TMPDIR``) is full.
        ValueError: *device* is no name of a device (from ``place_on`` itself).
    """
    name = short_device_name(device)

    def load_placed(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        config += _ALLOW_SOFT_PLACEMENT
        if not os.path.isfile(os.path.join(path, _GRAPH_FILE)):
            load(path, tags, config).close()  # says what is wrong with the folder, usually
            raise UnimplementedError(f"{path} has no {_GRAPH_FILE}, so it cannot be placed on {name}")
        check_device(name, config)
        with _placed_copy(path, f"/device:{name}".encode()) as folder:
            _LOGGER.info("loading %s on %s by way of %s", path, name, folder)
            try:
                return load(folder, tags, config)
            except InserveError as error:
                raise error_from_code(error.code, error.message.replace(folder, path)) from error

    return load_placed


@contextmanager
def _placed_copy(path: str, device: bytes) -> Iterator[str]:
    """Have a folder like *path*, with the graph placed on *device*; it is deleted afterwards."""
    folder = ""
    try:
        try:
            folder = tempfile.mkdtemp(prefix="inserve-placed-")
            for entry in os.listdir(path):
                if entry != _GRAPH_FILE:
                    os.symlink(os.path.abspath(os.path.join(path, entry)), os.path.join(folder, entry))
            with open(os.path.join(folder, _GRAPH_FILE), "wb") as target:
                write_placed(os.path.join(path, _GRAPH_FILE), target, device)
        except FileNotFoundError as error:
            raise NotFoundError(f"{error.filename}: {error.strerror}") from error
        except OSError as error:
            raise FailedPreconditionError(
                f"no copy of {path} can be made in {folder or tempfile.gettempdir()} "
                f"to place it on a device: {error.strerror}"
            ) from error
        yield folder
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def write_placed(path: str, target: BinaryIO, device: bytes) -> None:
    """Write the serialized SavedModel in the file *path* to *target*, its nodes placed on *device*.

    Everything else stays byte for byte; memory is needed for the positions of changes only.

    Raises:
        InvalidArgumentError: The file is no serialized SavedModel.
        OSError: What reading or writing failed with.
    """
    with open(path, "rb") as source:
        if os.fstat(source.fileno()).st_size == 0:
            return
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            try:
                pieces = _Placement(mapped, view, device).pieces()
            except (ValueError, IndexError) as error:
                raise InvalidArgumentError(f"{path} is no serialized SavedModel: {error}") from error
            for piece in pieces:
                if isinstance(piece, bytes):
                    target.write(piece)
                else:
                    target.write(view[piece[0] : piece[1]])


class _Placement:
    """What changes in a serialized SavedModel, *mapped* and *view* of the same bytes."""

    def __init__(self, mapped: mmap.mmap, view: memoryview, device: bytes) -> None:
        self._mapped = mapped
        self._view = view
        self._field = encode_length_delimited_header(_NODE_DEVICE, len(device)) + device

    def pieces(self) -> list[_Piece]:
        changed = self._message({_META_GRAPHS: self._meta_graph}, 0, len(self._view))
        return [(0, len(self._view))] if changed is None else changed[0]

    def _meta_graph(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        return self._message({_GRAPH_DEF: self._graph}, start, stop)

    def _graph(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        return self._message({_NODE: self._node, _LIBRARY: self._library}, start, stop)

    def _library(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        return self._message({_FUNCTION: self._function}, start, stop)

    def _function(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        if all(self._mapped.find(mark, start, stop) < 0 for mark in _MARKS_OF_DEVICES):
            return None
        return self._message({_FUNCTION_NODE: self._function_node}, start, stop)

    def _node(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        return self._placed(start, stop, self._device_of(start, stop))

    def _function_node(self, start: int, stop: int) -> tuple[list[_Piece], int] | None:
        device = self._device_of(start, stop)
        return self._placed(start, stop, device) if _type_of(device) else None

    def _device_of(self, start: int, stop: int) -> bytes:
        device = b""
        for number, _, first, last in _fields(self._view, start, stop):
            if number == _NODE_DEVICE:
                device = bytes(self._view[first:last])
        return device

    def _placed(self, start: int, stop: int, device: bytes) -> tuple[list[_Piece], int] | None:
        """Return the node with the device behind all of it: of two, the last one counts."""
        if _type_of(device) in _STAYS:
            return None
        return [(start, stop), self._field], stop - start + len(self._field)

    def _message(self, edits: Mapping[int, _Edit], start: int, stop: int) -> tuple[list[_Piece], int] | None:
        """Return the message between *start* and *stop* with *edits* of its fields, by their numbers."""
        pieces: list[_Piece] = []
        size = 0
        copied = start
        for number, tag, first, last in _fields(self._view, start, stop):
            edit = edits.get(number)
            changed = None if edit is None else edit(first, last)
            if changed is None:
                continue
            header = encode_length_delimited_header(number, changed[1])
            pieces += [(copied, tag), header, *changed[0]]
            size += tag - copied + len(header) + changed[1]
            copied = last
        if not pieces:
            return None
        pieces.append((copied, stop))
        return pieces, size + stop - copied


def _type_of(device: bytes) -> bytes:
    """Return the type in the name of a device, in capitals; empty where it has none."""
    match = _DEVICE_TYPE.search(device)
    return b"" if match is None else (match[1] or match[2]).upper()


def _fields(data: memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, start of the tag, start and end of the value of each length-delimited field.

    Raises:
        ValueError: The message has a group, or a field reaches beyond *stop*.
        IndexError: *data* ends inside a field.
    """
    position = start
    while position < stop:
        begin = position
        tag, position = read_varint(data, position)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            length, position = read_varint(data, position)
            if position + length > stop:
                raise ValueError(f"the field at byte {begin} claims {length} bytes")
            yield tag >> 3, begin, position, position + length
            position += length
        elif wire_type == _VARINT:
            while data[position] & _HIGH_BIT:
                position += 1
            position += 1
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise ValueError(f"the field at byte {begin} has wire type {wire_type}")
    if position != stop:
        raise ValueError(f"a message ends at byte {position}, expected {stop}")
