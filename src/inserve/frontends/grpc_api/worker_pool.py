"""A bounded pool of threads with a bounded queue, for calls that may block."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from inserve.errors import ResourceExhaustedError, UnavailableError

__all__ = ["WorkerPool"]

_Result = TypeVar("_Result")
_LOGGER = logging.getLogger("inserve.grpc")


class _Task(NamedTuple):
    run: Callable[[], None]
    abandon: Callable[[], None]


class WorkerPool(Executor):
    """At most *max_workers* threads ``<name>-<i>`` and *max_queued* tasks waiting for one.

    Threads start when work comes and no thread is free, and live until ``stop``. They are daemon
    threads: ``stop`` joins them, and one that is stuck in foreign code cannot keep the interpreter from
    exiting. All methods may be called from any thread.
    """

    def __init__(self, name: str, max_workers: int, max_queued: int) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}, expected at least 1")
        if max_queued < 0:
            raise ValueError(f"max_queued is {max_queued}, expected at least 0")
        self._name = name
        self._max_workers = max_workers
        self._max_queued = max_queued
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._stopped = False

    def execute(self, run: Callable[[], None], abandon: Callable[[], None]) -> None:
        """Have *run* called on a thread of the pool, or *abandon* on the stopping thread if it never starts.

        Raises:
            ResourceExhaustedError: every thread is busy and the queue is full.
            UnavailableError: the pool is stopped.
        """
        with self._lock:
            if self._stopped:
                raise UnavailableError("server is shutting down")
            if self._unfinished >= self._max_workers + self._max_queued:
                raise ResourceExhaustedError(
                    f"too many calls: {self._max_workers} are running and {self._max_queued} are waiting"
                )
            self._unfinished += 1
            if len(self._threads) < min(self._unfinished, self._max_workers):
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            self._tasks.put(_Task(run, abandon))

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Return the future of ``fn(*args, **kwargs)``; raises as ``execute`` does."""
        future: Future[_Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        def abandon() -> None:
            if future.cancel():
                future.set_running_or_notify_cancel()

        self.execute(run, abandon)
        return future

    def stop(self, timeout_s: float) -> bool:
        """Take no more tasks, abandon those not started, and wait for the others at most *timeout_s* seconds.

        Returns whether every thread has ended. May be called again, also by the tasks themselves.
        """
        with self._lock:
            self._stopped = True
            abandoned = self._take_waiting()
            threads = list(self._threads)
            for _ in threads:
                self._tasks.put(None)
        for task in abandoned:
            task.abandon()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop as ``stop`` does, which always cancels what has not started; the ``Executor`` spelling."""
        del cancel_futures
        self.stop(threading.TIMEOUT_MAX if wait else 0.0)

    def _take_waiting(self) -> list[_Task]:
        waiting = []
        while not self._tasks.empty():
            task = self._tasks.get_nowait()
            if task is not None:
                waiting.append(task)
        return waiting

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task.run()
            except BaseException:
                _LOGGER.exception("Unexpected error on thread %s", threading.current_thread().name)
            del task
            with self._lock:
                self._unfinished -= 1
