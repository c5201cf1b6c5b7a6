"""What all models of a server share: who runs batches, and where their queues are found."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from inserve.batching.observer import BatchingObserver
from inserve.batching.options import BatchingOptions, check_scheduler_options, default_slots
from inserve.batching.slot_scheduler import SlotScheduler
from inserve.batching.statistics import BatchingStatistics
from inserve.batching.thread_scheduler import ThreadScheduler
from inserve.clock import Clock, SystemClock
from inserve.errors import NotFoundError

if TYPE_CHECKING:
    from inserve.batching.batching_session import BatchedModel

__all__ = ["BatchScheduler"]

_STOP_LIMIT_S = 5.0

_schedulers: weakref.WeakSet[BatchScheduler] = weakref.WeakSet()


class BatchScheduler:
    """Runs the batches of every model of one server; ``batch_models`` makes models use it.

    Of *options* it takes ``num_batch_threads`` and ``thread_pool_name``. Constructing starts nothing;
    threads start when they are first needed. Any thread may call.

    Raises:
        InvalidArgumentError: There would be no thread.
    """

    def __init__(
        self, options: BatchingOptions, clock: Clock | None = None, observer: BatchingObserver | None = None
    ) -> None:
        check_scheduler_options(options)
        self.observer = observer
        self._thread_name = options.thread_pool_name
        self._clock = SystemClock() if clock is None else clock
        self._num_slots = options.num_batch_threads
        self.threads = ThreadScheduler(options.num_threads, self._thread_name, self._clock, observer)
        """Who runs batches to the letter of TensorFlow Serving (``BatchingOptions.strict``)."""
        self._slots: list[SlotScheduler] = []
        self._lock = threading.Lock()
        self._models: dict[str, list[BatchedModel]] = {}
        _schedulers.add(self)

    def __repr__(self) -> str:
        return f"<BatchScheduler models: {len(self._models)}>"

    def start(self) -> None:
        """Take requests; only needed again after ``stop``."""
        self.threads.start()
        for slots in self._all_slots():
            slots.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Refuse requests with UNAVAILABLE, those that wait included; wait at most *timeout_s* for threads.

        Batches in progress end. Returns whether every thread has ended; more calls do no harm.
        """
        deadline = self._clock.now() + timeout_s
        have_ended = self.threads.stop(timeout_s)
        for slots in self._all_slots():
            have_ended &= slots.stop(max(0.0, deadline - self._clock.now()))
        return have_ended

    def paths(self) -> list[str]:
        """Return the folders of the versions that are loaded with batching."""
        with self._lock:
            return list(self._models)

    def statistics(self, path: str) -> BatchingStatistics:
        """Return what the queues of the version in the folder *path* have done.

        Raises:
            NotFoundError: It is not loaded, or not batched.
        """
        return self._find(path)[-1].statistics()

    def set_options(self, path: str, options: BatchingOptions) -> None:
        """Form the batches of the version in the folder *path* by *options* from now on.

        The number of threads and their name stay. Measured batch sizes are measured anew.

        Raises:
            NotFoundError: It is not loaded, or not batched.
            InvalidArgumentError: A value is out of its range.
            ValueError: *options* want the other of the two modes.
        """
        for model in self._find(path):
            model.set_options(options)

    def report_direct_runs(self) -> None:
        """Tell the observer of the requests that were run directly since the last call.

        Whoever reads the observer's figures calls this before.
        """
        if self.observer is None:
            return
        with self._lock:
            models = [model for models in self._models.values() for model in models]
        for model in models:
            model.report_direct_runs(self.observer)

    def make_slots(
        self, intra_op_threads: int, num_replicas: int = 1, num_accelerators: int = 0
    ) -> SlotScheduler:
        """Return who runs the batches of one version in the library's way; give it to ``drop_slots``.

        One run of the version uses at most *intra_op_threads* threads; 0: as many as there are. Each of
        *num_replicas* has work at the same time. *num_accelerators* are the devices beside processors that
        its runs are on.
        """
        number = self._num_slots
        if number is None:
            number = max(default_slots(intra_op_threads, num_accelerators), num_replicas)
        slots = SlotScheduler(number, self._thread_name, self._clock, self.observer)
        with self._lock:
            self._slots.append(slots)
        return slots

    def drop_slots(self, slots: SlotScheduler) -> None:
        """Stop *slots*, whose version is being closed and has no request left."""
        with self._lock:
            self._slots = [other for other in self._slots if other is not slots]
        slots.stop(_STOP_LIMIT_S)

    def add_model(self, path: str, model: BatchedModel) -> None:
        """Note that *model* was loaded from the folder *path*."""
        with self._lock:
            self._models.setdefault(path, []).append(model)

    def remove_model(self, path: str, model: BatchedModel) -> None:
        """Forget *model*, which is closed."""
        with self._lock:
            models = [other for other in self._models.pop(path, []) if other is not model]
            if models:
                self._models[path] = models

    def after_fork(self) -> None:
        """Begin anew in a forked child: the threads that were in here do not exist there."""
        self._lock = threading.Lock()
        self.threads.after_fork()
        for slots in self._slots:
            slots.after_fork()

    def _all_slots(self) -> list[SlotScheduler]:
        with self._lock:
            return list(self._slots)

    def _find(self, path: str) -> list[BatchedModel]:
        with self._lock:
            models = list(self._models.get(path, ()))
        if not models:
            raise NotFoundError(f"no version with batching is loaded from {path}")
        return models


def _begin_anew() -> None:
    for scheduler in list(_schedulers):
        scheduler.after_fork()


os.register_at_fork(after_in_child=_begin_anew)
