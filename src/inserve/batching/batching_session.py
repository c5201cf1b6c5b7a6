"""Models whose sessions run in batches: a LoadSavedModel around a LoadSavedModel.

Rules: TensorFlow Serving, ``batching/batching_session.cc`` and
``servables/tensorflow/bundle_factory_util.cc``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_runner import PermutedOrder, SlotRunner, ThreadRunner
from inserve.batching.observer import BatchingObserver
from inserve.batching.options import BatchingOptions, batching_options_from_message, check_queue_options
from inserve.batching.slot_queue import SlotQueue
from inserve.batching.slot_scheduler import SlotScheduler
from inserve.batching.statistics import BatchingStatistics
from inserve.batching.thread_queue import ThreadQueue
from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensorflow_c.interface import LoadedModel, LoadSavedModel, Runner, Session
from inserve.tensors.dtypes import DataType

__all__ = ["BatchedModel", "BatchedSession", "OptionsOfPath", "batch_models", "read_model_parameters"]

_MAX_QUEUES = 256
"""Choices of feeds and fetches of one version that get a queue; runs of others are not batched."""

_CLOSE_LIMIT_S = 30.0
"""How long closing waits for requests that are queued, before the session refuses them."""

_LARGEST_FILE_BYTES = 1 << 20

OptionsOfPath: TypeAlias = Callable[[str], "BatchingOptions | None"]
"""Returns the options for the version in a folder when it is loaded; None: it is not batched."""


class BatchedSession:
    """A session whose runners share queues; implements ``interface.Session``.

    *slots* are its own and are dropped when it is closed; None where *options* are strict. There is one queue
    for each set of feeds with one set of fetches, in whatever order they are named.
    """

    def __init__(
        self,
        session: Session,
        scheduler: BatchScheduler,
        options: BatchingOptions,
        name: str,
        slots: SlotScheduler | None,
    ) -> None:
        self._session = session
        self._scheduler = scheduler
        self._name = name
        self._lock = threading.Lock()
        self._options = options
        self._is_unbatched = False
        self._slots = slots
        self._queues: dict[tuple[frozenset[str], frozenset[str]], SlotQueue | ThreadQueue] = {}

    def __repr__(self) -> str:
        return f"<BatchedSession {self._name!r}, queues: {len(self._queues)}>"

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        """Prepare runs that share batches with those of the same tensors; see ``interface.Session``.

        The runner has ``submit`` as well, unless there are too many queues already.
        """
        inner = self._session.runner(feeds, fetches)
        key = (frozenset(name for name, _ in feeds), frozenset(fetches))
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                if len(self._queues) >= _MAX_QUEUES:
                    return inner
                queue = self._queues[key] = self._make_queue(feeds, fetches, inner)
        order = PermutedOrder([name for name, _ in feeds], fetches, queue.feeds, queue.fetches)
        if isinstance(queue, ThreadQueue):
            return ThreadRunner(queue, inner, order)
        return SlotRunner(queue, inner, order)

    def close(self) -> None:
        """Let requests that are queued run, for 30 seconds at most, then close the session."""
        with self._lock:
            queues = list(self._queues.values())
        for queue in queues:
            queue.close(f"the session of {self._name} is closed", _CLOSE_LIMIT_S)
            if isinstance(queue, ThreadQueue):
                queue.scheduler.remove_queue(queue)
        if self._slots is not None:
            self._scheduler.drop_slots(self._slots)
        self._session.close()

    def set_options(self, options: BatchingOptions) -> None:
        """Form batches by *options* from now on.

        Raises:
            InvalidArgumentError: A value is out of its range.
            ValueError: *options* want the other of the two modes.
        """
        check_queue_options(options)
        with self._lock:
            if options.strict is not self._options.strict:
                raise ValueError("strict cannot change while a version is loaded")
            self._options = options
            queues = list(self._queues.values())
        for queue in queues:
            queue.set_options(options)

    @property
    def num_slots(self) -> int:
        """How many batches run at the same time: of this session, or where strict of all."""
        return self._scheduler.threads.num_threads if self._slots is None else self._slots.num_slots

    @property
    def row_limit(self) -> int:
        """The largest batch; 0 where batches are formed to the letter of TensorFlow Serving."""
        return 0 if self._options.strict else self._options.execution_limit

    def queues(self) -> list[SlotQueue | ThreadQueue]:
        """Return the queues that were needed so far."""
        with self._lock:
            return list(self._queues.values())

    @contextmanager
    def unbatched(self) -> Iterator[None]:
        """Run requests as without batching meanwhile, where batching would make one wait for others."""
        with self._lock:
            self._set_unbatched(True)
        try:
            yield
        finally:
            with self._lock:
                self._set_unbatched(False)

    def _set_unbatched(self, is_unbatched: bool) -> None:
        self._is_unbatched = is_unbatched
        for queue in self._queues.values():
            if isinstance(queue, ThreadQueue):
                queue.passing = is_unbatched

    def _make_queue(
        self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str], inner: Runner
    ) -> SlotQueue | ThreadQueue:
        ordered_feeds, ordered_fetches = sorted(feeds), sorted(set(fetches))
        if ordered_feeds != list(feeds) or ordered_fetches != list(fetches):
            inner = self._session.runner(ordered_feeds, ordered_fetches)
        names = [name for name, _ in ordered_feeds]
        if self._slots is None:
            threads = self._scheduler.threads
            waiting = ThreadQueue(threads, self._options, inner, names, ordered_fetches)
            waiting.passing = self._is_unbatched
            threads.add_queue(waiting)
            return waiting
        queue = SlotQueue(self._slots, self._options, inner, names, ordered_fetches)
        self._slots.add_queue(queue)
        return queue


class BatchedModel:
    """A SavedModel in memory whose runs are batched; implements ``interface.LoadedModel``."""

    def __init__(
        self,
        model: LoadedModel,
        path: str,
        scheduler: BatchScheduler,
        options: BatchingOptions,
        intra_op_threads: int = 0,
        num_accelerators: int = 0,
    ) -> None:
        self._model = model
        self._path = path
        self._scheduler = scheduler
        slots = None
        if not options.strict:
            num_replicas = getattr(model, "num_replicas", 1)
            slots = scheduler.make_slots(intra_op_threads, num_replicas, num_accelerators)
        self._session = BatchedSession(model.session, scheduler, options, path, slots)
        scheduler.add_model(path, self)

    def __repr__(self) -> str:
        return f"<BatchedModel {self._path}>"

    @property
    def session(self) -> BatchedSession:
        return self._session

    @property
    def meta_graph_def(self) -> bytes:
        return self._model.meta_graph_def

    @property
    def row_limit(self) -> int:
        """The most rows that callers may merge by themselves; 0 where TensorFlow Serving's ways are kept."""
        return self._session.row_limit

    @property
    def tunable_session(self) -> Session | None:
        """The session without batching, or the one that the model behind names."""
        behind: Session | None = getattr(self._model, "tunable_session", self._model.session)
        return behind

    def close(self) -> None:
        """Let requests that are queued run, then close the session; more calls do nothing."""
        self._scheduler.remove_model(self._path, self)
        self._session.close()
        self._model.close()

    def set_options(self, options: BatchingOptions) -> None:
        """Form batches by *options* from now on; see ``BatchScheduler.set_options``."""
        self._session.set_options(options)

    def statistics(self) -> BatchingStatistics:
        """Return what the queues of this version have done."""
        return BatchingStatistics(
            self._path,
            tuple(queue.statistics() for queue in self._session.queues()),
            self._session.num_slots,
        )

    @contextmanager
    def unbatched(self) -> Iterator[None]:
        """Let no run wait for company meanwhile: for runs that warm a version up."""
        with getattr(self._model, "unbatched", nullcontext)(), self._session.unbatched():
            yield

    def report_direct_runs(self, observer: BatchingObserver) -> None:
        """Tell *observer* of the requests that were run directly since the last call."""
        for queue in self._session.queues():
            for rows, count in queue.counts.unreported_direct_runs():
                observer.ran_directly(rows, len(queue.feeds), count)


