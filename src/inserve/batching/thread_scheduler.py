"""Who runs batches in TensorFlow Serving's way: a fixed number of threads, all queues in turn.

Rules: TensorFlow, ``kernels/batching_util/shared_batch_scheduler.h``.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from inserve.batching.batch_task import BatchTask
from inserve.batching.statistics import CloseReason
from inserve.clock import Clock
from inserve.errors import UnavailableError

if TYPE_CHECKING:
    from inserve.batching.observer import BatchingObserver
    from inserve.batching.thread_queue import ThreadQueue

__all__ = ["ThreadScheduler"]

_LOGGER = logging.getLogger("inserve.batching")


class ThreadScheduler:
    """The batch threads of one server. They start with the first requests; any thread may call.

    The lock covers decisions only, never a run or a callback.
    """

    def __init__(
        self, num_threads: int, thread_name: str, clock: Clock, observer: BatchingObserver | None = None
    ) -> None:
        self.num_threads = num_threads
        self.clock = clock
        self.observer = observer
        self.lock = threading.Lock()
        self._thread_name = thread_name
        self._queues: list[ThreadQueue] = []
        self._cursor = 0
        self._idle: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self._stopped: str | None = None

    def __repr__(self) -> str:
        return f"<ThreadScheduler {len(self._idle)} of {self.num_threads} threads idle>"

    def add_queue(self, queue: ThreadQueue) -> None:
        """Serve *queue* from now on."""
        with self.lock:
            self._queues.append(queue)

    def remove_queue(self, queue: ThreadQueue) -> None:
        """Serve *queue* no more; nothing waits in it."""
        with self.lock:
            if queue in self._queues:
                self._queues.remove(queue)

    def check_running(self) -> None:
        """Check that requests are taken; call it with the lock.

        Raises:
            UnavailableError: ``stop`` was called.
        """
        if self._stopped is not None:
            raise UnavailableError(self._stopped)

    def wake(self) -> None:
        """Have a thread look at the queues; call it with the lock."""
        if self._idle:
            self._idle.pop().set()
        elif len(self._threads) < self.num_threads and self._stopped is None:
            thread = threading.Thread(
                target=self._work, name=f"{self._thread_name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def await_turn(self, task: BatchTask) -> list[Any]:
        """Wait for the outcome of *task*, however long that takes.

        Raises:
            InserveError: What it failed with.
        """
        assert task.event is not None
        self.clock.wait(task.event, None)
        return task.result()

    def stop(self, timeout_s: float) -> bool:
        """Refuse requests from now on, and those that wait; wait at most *timeout_s* for the threads.

        Batches in progress end. Returns whether every thread has ended; more calls do no harm.
        """
        waiting: list[BatchTask] = []
        with self.lock:
            self._stopped = "the server is stopping"
            for queue in self._queues:
                waiting += queue.take_all()
            while self._idle:
                self._idle.pop().set()
            threads, self._threads = self._threads, []
        for task in waiting:
            task.finish(UnavailableError(self._stopped))
        deadline = self.clock.now() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - self.clock.now()))
        return not any(thread.is_alive() for thread in threads)

    def start(self) -> None:
        """Take requests again after ``stop``."""
        with self.lock:
            self._stopped = None

    def after_fork(self) -> None:
        """Begin anew in a forked child, where the threads and those who wait do not exist."""
        self.lock = threading.Lock()
        self._idle = []
        self._threads = []
        for queue in self._queues:
            queue.after_fork()

    def _work(self) -> None:
        woken = threading.Event()
        while True:
            with self.lock:
                if self._stopped is not None:
                    return
                found = self._next()
                wait_s: float | None = None
                if found is None:
                    wait_s = self._seconds_until_due()
                    woken.clear()
                    self._idle.append(woken)
                else:
                    # While this thread runs a batch, another one has to watch the time.
                    self._wake_watcher()
            if found is None:
                self.clock.wait(woken, wait_s)
                with self.lock:
                    if woken in self._idle:
                        self._idle.remove(woken)
                continue
            queue, tasks, reason = found
            try:
                queue.run_batch(tasks, reason)
            except BaseException:
                _LOGGER.exception("Unexpected error on thread %s", threading.current_thread().name)
            del queue, tasks, found

    def _next(self) -> tuple[ThreadQueue, list[BatchTask], CloseReason] | None:
        """Take out one batch that is due, beginning with the queue after the one looked at last."""
        now = self.clock.now()
        for _ in range(len(self._queues)):
            self._cursor = (self._cursor + 1) % len(self._queues)
            queue = self._queues[self._cursor]
            taken = queue.take_due(now)
            if taken is not None:
                return queue, *taken
        return None

    def _seconds_until_due(self) -> float | None:
        now = self.clock.now()
        waits = [wait for queue in self._queues if (wait := queue.seconds_until_due(now)) is not None]
        return min(waits, default=None)

    def _wake_watcher(self) -> None:
        if self._seconds_until_due() is not None:
            self.wake()
