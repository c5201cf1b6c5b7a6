"""A version held twice: one session for callers who are alone, one for crowds.

TensorFlow gives a session one number of threads that share out an operation. Sharing makes one answer fast
and several at once slow. So where both matter the version is loaded with either number, and a run goes to the
one or the other by how many are in progress.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from numpy.typing import NDArray

from inserve.tensorflow_c.interface import Executor, LoadedModel, Runner, Session
from inserve.tensors.dtypes import DataType

__all__ = ["CrowdModel", "CrowdRunner", "CrowdRuns", "CrowdSession"]

_DEADLINE_MARGIN = 10.0
"""A run on the calling thread cannot be ended, so its deadline must be further away than so many times what
it takes."""


class CrowdRuns(NamedTuple):
    """Which runs go to the other session in a crowd, and how."""

    most_bytes: int
    """Inputs of up to so many."""
    executor: Executor
    seconds: float
    """What such a run was measured to take."""
    alone_too: bool = False
    """Whether they go there without a crowd, too, so that only larger inputs go to the other session."""


class CrowdRunner:
    """One choice of feeds and fetches in both sessions; implements ``interface.Runner``."""

    __slots__ = ("_in_progress", "_others", "_runs", "_session", "_single", "_single_run", "_together")

    def __init__(self, session: CrowdSession, single: Runner, together: Runner, runs: CrowdRuns) -> None:
        self._session = session
        self._in_progress = session.in_progress
        self._others = 0 if runs.alone_too else session.crowd - 1
        self._runs = runs
        self._single = single
        self._single_run = single.run
        self._together = together.run

    def __repr__(self) -> str:
        return f"<CrowdRunner {self._single!r}>"

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = Executor.POOL,
    ) -> list[NDArray[Any]]:
        """Run the graph once, in the session that is faster now; see ``interface.Runner.run``.

        In a crowd *executor* does not count, but *timeout_s* does.
        """
        in_progress = self._in_progress
        is_crowd = len(in_progress) >= self._others
        try:
            in_progress.append(None)
            if is_crowd and self._suits(arrays, timeout_s):
                return self._together(arrays, timeout_s, self._runs.executor)
            return self._single_run(arrays, timeout_s, executor)
        finally:
            # A signal may have come before the append: then there is one too few until none is in progress.
            with suppress(IndexError):
                in_progress.pop()

    def _suits(self, arrays: Sequence[NDArray[Any]], timeout_s: float | None) -> bool:
        most_bytes, executor, seconds, _ = self._runs
        if self._session.is_given_up or sum(array.nbytes for array in arrays) > most_bytes:
            return False
        return timeout_s is None or executor is Executor.POOL or timeout_s > _DEADLINE_MARGIN * seconds


class CrowdSession:
    """Both sessions of a version as one; implements ``interface.Session``. Any thread may use it.

    Runs whose feeds are in *runs*, by the names of their tensors, go to *together* when *crowd* of them are
    in progress, the run itself included; all others go to *single*. The sessions are owned.
    """

    def __init__(
        self, single: Session, together: Session, crowd: int, runs: Mapping[frozenset[str], CrowdRuns]
    ) -> None:
        self._single = single
        self._together = together
        self._runs = dict(runs)
        self.crowd = crowd
        self.in_progress: deque[None] = deque()
        """An entry for each run in progress that could be part of a crowd; only runners change it."""
        self.is_given_up = False
        """Whether all runs go to one session: the two may differ from now on."""

    def __repr__(self) -> str:
        return f"<CrowdSession {self._single!r}, in progress: {len(self.in_progress)}>"

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        """Prepare runs in both sessions; see ``interface.Session``."""
        single = self._single.runner(feeds, fetches)
        runs = self._runs.get(frozenset(name for name, _ in feeds))
        if runs is None:
            return single
        return CrowdRunner(self, single, self._together.runner(feeds, fetches), runs)

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Run everything as in a crowd inside, for warm-up."""
        self.in_progress.extend([None] * self.crowd)
        try:
            yield
        finally:
            for _ in range(self.crowd):
                self.in_progress.pop()

    def close(self) -> None:
        """Close both sessions, each once no run is in progress; more calls do nothing."""
        try:
            self._single.close()
        finally:
            self._together.close()


class CrowdModel:
    """A SavedModel in memory twice; implements ``interface.LoadedModel``. Owns *single* and *together*."""

    def __init__(
        self,
        single: LoadedModel,
        together: LoadedModel,
        crowd: int,
        runs: Mapping[frozenset[str], CrowdRuns],
    ) -> None:
        self._single = single
        self._together = together
        self._session = CrowdSession(single.session, together.session, crowd, runs)

    def __repr__(self) -> str:
        return f"<CrowdModel {self._session!r}>"

    @property
    def session(self) -> CrowdSession:
        return self._session

    @property
    def meta_graph_def(self) -> bytes:
        return self._single.meta_graph_def

    def close(self) -> None:
        """Close both; more calls do nothing."""
        try:
            self._single.close()
        finally:
            self._together.close()
