"""A session of TensorFlow's C API: resolves names, makes runners, closes after the last run."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

from inserve.errors import FailedPreconditionError, InvalidArgumentError
from inserve.tensorflow_c import fork_guard, log, process_end
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.run_slots import RunSlot
from inserve.tensorflow_c.runner import Endpoint, GraphRunner
from inserve.tensorflow_c.status import new_status
from inserve.tensors.dtypes import DataType, find_element_type

__all__ = ["GraphSession"]

_REFERENCE_TYPES = 100
"""``DataType`` of a reference to a variable minus that of its value."""

_of_parent: list[RunSlot] = []


class GraphSession:
    """A graph with its variables; implements ``interface.Session``. Any thread may use it.

    Owns *pointer* (``TF_Session *``) and *graph* (``TF_Graph *``). Without ``close`` they are freed
    with the object. *name* stands in messages.
    """

    def __init__(self, library: Library, pointer: Any, graph: Any, name: str) -> None:
        self._library = library
        self._pointer = pointer
        self._graph = graph
        self._name = name
        self._lock = threading.Lock()
        self._closing = False
        self._closed = threading.Event()
        self._runners: weakref.WeakSet[GraphRunner] = weakref.WeakSet()
        self._free = weakref.finalize(self, _free, library, pointer, graph)
        # At the end of the process a daemon thread may still be in a run.
        self._free.atexit = False
        self._refusal: str | None = None
        fork_guard.register(self)
        process_end.register(self)

    def __repr__(self) -> str:
        return f"<GraphSession {self._name!r} [{'closed' if self._closing else 'open'}]>"

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> GraphRunner:
        """Prepare runs that feed and fetch these tensors, named ``operation:index``.

        Raises:
            InvalidArgumentError: The graph has no such tensor, a feed has another type there, or no
                array can have the type of a tensor.
            FailedPreconditionError: The session is closed.
        """
        with self._lock:
            if self._refusal is not None:
                raise FailedPreconditionError(self._refusal)
            runner = GraphRunner(
                self._library,
                self,
                self._pointer,
                [self._resolve_feed(name, data_type) for name, data_type in feeds],
                [self._resolve(name) for name in fetches],
            )
            self._runners.add(runner)
            return runner

    def close(self) -> None:
        """Free the graph and its variables once no run is in progress.

        A call while another thread closes waits for it; later calls do nothing.
        """
        with self._lock:
            first, self._closing = not self._closing, True
            if self._refusal is None:
                self._refusal = f"the session of {self._name} is closed"
            runners = list(self._runners)
        if not first:
            self._closed.wait()
            return
        try:
            for runner in runners:
                runner.slots.refuse(self._refusal)
            for runner in runners:
                runner.slots.drain()
            self._free()
        finally:
            self._closed.set()
        log.raise_interrupt()

    def cancel_runs(self) -> None:
        """Refuse runs from now on and cancel those in progress, freeing nothing; ``process_end`` calls it."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._refusal = process_end.ENDING_MESSAGE
            runners = list(self._runners)
        for runner in runners:
            runner.slots.refuse(self._refusal)
        if any(runner.slots.in_progress() for runner in runners):
            self._library.lib.TF_CloseSession(self._pointer, new_status(self._library))

    def wait_for_runs(self, deadline: float) -> None:
        """Return when no run is in progress or at *deadline*; ``process_end`` calls it."""
        for runner in list(self._runners):
            runner.slots.wait_until_idle(deadline)
        self._closed.set()

    def refuse_after_fork(self) -> None:
        """Answer every further call with an error and free nothing; ``fork_guard`` calls it."""
        self._lock = threading.Lock()
        self._closing = True
        self._closed.set()
        self._free.detach()
        self._refusal = fork_guard.FORKED_MESSAGE
        for runner in list(self._runners):
            _of_parent.extend(runner.slots.abandon_after_fork(self._refusal))

    def _resolve_feed(self, name: str, data_type: DataType) -> Endpoint:
        endpoint = self._resolve(name)
        if endpoint.element.data_type != data_type:
            raise InvalidArgumentError(
                f"Tensor {name} is {endpoint.element.name} in the graph, "
                f"expected {DataType(data_type).name} for the feed"
            )
        return endpoint

    def _resolve(self, name: str) -> Endpoint:
        """Return the tensor called *name*; no index means output 0 (``core/graph/tensor_id.h``)."""
        ffi, lib = self._library.ffi, self._library.lib
        operation_name, separator, digits = name.rpartition(":")
        if not separator:
            operation_name, digits = name, "0"
        operation = lib.TF_GraphOperationByName(self._graph, operation_name.encode())
        if (
            operation == ffi.NULL
            or "\0" in name
            or not (digits.isascii() and digits.isdigit())
            or int(digits) >= lib.TF_OperationNumOutputs(operation)
        ):
            raise InvalidArgumentError(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
            )
        output = ffi.new("TF_Output *", (operation, int(digits)))
        data_type = lib.TF_OperationOutputType(output[0]) % _REFERENCE_TYPES
        element = find_element_type(data_type)
        if element is None:
            raise InvalidArgumentError(f"Tensor {name} is {_type_name(data_type)}, which no array can hold")
        return Endpoint(name, operation, int(digits), element)


def _type_name(data_type: int) -> str:
    try:
        return DataType(data_type).name
    except ValueError:
        return f"of DataType {data_type}"


def _free(library: Library, pointer: Any, graph: Any) -> None:
    if log.is_handling_line():
        # The garbage collector came by inside TensorFlow's logging, perhaps under a lock of TensorFlow.
        threading.Thread(target=_free, args=(library, pointer, graph), name="inserve-free-session").start()
        return
    lib = library.lib
    status = new_status(library)
    lib.TF_CloseSession(pointer, status)
    lib.TF_DeleteSession(pointer, status)
    lib.TF_DeleteGraph(graph)
