"""What runs in progress need, kept for the next ones, and how closing waits for them.

Taking a slot out of ``idle`` and putting it back are single atomic operations of ``deque``, so a run
takes no lock. There are as many slots as runs were ever in progress at once; when all of them have been
taken out, no run is in progress.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError
from inserve.tensorflow_c.library import Library
from inserve.tensorflow_c.process_end import hold_daemon
from inserve.tensorflow_c.status import new_status
from inserve.tensorflow_c.tensor import new_tensor, tensor_view
from inserve.tensors.dtypes import DataType, ElementType
from inserve.tensors.flat_tensor import is_flat

__all__ = ["KEPT_BYTES", "NOTHING_KEPT", "SMALL_INPUT_BYTES", "RunSlot", "RunSlots", "kept_bytes"]

SMALL_INPUT_BYTES = 16 * 1024
"""Tensors of inputs up to so many bytes stay in their slot for a later run with the same shape."""

KEPT_BYTES = 64 << 20
"""Larger ones stay, too, as long as all slots of the process together keep no more than this: fresh memory
costs more than the copy into it, because the system hands it out page by page."""

_large_kept: dict[tuple[int, int], int] = {}
"""Bytes by slot (its ``id``) and feed."""


_Kept: TypeAlias = tuple[tuple[int, ...] | None, Any, int]

NOTHING_KEPT: _Kept = (None, None, 0)
"""Equal to no shape of an array."""


def kept_bytes() -> int:
    """Return what the slots of the process keep together of inputs above ``SMALL_INPUT_BYTES``."""
    return sum(list(_large_kept.values()))


class RunSlot:
    """The C objects of one run at a time. Used by the thread that took it out, freed with the object.

    ``inputs`` and ``outputs`` are ``TF_Tensor *[]``. Inputs own the tensors in them; outputs do so only
    between a run and the moment somebody takes them, afterwards they dangle. ``kept[i]`` is the shape of
    the tensor that is kept for feed ``i``, its memory and size in bytes, or ``NOTHING_KEPT``. The memory is
    a ``void *`` up to ``SMALL_INPUT_BYTES``, above it an array, which NumPy fills without the lock of the
    interpreter. Before writing there, ask ``TF_TensorMaybeMove`` whether nobody else holds it: a variable or
    an earlier output may share the memory.
    """

    __slots__ = ("_elements", "_library", "_lost", "inputs", "kept", "outputs", "status")

    def __init__(
        self, library: Library, elements: Sequence[ElementType], num_fetches: int, lost: Callable[[], None]
    ) -> None:
        self._library = library
        self._elements = elements
        self._lost = lost
        self.status = new_status(library)
        self.inputs = library.ffi.new("TF_Tensor *[]", len(elements))
        self.outputs = library.ffi.new("TF_Tensor *[]", num_fetches)
        self.kept: list[_Kept] = [NOTHING_KEPT] * len(elements)

    def put(self, index: int, array: NDArray[Any]) -> None:
        """Put a copy of *array* into a new tensor for feed *index*.

        Raises:
            ValueError: The dtype is not that of the feed.
            TypeError: A string tensor is to hold something that is no string.
        """
        self._drop_input(index)
        element = self._elements[index]
        tensor = new_tensor(self._library, element, array)
        self.inputs[index] = tensor
        num_bytes = array.nbytes
        if num_bytes == 0 or element.data_type == DataType.DT_STRING or is_flat(array):
            return
        if num_bytes <= SMALL_INPUT_BYTES:
            self.kept[index] = (array.shape, self._library.lib.TF_TensorData(tensor), num_bytes)
        elif num_bytes + kept_bytes() <= KEPT_BYTES:
            _large_kept[id(self), index] = num_bytes
            view = tensor_view(self._library, tensor, element.numpy, array.shape)
            self.kept[index] = (array.shape, view, num_bytes)

    def drop_passing_inputs(self) -> None:
        """Delete the inputs that are not kept for a later run."""
        for index, kept in enumerate(self.kept):
            if kept is NOTHING_KEPT:
                self._drop_input(index)

    def drop_outputs(self, start: int) -> None:
        """Delete the outputs from *start* on, right after a run; those before belong to somebody else."""
        for index in range(start, len(self.outputs)):
            tensor = self.outputs[index]
            if tensor:
                self._library.lib.TF_DeleteTensor(tensor)

    def _drop_input(self, index: int) -> None:
        tensor = self.inputs[index]
        if tensor:
            self.kept[index] = NOTHING_KEPT
            _large_kept.pop((id(self), index), None)
            self.inputs[index] = self._library.ffi.NULL
            self._library.lib.TF_DeleteTensor(tensor)

    def __del__(self) -> None:
        self.kept = [NOTHING_KEPT] * len(self.kept)
        self.drop_passing_inputs()
        self._lost()


class RunSlots:
    """The slots of one runner.

    ``idle`` holds those not in use. A run does ``idle.pop()``, or ``add()`` where that finds none, and
    ``refuse_run(slot)`` if ``refusal`` is not None then; in the end ``idle.append(slot)`` and after that,
    if ``refusal`` is not None, ``note_return()``.
    """

    __slots__ = ("_lock", "_lost", "_make", "_num_slots", "idle", "refusal", "returned")

    def __init__(self, library: Library, elements: Sequence[ElementType], num_fetches: int) -> None:
        self._lock = threading.Lock()
        self._num_slots = 0
        # A signal may interrupt a run between any two steps; a slot that got lost so is not waited for.
        self._lost: deque[None] = deque()
        returned = threading.Event()
        lost = self._lost

        def count_lost() -> None:
            lost.append(None)
            returned.set()

        def make() -> RunSlot:
            return RunSlot(library, elements, num_fetches, count_lost)

        self._make = make
        self.idle: deque[RunSlot] = deque()
        self.refusal: str | None = None
        self.returned = returned

    def add(self) -> RunSlot:
        """Return a new slot, in use.

        Raises:
            FailedPreconditionError: ``refuse`` was called; the text is the one given there.
        """
        with self._lock:
            if self.refusal is None:
                slot = self._make()
                self._num_slots += 1
                return slot
        hold_daemon()
        raise FailedPreconditionError(self.refusal)

    def refuse_run(self, slot: RunSlot) -> NoReturn:
        """Give *slot* back unused.

        Raises:
            FailedPreconditionError: Always, with the text given to ``refuse``.
        """
        self.idle.append(slot)
        self.note_return()
        raise FailedPreconditionError(self.refusal or "")

    def note_return(self) -> None:
        """Tell those who wait for the last run; call it after giving a slot back where ``refusal`` is set."""
        self.returned.set()
        hold_daemon()

    def in_progress(self) -> int:
        """Return how many runs are in progress, as of some moment during this call."""
        with self._lock:
            return max(0, self._num_slots - len(self._lost) - len(self.idle))

    def refuse(self, message: str) -> None:
        """Let no new run begin; the first *message* stays."""
        with self._lock:
            if self.refusal is None:
                self.refusal = message

    def wait_until_idle(self, deadline: float) -> None:
        """Return when no run is in progress, at *deadline* (monotonic seconds) at the latest.

        Call ``refuse`` before.
        """
        while True:
            self.returned.clear()
            if not self.in_progress() or not self.returned.wait(max(0.0, deadline - time.monotonic())):
                return

    def drain(self) -> None:
        """Wait until no run is in progress and free all slots; call ``refuse`` before."""
        taken: list[RunSlot] = []
        while True:
            self.returned.clear()
            with contextlib.suppress(IndexError):
                while True:
                    taken.append(self.idle.pop())
            if len(taken) + len(self._lost) >= self._num_slots:
                self._num_slots = 0
                return
            self.returned.wait()

    def abandon_after_fork(self, message: str) -> list[RunSlot]:
        """Refuse every run with *message*; return the idle slots, which belong to the parent's threads."""
        self._lock = threading.Lock()
        self.refusal = message
        slots = list(self.idle)
        self.idle.clear()
        self._num_slots = 0
        return slots
