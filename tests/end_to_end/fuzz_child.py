"""A server in a process of its own, to be fed with whatever a test thinks up.

usage: python fuzz_child.py FD CHECK_SHAPES MODELS NAME...

FD is an inherited socket that speaks ``multiprocessing.connection``. The child sends the port of its
gRPC server, then answers each item with ``(code, text, response, peak_bytes)``:

- ``("message", path, request)``: what the gRPC method at *path* says, called directly;
- ``("values", source)``: what ``server.predict(*args, **kwargs)`` says, where the Python expression
  *source* has the value ``(args, kwargs)``.

*code* is a canonical code, ``DEFECT`` (-2) with the traceback as its text, or ``NO_VALUE`` (-3) where
*source* has no value.
"""

from __future__ import annotations

import array
import faulthandler
import fractions
import resource
import socket
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from typing import Any

import ml_dtypes
import numpy as np

import inserve
from inserve.errors import Code, InserveError
from inserve.frontends.grpc_api.method import CallContext

DEFECT = -2
NO_VALUE = -3

_OK = 0
_UNIT = 1 if sys.platform == "darwin" else 1024


class Subclass(np.ndarray):
    """An array that is more than an array."""


def mapped(values: Any) -> Any:
    """Return *values* as an array that lies in a file."""
    values = np.asarray(values)
    with tempfile.TemporaryFile() as file:
        copy = np.memmap(file, values.dtype, "w+", shape=values.shape)
    copy[...] = values
    return copy


def nested(value: Any, depth: int) -> Any:
    """Return *value* inside so many lists."""
    for _ in range(depth):
        value = [value]
    return value


_NAMES = {
    "np": np,
    "ml_dtypes": ml_dtypes,
    "array": array.array,
    "Fraction": fractions.Fraction,
    "Subclass": Subclass,
    "mapped": mapped,
    "nested": nested,
    "string_dtype": getattr(getattr(np, "dtypes", None), "StringDType", str)(),
}


def _answer(server: inserve.Server, item: tuple[Any, ...]) -> tuple[int, object, bytes]:
    try:
        if item[0] == "values":
            try:
                arguments, options = eval(item[1], dict(_NAMES))
            except (TypeError, ValueError, OverflowError, MemoryError) as error:
                return NO_VALUE, repr(error), b""
            outputs = server.predict(*arguments, **options)
            bad = [alias for alias, value in outputs.items() if not isinstance(value, np.ndarray)]
            return (DEFECT, f"outputs that are no arrays: {bad}", b"") if bad else (_OK, "", b"")
        _, path, request = item
        response = server.grpc_methods[path](request, CallContext())
    except InserveError as error:
        return int(error.code), error.message, b""
    except MemoryError as error:
        return int(Code.RESOURCE_EXHAUSTED), str(error), b""
    except BaseException:
        return DEFECT, traceback.format_exc(), b""
    return _OK, "", response


def _main(descriptor: int, check_shapes: bool, models: str, names: list[str]) -> None:
    faulthandler.enable()
    connection = Connection(socket.socket(fileno=descriptor).detach())
    server = inserve.Server(
        {name: f"{models}/{name}" for name in names},
        grpc="127.0.0.1:0",
        check_shapes=check_shapes,
        poll_interval=None,
    )
    with server:
        connection.send(server.grpc_port)
        while (item := connection.recv()) is not None:
            code, text, response = _answer(server, item)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
            connection.send((code, text, response, peak))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3], sys.argv[4:])
