"""The devices TensorFlow sees, their names, and how much of a GPU's memory a process takes."""

from __future__ import annotations

import re
from typing import NamedTuple

from google.protobuf.message import DecodeError

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensorflow_c import fork_guard
from inserve.tensorflow_c.intra_op_pool import intra_op_pool
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.session import GraphSession
from inserve.tensorflow_c.session_options import new_session_options
from inserve.tensorflow_c.status import decode_message, new_status, raise_for_status

__all__ = ["Device", "check_device", "list_devices", "short_device_name", "with_gpu_memory"]

_NAME = re.compile(
    r"(?:/job:[^/]+(?:/replica:\d+)?(?:/task:\d+)?(?=/))?/?(?:device:)?([A-Za-z_]+)(?::(\d{1,5}))?", re.ASCII
)


class Device(NamedTuple):
    """One device of this process."""

    name: str
    """Such as ``/job:localhost/replica:0/task:0/device:GPU:0``."""
    device_type: str
    """``CPU``, ``GPU`` or the type of a plug-in."""
    memory_bytes: int
    """What TensorFlow may allocate there; for a CPU a nominal 256 MiB, not the machine's memory."""

    @property
    def short_name(self) -> str:
        """Such as ``GPU:0``."""
        return short_device_name(self.name)


def short_device_name(name: str) -> str:
    """Return *name* in the form ``GPU:1``.

    Taken are ``GPU:1``, ``GPU`` (the first one), ``/GPU:1``, ``/device:GPU:1``, all these in small letters,
    and the full names that ``Device`` has.

    Raises:
        ValueError: *name* is nothing of this.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"expected the name of a device, such as GPU:0, got {name!r}")
    return f"{match[1].upper()}:{int(match[2] or 0)}"


def check_device(name: str, config: bytes = b"") -> None:
    """Check that sessions with *config* can use the device *name*; see ``list_devices``.

    Raises:
        InvalidArgumentError: There is no such device; the text names those that there are.
        ValueError: *name* is no name of a device.
    """
    wanted = short_device_name(name)
    names = [device.short_name for device in list_devices(config)]
    if wanted not in names:
        raise InvalidArgumentError(f"there is no device {wanted}: TensorFlow sees {', '.join(names)}")


def with_gpu_memory(config: bytes, growth: bool = True, fraction: float | None = None) -> bytes:
    """Return the serialized ``ConfigProto`` *config* with what a process takes of a GPU's memory.

    With *growth* it is taken as it is needed, where *config* has no ``gpu_options`` at all; one that has
    says so itself. *fraction* is the most that is taken, a share of each GPU's memory; None leaves what
    *config* says. TensorFlow heeds both at the first session of a process that sees the GPU, and never
    gives memory back.

    Raises:
        ValueError: *fraction* is not above 0 and at most 1.
    """
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"the share of a GPU's memory is {fraction}, expected above 0 and at most 1")
    try:
        proto = messages.ConfigProto.FromString(config)
    except DecodeError:
        return config  # TensorFlow says what is wrong
    if growth and not proto.HasField("gpu_options"):
        proto.gpu_options.allow_growth = True
    if fraction is not None:
        proto.gpu_options.per_process_gpu_memory_fraction = fraction
    return proto.SerializeToString(deterministic=True)


def list_devices(config: bytes = b"") -> list[Device]:
    """Return the devices a session with *config*, a serialized ``ConfigProto``, can use.

    Opens TensorFlow's library and creates the devices, which on a GPU takes seconds the first time, and
    reserves memory as *config* says; without growth (``with_gpu_memory``) that is nearly all of it.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        InserveError: What TensorFlow said.
    """
    fork_guard.check_not_forked()
    library = load_library()
    ffi, lib = library.ffi, library.lib
    status = new_status(library)
    options = new_session_options(library, config)
    graph = lib.TF_NewGraph()
    # The first session makes the pool of all, with the priority of this thread.
    with intra_op_pool(library, own=False):
        pointer = lib.TF_NewSession(graph, options, status)
    try:
        raise_for_status(library, status)
    except BaseException:
        lib.TF_DeleteGraph(graph)
        raise
    session = GraphSession(library, pointer, graph, "the device list")
    try:
        devices = ffi.gc(lib.TF_SessionListDevices(pointer, status), lib.TF_DeleteDeviceList)
        raise_for_status(library, status)
        return [
            Device(
                decode_message(ffi.string(lib.TF_DeviceListName(devices, index, status))),
                decode_message(ffi.string(lib.TF_DeviceListType(devices, index, status))),
                lib.TF_DeviceListMemoryBytes(devices, index, status),
            )
            for index in range(lib.TF_DeviceListCount(devices))
        ]
    finally:
        session.close()
