"""A server with a REST port in a process of its own, to be fed with whatever a test thinks up.

usage: python rest_fuzz_child.py FD CHECK_SHAPES MODELS NAME...

FD is an inherited socket that speaks ``multiprocessing.connection``. The child sends the port of its REST
server and, by model, the serialized answer to GetModelMetadata. Then it answers each item but None, which
ends it, with ``(defects, peak_bytes)``: what was logged as an error or went unhandled since the last time,
and the largest size that the process ever had.
"""

from __future__ import annotations

import faulthandler
import logging
import resource
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection

import inserve
from inserve.frontends.grpc_api.method import CallContext
from inserve.protos import messages

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
TENSORFLOW = "inserve.tensorflow"

_UNIT = 1 if sys.platform == "darwin" else 1024


class Defects(logging.Handler):
    """Collects what nobody should ever see: errors in the log, and what no thread has caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != TENSORFLOW:
            trace = "" if record.exc_info is None else "".join(traceback.format_exception(*record.exc_info))
            self.found.append(f"{record.name}: {record.getMessage()}\n{trace[-4000:]}")

    def on_uncaught(self, uncaught: threading.ExceptHookArgs) -> None:
        self.found.append(f"uncaught in a thread: {uncaught.exc_value!r}")

    def take(self) -> list[str]:
        found, self.found = self.found, []
        return found


def _metadata(server: inserve.Server, name: str) -> bytes:
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    return server.grpc_methods[METADATA](request.SerializeToString(), CallContext())


def _main(descriptor: int, check_shapes: bool, models: str, names: list[str]) -> None:
    faulthandler.enable()
    defects = Defects()
    logging.getLogger().addHandler(defects)
    threading.excepthook = defects.on_uncaught
    connection = Connection(socket.socket(fileno=descriptor).detach())
    server = inserve.Server(
        {name: f"{models}/{name}" for name in names},
        rest="127.0.0.1:0",
        check_shapes=check_shapes,
        poll_interval=None,
        tune=False,
    )
    with server:
        connection.send((server.rest_port, {name: _metadata(server, name) for name in names}))
        while connection.recv() is not None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
            connection.send((defects.take(), peak))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3], sys.argv[4:])
