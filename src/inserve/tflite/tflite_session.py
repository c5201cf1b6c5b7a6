"""A ``model.tflite`` behind ``tensorflow_c.interface``: session, runners, loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.clock import Clock
from inserve.errors import InternalError, InvalidArgumentError
from inserve.tensorflow_c.interface import Executor
from inserve.tensors.dtypes import DataType, element_type
from inserve.tensors.flat_tensor import is_flat
from inserve.tflite.interpreter import RunPlan, TfliteInterpreter
from inserve.tflite.interpreter_pool import InterpreterPool
from inserve.tflite.signature_defs import Endpoint, Endpoints, find_endpoint
from inserve.tflite.tflite_file import TfliteFile

__all__ = ["LoadedTfliteModel", "TfliteRunner", "TfliteSession"]

MAX_SPLIT_ROWS = 500
"""The largest request where requests are split (``internal::kInitialBatchSize``)."""


class TfliteSession:
    """The interpreters of one model; implements ``interface.Session``. Any thread may use it.

    *make_interpreter* makes one more; *num_pools* are made at once. With *num_interpreters_per_pool*
    above 1 a request of many rows is run in parts, several at a time.
    """

    def __init__(
        self,
        name: str,
        file: TfliteFile,
        endpoints: Endpoints,
        make_interpreter: Callable[[], TfliteInterpreter],
        num_pools: int,
        num_interpreters_per_pool: int,
        clock: Clock,
    ) -> None:
        self._name = name
        self._file = file
        self._endpoints = endpoints
        self._make_interpreter = make_interpreter
        self._pool = InterpreterPool(name, [make_interpreter() for _ in range(num_pools)], clock)
        self._clock = clock
        self._rows_per_run = _rows_per_run(file, num_interpreters_per_pool)
        self._part_threads = (
            ThreadPoolExecutor(num_pools, f"inserve-tflite-{name}") if num_interpreters_per_pool > 1 else None
        )

    def __repr__(self) -> str:
        return f"<TfliteSession {self._name!r} {self._pool!r}>"

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> TfliteRunner:
        """Prepare runs that feed and fetch these tensors; all of one subgraph, and all of its inputs.

        Raises:
            InvalidArgumentError: The model has no such input or output, or another type there, or an
                input is left out.
        """
        inputs = [_resolve(self._endpoints.inputs, name, "input") for name, _ in feeds]
        outputs = [_resolve(self._endpoints.outputs, name, "output") for name in fetches]
        for (name, data_type), endpoint in zip(feeds, inputs, strict=True):
            if endpoint.tensor.data_type != data_type:
                raise InvalidArgumentError(
                    f"Tensor {name} is {_type_name(endpoint)} in the model, "
                    f"expected {DataType(data_type).name} for the feed"
                )
        plan = _plan(self._file, inputs, outputs)
        return TfliteRunner(self, feeds, plan)

    def run(
        self, plan: RunPlan, arrays: Sequence[NDArray[Any]], timeout_s: float | None
    ) -> list[NDArray[Any]]:
        """Run *plan* once, many rows in parts where this session splits.

        *timeout_s* bounds the wait for interpreters, not what they do.

        Raises:
            InvalidArgumentError: More rows than a session that splits takes.
            DeadlineExceededError: No interpreter was free in time.
            FailedPreconditionError: The session is closed.
            InternalError: What LiteRT said.
        """
        threads, rows_per_run = self._part_threads, self._rows_per_run
        if threads is None or not arrays or not all(array.ndim for array in arrays):
            return self._run_whole(plan, arrays, timeout_s)
        rows = len(arrays[0])
        if rows > MAX_SPLIT_ROWS:
            raise InvalidArgumentError(
                f"Task size {rows} is larger than maximum input batch size {MAX_SPLIT_ROWS}"
            )
        if rows <= rows_per_run or any(len(array) != rows for array in arrays):
            return self._run_whole(plan, arrays, timeout_s)
        parts = [
            [array[start : start + rows_per_run] for array in arrays]
            for start in range(0, rows, rows_per_run)
        ]
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        others = [threads.submit(self._run_until, plan, part, deadline) for part in parts[1:]]
        try:
            results = [self._run_until(plan, parts[0], deadline)]
        finally:
            for other in others:
                other.exception()
        results += [other.result() for other in others]
        return [_joined([len(part[0]) for part in parts], pieces) for pieces in zip(*results, strict=True)]

    def _run_until(
        self, plan: RunPlan, arrays: Sequence[NDArray[Any]], deadline: float | None
    ) -> list[NDArray[Any]]:
        timeout_s = None if deadline is None else max(0.0, deadline - self._clock.now())
        return self._run_whole(plan, arrays, timeout_s)

    def _run_whole(
        self, plan: RunPlan, arrays: Sequence[NDArray[Any]], timeout_s: float | None
    ) -> list[NDArray[Any]]:
        interpreter = self._pool.take(timeout_s)
        try:
            return interpreter.run(plan, arrays)
        except InternalError:
            if interpreter.is_worn():
                interpreter = self._make_interpreter()
            raise
        finally:
            self._pool.give_back(interpreter)

    def close(self) -> None:
        """Free the interpreters once no run is in progress; more calls do nothing."""
        self._pool.close()
        if self._part_threads is not None:
            self._part_threads.shutdown()


class TfliteRunner:
    """One choice of feeds and fetches; implements ``interface.Runner``. ``TfliteSession.runner`` makes it."""

    def __init__(self, session: TfliteSession, feeds: Sequence[tuple[str, DataType]], plan: RunPlan) -> None:
        self._session = session
        self._plan = plan
        self.feeds: Sequence[tuple[str, np.dtype[Any]]] = tuple(
            (name, element_type(data_type).numpy) for name, data_type in feeds
        )

    def __repr__(self) -> str:
        return f"<TfliteRunner {', '.join(name for name, _ in self.feeds)} of {self._session!r}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the model once; see ``interface.Runner.run``.

        LiteRT computes on the calling thread whatever *executor* says. *timeout_s* ends the wait for an
        interpreter; nothing ends LiteRT's computing.
        """
        del executor
        if len(arrays) != len(self.feeds):
            raise ValueError(f"expected {len(self.feeds)} arrays, got {len(arrays)}")
        values = []
        for array, (name, dtype) in zip(arrays, self.feeds, strict=True):
            if array.dtype is not dtype:
                if array.dtype != dtype:
                    raise ValueError(f"feed {name}: expected an array of {dtype}, got {array.dtype}")
                # LiteRT knows one of two equal types (``long``, ``long long``) only.
                array = array.view(dtype)
            if is_flat(array):
                raise InvalidArgumentError(f"LiteRT takes no array of the shape that input {name} has")
            values.append(array)
        return self._session.run(self._plan, values, timeout_s)


