"""Runs of a session with everything prepared that does not change: the hot path."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from inserve.tensorflow_c import log
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.run_options import calling_thread_options, timeout_options
from inserve.tensorflow_c.run_slots import NOTHING_KEPT, SMALL_INPUT_BYTES, RunSlots
from inserve.tensorflow_c.status import raise_for_status
from inserve.tensorflow_c.tensor import HANDED_OUT_BYTES, storage_dtype, take_array
from inserve.tensors.dtypes import DataType, ElementType

__all__ = ["Endpoint", "GraphRunner"]

_MOST_ARRAY_DIMENSIONS = 32
"""Outputs of more dimensions take the way for shapes that an array may not have."""


_CALLING_THREAD = Executor.CALLING_THREAD
_copyto = np.copyto
_empty = np.empty
_pending_interrupts = log.pending_interrupts


class Endpoint(NamedTuple):
    """One output of an operation (``TF_Operation *``), and the type of its elements."""

    name: str
    operation: Any
    output: int
    element: ElementType


class GraphRunner:
    """One choice of feeds and fetches; implements ``interface.Runner``. ``GraphSession.runner`` makes it.

    Holds *session*, the owner of *pointer* (``TF_Session *``), so that it lives as long as its runners.
    """

    def __init__(
        self,
        library: Library,
        session: object,
        pointer: Any,
        feeds: Sequence[Endpoint],
        fetches: Sequence[Endpoint],
    ) -> None:
        lib = library.lib
        self._library = library
        self._session = session
        self._pointer = pointer
        self._feeds = tuple(feeds)
        self._fetches = tuple(fetches)
        self._num_feeds = len(feeds)
        self._num_fetches = len(fetches)
        self._feed_dtypes = tuple(enumerate(feed.element.numpy for feed in feeds))
        self._fetch_plans = tuple((index, *_plan(fetch.element)) for index, fetch in enumerate(fetches))
        self._inputs = _outputs_of(library, feeds)
        self._outputs = _outputs_of(library, fetches)
        self._calling_thread = calling_thread_options(library)
        self._null = library.ffi.NULL
        self._memmove = library.ffi.memmove
        self._session_run = lib.TF_SessionRun
        self._maybe_move = lib.TF_TensorMaybeMove
        self._delete = lib.TF_DeleteTensor
        self._num_dims = lib.TF_NumDims
        self._dim = lib.TF_Dim
        self._data = lib.TF_TensorData
        self.slots = RunSlots(library, [feed.element for feed in feeds], len(fetches))
        self._idle = self.slots.idle

    def __repr__(self) -> str:
        feeds = ", ".join(feed.name for feed in self._feeds)
        fetches = ", ".join(fetch.name for fetch in self._fetches)
        return f"<GraphRunner {feeds} -> {fetches}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the graph once; see ``interface.Runner.run``."""
        null = self._null
        if executor is _CALLING_THREAD:
            options = self._calling_thread
        elif timeout_s is None:
            options = null
        else:
            options = timeout_options(self._library, timeout_s)
        if len(arrays) != self._num_feeds:
            raise ValueError(f"expected {self._num_feeds} arrays, got {len(arrays)}")
        slots = self.slots
        try:
            slot = self._idle.pop()
        except IndexError:
            slot = slots.add()
        if slots.refusal is not None:
            slots.refuse_run(slot)
        results: list[NDArray[Any]] = []
        has_run = False
        try:
            inputs, outputs, kept = slot.inputs, slot.outputs, slot.kept
            has_passing_inputs = False
            for index, dtype in self._feed_dtypes:
                array = arrays[index]
                if array.dtype is not dtype and array.dtype != dtype:
                    self._refuse_dtype(index, array)
                shape, memory, num_bytes = kept[index]
                if array.shape == shape and self._maybe_move(inputs[index]):
                    if num_bytes > SMALL_INPUT_BYTES:
                        _copyto(memory, array)
                        continue
                    try:
                        self._memmove(memory, array, num_bytes)
                        continue
                    except (ValueError, BufferError):
                        pass  # strided, or a dtype without a letter in the buffer protocol
                slot.put(index, array)
                if kept[index] is NOTHING_KEPT:
                    has_passing_inputs = True
            self._session_run(
                self._pointer, options,
                self._inputs, inputs, self._num_feeds,
                self._outputs, outputs, self._num_fetches,
                null, 0, null, slot.status,
            )  # fmt: skip
            has_run = True
            if has_passing_inputs:
                slot.drop_passing_inputs()
            for index, width, storage, view in self._fetch_plans:
                tensor = outputs[index]
                if not tensor:
                    break
                if width:
                    num_dims = self._num_dims(tensor)
                    if num_dims == 1:
                        num_bytes = self._dim(tensor, 0)
                        shape = (num_bytes,)
                        num_bytes *= width
                    else:
                        shape = tuple([self._dim(tensor, axis) for axis in range(num_dims)])
                        num_bytes = prod(shape) * width if num_dims <= _MOST_ARRAY_DIMENSIONS else 0
                    if 0 < num_bytes < HANDED_OUT_BYTES:
                        result = _empty(shape, storage)
                        self._memmove(result, self._data(tensor), num_bytes)
                        results.append(result if view is None else result.view(view))
                        self._delete(tensor)
                        continue
                outputs[index] = null
                results.append(take_array(self._library, tensor, self._fetches[index].element))
            if len(results) != self._num_fetches or not results:
                # TensorFlow leaves an output NULL exactly where the run failed.
                raise_for_status(self._library, slot.status)
            if _pending_interrupts:
                log.raise_interrupt()
        except BaseException:
            slot.drop_passing_inputs()
            if has_run:
                slot.drop_outputs(len(results))
            raise
        else:
            return results
        finally:
            self._idle.append(slot)
            if slots.refusal is not None:
                slots.note_return()  # type: ignore[unreachable]  # closing may begin during the run

    def _refuse_dtype(self, index: int, array: NDArray[Any]) -> NoReturn:
        feed = self._feeds[index]
        raise ValueError(f"feed {feed.name}: expected an array of {feed.element.numpy}, got {array.dtype}")


def _plan(element: ElementType) -> tuple[int, np.dtype[Any], np.dtype[Any] | None]:
    """Return bytes per element (0 for strings), the dtype to copy as, and the one to view that as."""
    storage = storage_dtype(element.numpy)
    return (
        0 if element.data_type == DataType.DT_STRING else element.numpy.itemsize,
        storage,
        None if storage == element.numpy else element.numpy,
    )


def _outputs_of(library: Library, endpoints: Sequence[Endpoint]) -> Any:
    """Return a ``TF_Output[]``, freed with the Python object."""
    array = library.ffi.new("TF_Output[]", len(endpoints))
    for output, endpoint in zip(array, endpoints, strict=True):
        output.oper = endpoint.operation
        output.index = endpoint.output
    return array
