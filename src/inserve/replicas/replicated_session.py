"""One model, loaded several times: a LoadSavedModel around one for each device.

Requests stand in one line, whether before a batcher or as the threads that call: each run goes to the
replica with the fewest runs in progress.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError, InserveError, error_from_code
from inserve.replicas.least_loaded import LeastLoaded
from inserve.replicas.state_changes import check_replicable
from inserve.tensorflow_c.interface import Executor, LoadedModel, LoadSavedModel, Runner, Session
from inserve.tensors.dtypes import DataType

__all__ = ["ReplicatedModel", "ReplicatedSession", "replicate"]

_MOST_WARM_UP_RUNS = 256
_MOST_WARM_UP_BYTES = 64 << 20
"""Bounds of what is kept of the runs on the first replica, to run it on the others."""


class _WarmUpRun(NamedTuple):
    """A run that the first replica has done and the others have before them."""

    runner: ReplicatedRunner
    arrays: list[NDArray[Any]]
    executor: Executor


class _WarmUp:
    """The different runs of a warm-up: one for each runner and shapes. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_bytes = 0
        self._runs: dict[tuple[int, tuple[tuple[int, ...], ...]], _WarmUpRun] = {}

    def note(self, runner: ReplicatedRunner, arrays: Sequence[NDArray[Any]], executor: Executor) -> None:
        key = (id(runner), tuple(array.shape for array in arrays))
        num_bytes = sum(array.nbytes for array in arrays)
        with self._lock:
            if (
                key not in self._runs
                and len(self._runs) < _MOST_WARM_UP_RUNS
                and self._num_bytes + num_bytes <= _MOST_WARM_UP_BYTES
            ):
                self._num_bytes += num_bytes
                self._runs[key] = _WarmUpRun(runner, [array.copy() for array in arrays], executor)

    def runs(self) -> list[_WarmUpRun]:
        with self._lock:
            return list(self._runs.values())