class LoadedTfliteModel:
    """A model in memory; implements ``interface.LoadedModel``."""

    tunable_session = None
    """LiteRT leaves no choice of where a graph runs."""

    def __init__(self, session: TfliteSession, meta_graph_def: bytes) -> None:
        self.session = session
        self.meta_graph_def = meta_graph_def

    def close(self) -> None:
        self.session.close()


def _resolve(named: Mapping[str, Endpoint], name: str, kind: str) -> Endpoint:
    known = find_endpoint(named, name)
    if known is None:
        raise InvalidArgumentError(f"Missing {kind} TFLite tensor: {name}: Unknown tensor '{name}'.")
    endpoint = named[known]
    if endpoint.tensor.data_type is None:
        raise InvalidArgumentError(f"Tensor {name} is {_type_name(endpoint)}, which no array can hold")
    return endpoint


def _plan(file: TfliteFile, inputs: Sequence[Endpoint], outputs: Sequence[Endpoint]) -> RunPlan:
    numbers = {endpoint.subgraph for endpoint in (*inputs, *outputs)}
    if len(numbers) > 1:
        raise InvalidArgumentError("the tensors to feed and to fetch belong to different signatures")
    number = numbers.pop() if numbers else 0
    feeds = tuple(endpoint.tensor_index for endpoint in inputs)
    fetches = tuple(endpoint.tensor_index for endpoint in outputs)
    subgraph = file.subgraphs[number]
    missing = [subgraph.tensors[index].name for index in subgraph.inputs if index not in feeds]
    if missing:
        # Their memory would hold what some earlier run left there.
        raise InvalidArgumentError(f"no values for the input tensors {', '.join(missing)}")
    key, feed_aliases, fetch_aliases = _signature_of(file, number, feeds, fetches) if number else ("", (), ())
    return RunPlan(
        number,
        feeds,
        fetches,
        key,
        feed_aliases,
        fetch_aliases,
        tuple(endpoint.tensor.shape for endpoint in inputs),
        any(one.keeps_state for one in file.subgraphs),
    )


def _signature_of(
    file: TfliteFile, number: int, feeds: Sequence[int], fetches: Sequence[int]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return a signature that is the subgraph *number*, and what it calls its *feeds* and *fetches*."""
    for signature in file.signatures:
        if signature.subgraph == number:
            inputs = {index: alias for alias, index in signature.inputs.items()}
            outputs = {index: alias for alias, index in signature.outputs.items()}
            if len(inputs) == len(feeds) and inputs.keys() >= set(feeds) and outputs.keys() >= set(fetches):
                return (
                    signature.key,
                    tuple(inputs[index] for index in feeds),
                    tuple(outputs[index] for index in fetches),
                )
    raise InvalidArgumentError("the tensors to feed and to fetch are not those of one signature")


def _rows_per_run(file: TfliteFile, num_interpreters_per_pool: int) -> int:
    """Return how many rows one part has: what the model is made for, else an equal share of the most."""
    main = file.subgraphs[0]
    if len(main.inputs) == 1:
        shape = main.tensors[main.inputs[0]].shape
        if shape and shape[0] > 1:
            return shape[0]
    return -(-MAX_SPLIT_ROWS // num_interpreters_per_pool)


def _joined(rows: Sequence[int], pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if any(not piece.ndim or len(piece) != wanted for piece, wanted in zip(pieces, rows, strict=True)):
        raise InternalError(
            "Tensor split operation failed: an output has not one row for each row of the input, so that "
            "the model cannot be run in parts (num_tflite_interpreters_per_pool above 1)"
        )
    return np.concatenate(pieces)


def _type_name(endpoint: Endpoint) -> str:
    data_type = endpoint.tensor.data_type
    return f"of TfLite type {endpoint.tensor.type_number}" if data_type is None else data_type.name
