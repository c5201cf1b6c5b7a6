"""The other processes of a server: launched, told of changes, replaced when they die, drained."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from inserve.clock import Clock, SystemClock
from inserve.errors import DeadlineExceededError, InserveError, InternalError, UnavailableError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ServableState
from inserve.server.model_config import ModelConfig
from inserve.server.workers.peer import Operations, Peer

__all__ = ["Launch", "WorkerGroup", "WorkerProcess", "WorkerState", "WorkerStatus"]

_STEADY_S = 10.0
"""A worker that has served this long was not short-lived; the more are, the longer the pauses between."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

_SET_LIMIT_S = 90.0
"""How long a worker may take to follow a change of models, which it tries for a minute."""

_END_LIMIT_S = 10.0
"""How long a worker that was told to stop may take beyond its grace period, before it is killed."""

_LAST_WORDS_S = 1.0
"""How long the end of a process may take once its connection is closed."""

_NOTHING_KEPT: Mapping[tuple[str, Any], tuple[Any, ...]] = {}

_logger = logging.getLogger("inserve.server")


class WorkerProcess(Protocol):
    """A process that was launched; ends by itself when *connection* is closed."""

    pid: int
    connection: Connection

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit status, negative for a signal; None if it still runs after *timeout_s*."""
        ...

    def kill(self) -> None:
        """End it at once; more calls do nothing."""
        ...


class Launch(Protocol):
    """Starts a process, which gets ready and serves nothing before it is asked to ``start``.

    Raises ``OSError`` where the system refuses.
    """

    def __call__(self) -> WorkerProcess: ...


class WorkerState(enum.Enum):
    STARTING = "starting"
    """Its models are loading; it takes no requests yet."""
    SERVING = "serving"
    WAITING = "waiting"
    """It died soon after its start, and is started again after a pause."""
    STOPPED = "stopped"


@dataclass(frozen=True)
class WorkerStatus:
    """One of the processes of a server."""

    index: int
    """0 is the process that the server was made in."""
    pid: int | None
    state: WorkerState
    restarts: int = 0
    """How often it was replaced."""
    memory_bytes: int | None = None
    """What it holds in memory and shares with nobody, None where the system does not tell."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker is given to begin with."""

    index: int
    options: Any
    """``ServerOptions`` with the addresses that are shared."""
    models: Sequence[ModelConfig]
    is_replacement: bool
    """It takes the place of one that served: models that do not answer at the others are not waited for."""