def batch_models(
    load: LoadSavedModel,
    scheduler: BatchScheduler,
    options: BatchingOptions | OptionsOfPath,
    per_model_parameters: bool = False,
    num_accelerators: Callable[[str], int] = lambda _: 0,
) -> LoadSavedModel:
    """Return what loads models as *load* does, and batches their runs on *scheduler*.

    With *per_model_parameters* a version's own ``batching_params.pbtxt`` says how, and a version
    without one is not batched; only the scheduler's threads and ``strict`` are *options*' then.
    *num_accelerators* says on how many devices beside processors the runs of the version in a folder are.
    """

    def load_batched(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        chosen = options(path) if callable(options) else options
        if chosen is not None and per_model_parameters:
            chosen = read_model_parameters(path, chosen.strict)
        if chosen is None:
            return load(path, tags, config)
        check_queue_options(chosen)
        model = load(path, tags, config)
        return BatchedModel(model, path, scheduler, chosen, _intra_op_threads(config), num_accelerators(path))

    return load_batched


def _intra_op_threads(config: bytes) -> int:
    try:
        return max(0, messages.ConfigProto.FromString(config).intra_op_parallelism_threads)
    except DecodeError:
        return 0


def read_model_parameters(path: str, strict: bool) -> BatchingOptions | None:
    """Return what ``batching_params.pbtxt`` in the folder *path* of a version says; None: there is none.

    Raises:
        InvalidArgumentError: It is not a text ``BatchingParameters``.
    """
    name = os.path.join(path, "batching_params.pbtxt")
    try:
        with open(name, "rb") as file:
            text = file.read(_LARGEST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgumentError(f"Invalid protobuf file: '{name}'") from error
    if not text or len(text) > _LARGEST_FILE_BYTES:
        raise InvalidArgumentError(f"Invalid protobuf file: '{name}'")
    try:
        message = text_format.Parse(text.decode(), messages.BatchingParameters())
    except (ValueError, text_format.ParseError) as error:
        raise InvalidArgumentError(f"Invalid protobuf file: '{name}'") from error
    return batching_options_from_message(message, strict)