class ReplicatedRunner:
    """The same feeds and fetches on every replica; implements ``interface.Runner``."""

    def __init__(
        self, session: ReplicatedSession, runners: Sequence[Runner], least_loaded: LeastLoaded
    ) -> None:
        self._session = session
        self._runners = tuple(runners)
        self._runs = tuple(runner.run for runner in runners)
        self._take = least_loaded.take
        self._give_back = least_loaded.give_back

    def __repr__(self) -> str:
        return f"<ReplicatedRunner {len(self._runners)} x {self._runners[0]!r}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the graph once, on the replica with the fewest runs; see ``interface.Runner.run``."""
        if self._session.is_special:
            return self._session.run_specially(self, arrays, timeout_s, executor)
        replica = self._take()
        try:
            return self._runs[replica](arrays, timeout_s, executor)
        finally:
            self._give_back(replica)

    def run_on(
        self,
        replica: int,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the graph on the replica of this number, however many runs it has."""
        return self._runs[replica](arrays, timeout_s, executor)


class ReplicatedSession:
    """The sessions of all replicas as one; implements ``interface.Session``. Any thread may use it.

    *replicas* gives each with the name of its device; *name* stands in messages. The sessions are owned.
    """

    def __init__(self, replicas: Sequence[tuple[str, Session]], name: str) -> None:
        self._devices = tuple(device for device, _ in replicas)
        self._sessions = tuple(session for _, session in replicas)
        self._name = name
        self._least_loaded = LeastLoaded(len(self._sessions))
        self._is_closed = False
        self._warm_up: _WarmUp | None = None
        self.is_special = False
        """Whether runs have to go through ``run_specially``."""

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else ", ".join(
            f"{device}: {count} runs" for device, count in self.runs_in_progress()
        )  # fmt: skip
        return f"<ReplicatedSession {self._name!r} [{state}]>"

    def runs_in_progress(self) -> list[tuple[str, int]]:
        """Return the device and the number of runs of each replica."""
        return list(zip(self._devices, self._least_loaded.counts(), strict=True))

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> ReplicatedRunner:
        """Prepare runs on every replica; see ``interface.Session``."""
        self._check_open()
        runners = [session.runner(feeds, fetches) for session in self._sessions]
        return ReplicatedRunner(self, runners, self._least_loaded)

    def close(self) -> None:
        """Close the sessions of all replicas, each once no run is in progress; more calls do nothing.

        Raises:
            InserveError: What closing one of them raised, after all of them were told to.
        """
        self._is_closed = self.is_special = True
        _close_all(self._sessions)

    @contextmanager
    def first_replica_then_all(self) -> Iterator[None]:
        """Run everything on the first replica inside, so that times are its own; then once on the others.

        Of runs that differ in values alone, one is repeated, and only those that succeeded. For one
        thread, before others use the session.

        Raises:
            InserveError: A run that had succeeded on the first replica failed on another.
        """
        warm_up = self._warm_up = _WarmUp()
        self.is_special = True
        try:
            yield
        finally:
            self._warm_up = None
            self.is_special = self._is_closed
        for run in warm_up.runs():
            for replica in range(1, len(self._sessions)):
                self._repeat(run, replica)

    def _repeat(self, run: _WarmUpRun, replica: int) -> None:
        try:
            run.runner.run_on(replica, run.arrays, None, run.executor)
        except InserveError as error:
            raise _on_device(error, self._devices[replica]) from error

    def run_specially(
        self,
        runner: ReplicatedRunner,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None,
        executor: Executor,
    ) -> list[NDArray[Any]]:
        """Run during warm-up or after closing; ``ReplicatedRunner`` calls it."""
        self._check_open()
        warm_up = self._warm_up
        outputs = runner.run_on(0, arrays, timeout_s, executor)
        if warm_up is not None:
            warm_up.note(runner, arrays, executor)
        return outputs

    def _check_open(self) -> None:
        if self._is_closed:
            raise FailedPreconditionError(f"the session of {self._name} is closed")


class ReplicatedModel:
    """A SavedModel in memory several times; implements ``interface.LoadedModel``. Owns *replicas*."""

    def __init__(self, replicas: Sequence[tuple[str, LoadedModel]], path: str) -> None:
        self._models = tuple(model for _, model in replicas)
        self._session = ReplicatedSession([(device, model.session) for device, model in replicas], path)

    def __repr__(self) -> str:
        return f"<ReplicatedModel {self._session!r}>"

    @property
    def session(self) -> ReplicatedSession:
        return self._session

    @property
    def meta_graph_def(self) -> bytes:
        return self._models[0].meta_graph_def

    @property
    def num_replicas(self) -> int:
        """How many runs there have to be at the same time for all replicas to work."""
        return len(self._models)

    @property
    def tunable_session(self) -> Session | None:
        """The session of the first replica: one replica is measured, and what is found holds for all."""
        first = self._models[0]
        session: Session | None = getattr(first, "tunable_session", first.session)
        return session

    def unbatched(self) -> AbstractContextManager[None]:
        """Return a context for warm-up: it reaches every replica; see ``first_replica_then_all``."""
        return self._session.first_replica_then_all()

    def close(self) -> None:
        """Close all replicas once no run is in progress; more calls do nothing."""
        try:
            self._session.close()
        finally:
            _close_all(self._models)


def replicate(replicas: Sequence[tuple[str, LoadSavedModel]], force: bool = False) -> LoadSavedModel:
    """Return what loads a model once for each of *replicas*, and gives each run to the least busy one.

    Each is the name of a device, for messages, and what loads onto it. One alone is what it is by itself.
    They are loaded one after the other. Unless *force*, a model is refused whose signatures change state:
    a request would change that of one replica only.

    The function returned raises as those of *replicas*, with the device before the text, and:

    Raises:
        FailedPreconditionError: A signature changes variables, tables or queues.
        ValueError: *replicas* is empty (from ``replicate`` itself).
    """
    if not replicas:
        raise ValueError("expected at least one replica, got none")
    if len(replicas) == 1:
        return replicas[0][1]

    def load_replicated(path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        loaded: list[tuple[str, LoadedModel]] = []
        try:
            for device, load in replicas:
                loaded.append((device, _load_replica(device, load, path, tags, config)))
                if len(loaded) == 1 and not force:
                    check_replicable(loaded[0][1].meta_graph_def, path)
            return ReplicatedModel(loaded, path)
        except BaseException:
            _close_all([model for _, model in loaded])
            raise

    return load_replicated


def _load_replica(
    device: str, load: LoadSavedModel, path: str, tags: Sequence[str], config: bytes
) -> LoadedModel:
    try:
        return load(path, tags, config)
    except InserveError as error:
        raise _on_device(error, device) from error


def _on_device(error: InserveError, device: str) -> InserveError:
    return error_from_code(error.code, f"replica on {device}: {error.message}")


def _close_all(owned: Sequence[Session | LoadedModel]) -> None:
    """Close all of them in turn; what that raises is raised at the end."""
    with ExitStack() as closing:
        for one in reversed(owned):
            closing.callback(one.close)
