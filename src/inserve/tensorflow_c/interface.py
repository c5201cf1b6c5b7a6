"""What the rest of inserve may know of TensorFlow's C API: Protocols, no library.

``tensorflow_c`` alone holds pointers. Everything above types against this module, and
``inserve.testing`` fakes it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from inserve.tensors.dtypes import DataType

__all__ = ["Executor", "LoadSavedModel", "LoadedModel", "Runner", "Session"]


class Executor(enum.IntEnum):
    """Where the graph of one run is executed (``RunOptions.inter_op_thread_pool``)."""

    POOL = 0
    """TensorFlow's inter-op threads. The only choice that can end at a deadline."""
    CALLING_THREAD = -1
    """The thread that calls ``run``: no hand-over, a quarter of the latency of a short run."""


class Runner(Protocol):
    """One choice of feeds and fetches of a session, with everything prepared that does not change."""

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the graph once; any number of threads may be in here at once.

        *arrays* stand in the order of the feeds, each of exactly the NumPy dtype of its feed
        (``DataType`` table) and any shape; the caller may change them once this returns. The arrays
        returned stand in the order of the fetches, are writable, and stay valid after the session
        is closed. The global interpreter lock is not held while TensorFlow runs.

        *timeout_s* makes TensorFlow give up with ``DeadlineExceededError``; it needs
        ``Executor.POOL`` and is ignored on the calling thread.

        Raises:
            ValueError: The number of arrays or a dtype differs from the feeds.
            FailedPreconditionError: The session is closed.
            InserveError: What TensorFlow said, with its code and text unchanged.
        """
        ...


class Session(Protocol):
    """A graph with its variables. Closing waits for the runs in progress."""

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        """Prepare runs that feed and fetch these tensors, named ``operation:index``.

        Raises:
            InvalidArgumentError: The graph has no such tensor.
            FailedPreconditionError: The session is closed.
        """
        ...

    def close(self) -> None:
        """Free the graph and its variables once no run is in progress; more calls do nothing."""
        ...


class LoadedModel(Protocol):
    """A SavedModel in memory.

    A model around another may have more: ``tunable_session``, the session whose runs are measured to
    find out how they are fast, instead of ``session``, or None; and ``unbatched()``, a context manager in
    which no run waits for others, for warm-up.
    """

    @property
    def session(self) -> Session: ...

    @property
    def meta_graph_def(self) -> bytes:
        """The serialized ``tensorflow.MetaGraphDef`` that was loaded, signatures included."""
        ...

    def close(self) -> None:
        """Close the session; more calls do nothing."""
        ...


class LoadSavedModel(Protocol):
    """The function that opens a SavedModel (``inserve.tensorflow_c.load_saved_model``)."""

    def __call__(self, path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        """Load the meta graph with exactly *tags* from the SavedModel directory *path*.

        *config* is a serialized ``tensorflow.ConfigProto``. Blocks while variables are restored.

        Raises:
            InserveError: What TensorFlow said, with its code and text unchanged.
            MissingExtraError: TensorFlow is not installed.
        """
        ...
