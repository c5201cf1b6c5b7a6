"""A batched model without TensorFlow, on a manual clock, with callers on threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import BatchedModel, batch_models
from inserve.batching.observer import BatchingObserver
from inserve.batching.options import BatchingOptions
from inserve.clock import Clock
from inserve.tensorflow_c.interface import Executor, LoadedModel, Runner
from inserve.tensors.dtypes import DataType
from inserve.testing import Gate, ManualClock

Arrays = Sequence[NDArray[Any]]
Function = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]

LIMIT_S = 20.0


def rows(*values: float) -> NDArray[np.float32]:
    """Return one row of one column for each value."""
    return np.array(values, np.float32).reshape(-1, 1)


def double(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"y": inputs["x"] * 2}


class FakeRunner:
    def __init__(self, session: FakeSession, feeds: Sequence[str], fetches: Sequence[str]) -> None:
        self._session = session
        self._feeds = feeds
        self._fetches = fetches

    def run(
        self, arrays: Arrays, timeout_s: float | None = None, executor: Executor = Executor.POOL
    ) -> list[NDArray[Any]]:
        return self._session.run(
            dict(zip(self._feeds, arrays, strict=True)), self._fetches, timeout_s, executor
        )


class FakeSession:
    """Applies *function* to arrays by name. Runs pass through the gates of ``gates``, one each, first."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.gates: list[Gate] = []
        self.batches: list[int] = []
        """Rows of the first input of each run, in the order they began; -1 for a scalar."""
        self.calls: list[tuple[float | None, Executor, str]] = []
        """Timeout, executor and thread of each run."""
        self.is_closed = False
        self._lock = threading.Lock()

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        return FakeRunner(self, [name for name, _ in feeds], fetches)

    def run(
        self,
        inputs: dict[str, NDArray[Any]],
        fetches: Sequence[str],
        timeout_s: float | None,
        executor: Executor,
    ) -> list[NDArray[Any]]:
        with self._lock:
            shape = next(iter(inputs.values())).shape if inputs else ()
            self.batches.append(shape[0] if shape else -1)
            self.calls.append((timeout_s, executor, threading.current_thread().name))
            gate = self.gates.pop(0) if self.gates else None
        if gate is not None:
            gate.enter()
        outputs = self.function(inputs)
        return [np.array(outputs[name]) for name in fetches]

    def close(self) -> None:
        self.is_closed = True


class FakeModel:
    meta_graph_def = b"graph"

    def __init__(self, session: FakeSession) -> None:
        self.session = session

    def close(self) -> None:
        self.session.close()


class Bench:
    """A model of *function* with batching by *options*; ``call`` asks it from a thread of its own."""

    def __init__(
        self,
        options: BatchingOptions,
        function: Function = double,
        feeds: Sequence[str] = ("x",),
        fetches: Sequence[str] = ("y",),
        observer: BatchingObserver | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.session = FakeSession(function)
        self.scheduler = BatchScheduler(options, self.clock if clock is None else clock, observer)
        self._feeds = [(name, DataType.DT_FLOAT) for name in feeds]
        self._fetches = fetches

        def load(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
            return FakeModel(self.session)

        model = batch_models(load, self.scheduler, options)("/models/m/1")
        assert isinstance(model, BatchedModel)
        self.model = model
        self.runner: Any = model.session.runner(self._feeds, self._fetches)
        self._threads = ThreadPoolExecutor(128, "caller")

    @property
    def stats(self) -> Any:
        return self.model.statistics().queues[0]

    def call(self, *arrays: NDArray[Any], timeout_s: float | None = None) -> Future[list[NDArray[Any]]]:
        """Run a request on a thread."""
        return self._threads.submit(self.runner.run, list(arrays), timeout_s)

    def queue(self, *arrays: NDArray[Any], timeout_s: float | None = None) -> Future[list[NDArray[Any]]]:
        """Run a request on a thread, and return once it waits."""
        waiting = self.stats.queued
        future = self.call(*arrays, timeout_s=timeout_s)
        deadline = threading.Event()
        while self.stats.queued == waiting and not future.done():
            deadline.wait(0.0005)
        return future

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep a slot busy with a request of one row meanwhile."""
        gate = Gate()
        self.session.gates.append(gate)
        future = self.call(*(rows(0) for _ in self._feeds))
        gate.block_until_entered()
        try:
            yield
        finally:
            gate.open()
        future.result(LIMIT_S)

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Keep nothing busy."""
        yield

    def stop(self) -> None:
        self.scheduler.stop(LIMIT_S)
        self._threads.shutdown()


def value_of(future: Future[list[NDArray[Any]]]) -> Any:
    """Return the first output of a request as a list."""
    return future.result(LIMIT_S)[0].tolist()