class WorkerGroup:
    """*count* worker processes, numbered from 1, and one in reserve; any thread may call.

    *operations* and *notices* answer and take what workers ask and tell; a notice has the index of
    the worker as its first argument. The states that workers tell of are kept here.
    """

    def __init__(
        self,
        count: int,
        launch: Launch,
        operations: Operations,
        notices: Operations,
        clock: Clock | None = None,
    ) -> None:
        self._launch = launch
        self._operations = operations
        self._notices = notices
        self._clock = SystemClock() if clock is None else clock
        self._lock = threading.Lock()
        self._may_start = threading.Event()
        self._stopping = threading.Event()
        self._start_is_over = threading.Event()
        """Set once every worker has begun, or one has failed to."""
        self._start: tuple[Any, Sequence[ModelConfig]] | None = None
        """Options and models of a worker that starts now."""
        self._kept = _NOTHING_KEPT
        """Operation and key -> arguments of what workers that start later are asked, too."""
        self._spare: WorkerProcess | None = None
        self._grace_s = 0.0
        self._workers = [_Worker(index) for index in range(1, count + 1)]
        self._threads = [
            threading.Thread(
                target=self._supervise, args=(worker,), name=f"inserve-worker-{worker.index}", daemon=True
            )
            for worker in self._workers
        ]

    def __repr__(self) -> str:
        return f"<WorkerGroup {', '.join(worker.state.value for worker in self._workers)}>"

    # --- life -------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the processes, which then get ready in the background."""
        for thread in self._threads:
            thread.start()

    def start(self, options: Any, models: Sequence[ModelConfig], timeout_s: float | None = None) -> None:
        """Have each worker load *models* and serve, with ``ServerOptions``; return once all do.

        Raises:
            InserveError: One could not start, whatever the others are at; the text says why.
            DeadlineExceededError: *timeout_s* seconds have passed.
        """
        self._start = options, models
        self._may_start.set()
        self._clock.wait(self._start_is_over, timeout_s)
        for worker in self._workers:
            if worker.failure is not None:
                raise worker.failure
        for worker in self._workers:
            if not worker.has_begun:
                raise DeadlineExceededError(f"after {timeout_s} s worker {worker.index} is still starting")
        self._launch_spare()

    def stop(self, grace_s: float) -> None:
        """Have each worker take no more requests and finish those it has, for *grace_s* seconds; end it.

        Returns when all have ended. More calls do nothing.
        """
        self._grace_s = grace_s
        self._stopping.set()
        self._may_start.set()
        for worker in self._workers:
            self._drain(worker)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            spare.wait()
            spare.connection.close()

    def _drain(self, worker: _Worker) -> None:
        """Ask *worker* to stop, on a thread of its own: all drain at the same time.

        One that does not serve yet has nothing to finish, and loading can take long: it is ended at once.
        """
        with self._lock:
            peer, process = worker.peer, worker.process
            if peer is None or process is None or worker.is_draining:
                return
            worker.is_draining = True
        if worker.serving_peer is None:
            process.kill()
            return

        def drain() -> None:
            try:
                peer.ask("stop", self._grace_s, timeout_s=self._grace_s + _END_LIMIT_S)
            except InserveError:
                _logger.warning("Worker %d did not stop when asked to; it is ended", worker.index)
            peer.close()
            if process.wait(_END_LIMIT_S) is None:
                process.kill()

        threading.Thread(target=drain, name=f"inserve-worker-{worker.index}-drain", daemon=True).start()

    # --- what all are told ------------------------------------------------------------------------

    def set_models(self, models: Sequence[ModelConfig]) -> None:
        """Have every worker serve *models*, and those that will replace them, too.

        Returns before new models answer there. A worker that fails is logged: the process that the
        server was made in has the say about what is right.
        """
        with self._lock:
            if self._start is None:
                return
            self._start = self._start[0], models
        self.ask_all("set_models", models, timeout_s=_SET_LIMIT_S)

    def ask_all_for_good(self, operation: str, key: Any, *arguments: Any) -> None:
        """Ask every worker, and those that will replace them; the last arguments for each *key* count."""
        with self._lock:
            self._kept = {**self._kept, (operation, key): arguments}
        self.ask_all(operation, *arguments, timeout_s=_SET_LIMIT_S)

    def ask_all(self, operation: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        """Return what *operation* returns at each worker that serves; failures are logged and left out."""
        results: list[Any] = []
        threads = [
            threading.Thread(
                target=self._ask_one,
                args=(worker.index, peer, operation, arguments, timeout_s, results),
                name=f"inserve-worker-{worker.index}-{operation}",
                daemon=True,
            )
            for worker in self._workers
            if (peer := worker.serving_peer) is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    @staticmethod
    def _ask_one(
        index: int,
        peer: Peer,
        operation: str,
        arguments: tuple[Any, ...],
        timeout_s: float | None,
        results: list[Any],
    ) -> None:
        try:
            results.append(peer.ask(operation, *arguments, timeout_s=timeout_s))
        except InserveError as error:
            _logger.warning("Worker %d, %s: %s", index, operation, error)

    # --- how they stand ---------------------------------------------------------------------------

    def status(self) -> tuple[WorkerStatus, ...]:
        """Return how each worker stands; ``memory_bytes`` is not filled in."""
        return tuple(
            WorkerStatus(worker.index, worker.pid, worker.state, worker.restarts) for worker in self._workers
        )

    def states(self) -> list[Mapping[ServableId, ServableState]]:
        """Return the last state of each version at each worker that serves."""
        return [dict(worker.states) for worker in self._workers if worker.state is WorkerState.SERVING]

    # --- supervision ------------------------------------------------------------------------------

    def _supervise(self, worker: _Worker) -> None:
        short_lives = 0
        while not self._stopping.is_set():
            pause_s = _pause_s(short_lives)
            if pause_s:
                worker.state = WorkerState.WAITING
                if self._clock.wait(self._stopping, pause_s):
                    break
            worker.state = WorkerState.STARTING
            try:
                served_s = self._run_once(worker)
            except Exception as error:
                _logger.exception("Unexpected error over worker %d", worker.index)
                failure = InternalError(f"worker {worker.index}: {type(error).__name__}: {error}")
                self._note_start(worker, failure)
                self._end(worker)
                served_s = None
            if self._stopping.is_set() or (served_s is None and not worker.restarts):
                break
            worker.restarts += 1
            short_lives = 0 if served_s is not None and served_s >= _STEADY_S else short_lives + 1
        worker.state = WorkerState.STOPPED
        self._note_start(worker)

    def _run_once(self, worker: _Worker) -> float | None:
        """Run one process of *worker* to its end; return how long it served, None if it never did."""
        with self._lock:
            process, self._spare = self._spare, None
        try:
            if process is None or process.wait(0.0) is not None:
                process = self._launch()
        except OSError as error:
            self._note_start(worker, UnavailableError(f"worker {worker.index} cannot be launched: {error}"))
            _logger.error("Worker %d cannot be launched: %s", worker.index, error)  # noqa: TRY400
            return None
        worker.states = {}
        peer = Peer(
            process.connection,
            f"worker {worker.index}",
            self._operations,
            self._notices_of(worker),
            lambda: None,
        )
        with self._lock:
            worker.process, worker.pid, worker.peer = process, process.pid, peer
            worker.is_draining = False
        peer.start()
        served_since: float | None = None
        self._may_start.wait()
        try:
            if not self._stopping.is_set():
                self._begin(worker, peer)
                served_since = self._clock.now()
        except InserveError as error:
            if not self._stopping.is_set():
                reason = _start_failure(worker.index, process, error)
                self._note_start(worker, reason)
                _logger.error("Worker %d cannot start: %s", worker.index, reason)  # noqa: TRY400
            process.kill()
        if self._stopping.is_set():
            self._drain(worker)
        status = process.wait()
        worker.serving_peer = None
        served_s = None if served_since is None else self._clock.now() - served_since
        worker.state = WorkerState.STOPPED
        worker.peer = None
        worker.pid = None
        peer.close()
        if not self._stopping.is_set() and served_since is not None:
            _logger.error(
                "Worker %d (process %d) ended with status %s; another is started",
                worker.index,
                process.pid,
                status,
            )
        return served_s

    def _end(self, worker: _Worker) -> None:
        """Leave nothing of what runs as *worker*."""
        peer, process = worker.peer, worker.process
        worker.serving_peer = worker.peer = worker.pid = None
        if process is not None:
            process.kill()
            process.wait()
        if peer is not None:
            peer.close()

    def _begin(self, worker: _Worker, peer: Peer) -> None:
        """Have the process load and serve, and give it what has changed meanwhile."""
        start = self._start
        assert start is not None
        peer.ask("start", WorkerStart(worker.index, *start, is_replacement=worker.has_begun))
        kept = _NOTHING_KEPT
        while True:
            with self._lock:
                before, start, kept_before, kept = start, self._start, kept, self._kept
                assert start is not None
                if start is before and kept is kept_before:
                    worker.state = WorkerState.SERVING
                    worker.serving_peer = peer
                    break
            if start is not before:
                peer.ask("set_models", start[1], timeout_s=_SET_LIMIT_S)
            if kept is not kept_before:
                for (operation, _), arguments in kept.items():
                    self._ask_one(worker.index, peer, operation, arguments, _SET_LIMIT_S, [])
        if worker.has_begun:
            self._launch_spare()
        self._note_start(worker)

    def _note_start(self, worker: _Worker, failure: InserveError | None = None) -> None:
        """Note that *worker* serves for the first time, or why it does not; of later starts nothing."""
        with self._lock:
            if not worker.has_begun:
                worker.failure = failure
                worker.has_begun = True
            if failure is not None or all(each.has_begun for each in self._workers):
                self._start_is_over.set()

    def _launch_spare(self) -> None:
        """Have a process ready that can replace a worker in a moment, unless there is one."""
        with self._lock:
            if self._spare is not None or self._stopping.is_set():
                return
            try:
                self._spare = self._launch()
            except OSError as error:
                _logger.warning("No process can be had in reserve for the workers: %s", error)

    def _notices_of(self, worker: _Worker) -> dict[str, Callable[..., Any]]:
        def state(event: ServableState) -> None:
            worker.states[event.id] = event

        bound: dict[str, Callable[..., Any]] = {"state": state}
        for name, take in self._notices.items():
            bound[name] = lambda *arguments, take=take: take(worker.index, *arguments)
        return bound


class _Worker:
    """What is known of one worker; written by its own thread alone."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = WorkerState.STARTING
        self.pid: int | None = None
        self.process: WorkerProcess | None = None
        self.peer: Peer | None = None
        self.serving_peer: Peer | None = None
        """The peer while the worker serves."""
        self.is_draining = False
        self.restarts = 0
        self.states: dict[ServableId, ServableState] = {}
        self.has_begun = False
        """Whether it has served for the first time, or failed to."""
        self.failure: InserveError | None = None
        """Why it failed to."""


def _start_failure(index: int, process: WorkerProcess, error: InserveError) -> InserveError:
    """Return *error*, or how the process ended where it has told nothing."""
    if isinstance(error, UnavailableError) and (status := process.wait(_LAST_WORDS_S)) is not None:
        return UnavailableError(f"worker {index} ended with status {status} while it started")
    return error


def _pause_s(short_lives: int) -> float:
    """Return how long to wait after so many short lives in a row: nothing after the first."""
    if short_lives < 2:
        return 0.0
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(short_lives - 2, 10)))
