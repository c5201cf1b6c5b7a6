"""The devices TensorFlow sees."""

from __future__ import annotations

from typing import NamedTuple

from inserve.tensorflow_c import fork_guard
from inserve.tensorflow_c.intra_op_pool import intra_op_pool
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.session import GraphSession
from inserve.tensorflow_c.session_options import new_session_options
from inserve.tensorflow_c.status import decode_message, new_status, raise_for_status

__all__ = ["Device", "list_devices"]


class Device(NamedTuple):
    """One device of this process."""

    name: str
    """Such as ``/job:localhost/replica:0/task:0/device:GPU:0``."""
    device_type: str
    """``CPU``, ``GPU`` or the type of a plug-in."""
    memory_bytes: int
    """What TensorFlow may allocate there; for a CPU a nominal 256 MiB, not the machine's memory."""


def list_devices(config: bytes = b"") -> list[Device]:
    """Return the devices a session with *config*, a serialized ``ConfigProto``, can use.

    Opens TensorFlow's library and creates the devices, which on a GPU takes seconds and reserves
    memory as *config* says.

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
