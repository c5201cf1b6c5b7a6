"""Carries out loads and unloads, each to its end: attempts, resources, publication, handles.

Rules: TensorFlow Serving, ``core/basic_manager.h``. One thread at a time calls; what runs elsewhere
reports through ``post``.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from inserve.clock import Clock
from inserve.errors import CancelledError, InserveError, ResourceExhaustedError, error_from_code
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.loader_harness import HarnessState, LoaderHarness
from inserve.lifecycle.servable_handle import Lease
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState, health_of
from inserve.lifecycle.serving_map import ServingMap
from inserve.lifecycle.task_runner import InlineRunner, TaskRunner, ThreadRunner
from inserve.resources.allocation import ResourceAllocation
from inserve.resources.tracker import ResourceTracker

__all__ = ["BasicManager"]

_logger = logging.getLogger("inserve.lifecycle")

_USING_RESOURCES = frozenset(
    {
        HarnessState.LOAD_APPROVED,
        HarnessState.LOADING,
        HarnessState.UNLOAD_REQUESTED,
        HarnessState.QUIESCING,
        HarnessState.QUIESCED,
        HarnessState.UNLOADING,
    }
)
"""States that will end by themselves and may then have given resources back."""


class BasicManager:
    """Owns the managed versions and does with them what it is told.

    *wake* is called, on any thread, when there is something to take in. *runner* replaces the
    threads that loads and unloads run on; without it a number of threads of 0 means one load or
    unload at a time, on the caller's thread.

    A version goes from the estimate of its resources to their reservation to its load. Whoever
    does not fit waits as long as anything under way may give resources back, and no other load is
    begun meanwhile, so that a large version is not starved by small ones.
    """

    def __init__(
        self,
        serving_map: ServingMap,
        bus: EventBus[ServableState],
        tracker: ResourceTracker,
        clock: Clock,
        wake: Callable[[], None],
        num_load_threads: int,
        num_unload_threads: int,
        runner: TaskRunner | None,
    ) -> None:
        self.num_load_threads = num_load_threads
        self.managed: dict[str, dict[int, LoaderHarness]] = {}
        self.returned: SimpleQueue[ServableId | None] = SimpleQueue()
        """Ids of versions whose last handle was given back; None is for whoever reads it."""
        self._serving_map = serving_map
        self._bus = bus
        self._tracker = tracker
        self._clock = clock
        self._wake = wake
        self._num_unload_threads = num_unload_threads
        self._runner = runner
        self._inbox: deque[Callable[[], None]] = deque()
        self._loads: set[ServableId] = set()
        self._unloads: set[ServableId] = set()
        self._estimates: dict[ServableId, ResourceAllocation] = {}

    @property
    def num_loads(self) -> int:
        """Loads (and estimates before them) that run now."""
        return len(self._loads)

    @property
    def num_unloads(self) -> int:
        """Unloads that run now."""
        return len(self._unloads)

    def harnesses(self) -> Iterator[LoaderHarness]:
        """Yield what is managed at the moment of the call; any thread may read them."""
        for stream in list(self.managed.values()):
            yield from list(stream.values())

    def next_due_s(self) -> float | None:
        """Return the seconds from now until the next attempt is due, None if none will be."""
        now = self._clock.now()
        waits = [h.due_s - now for h in self.harnesses() if h.due_s is not None and h.due_s > now]
        return min(waits) if waits else None

    def post(self, message: Callable[[], None]) -> None:
        """Have *message* called by the next ``take_in``; any thread may call."""
        self._inbox.append(message)
        self._wake()

    def quiesced(self, id: ServableId) -> None:
        """Note that no handle to *id* is left, in the next ``take_in``; any thread may call."""
        self.post(functools.partial(self._quiesced, id))

    def take_returned(self) -> None:
        """Do what whoever reads ``returned`` on a thread of its own does, for what is in there now."""
        while True:
            try:
                id = self.returned.get_nowait()
            except Empty:
                return
            if id is not None:
                self.quiesced(id)

    def take_in(self) -> bool:
        """Act on all that was posted; return whether there was anything."""
        changed = False
        while self._inbox:
            self._inbox.popleft()()
            changed = True
        return changed

    def add(self, harness: LoaderHarness) -> None:
        """Manage *harness*, in place of one for the same id that is not in memory."""
        self.managed.setdefault(harness.id.name, {})[harness.id.version] = harness
        self._publish(harness, ManagerState.START if harness.error is None else ManagerState.END)

    def forget(self, harness: LoaderHarness) -> None:
        """Manage *harness* no longer; it is not in memory."""
        stream = self.managed[harness.id.name]
        del stream[harness.id.version]
        if not stream:
            del self.managed[harness.id.name]

    def try_again(self, ids: Sequence[ServableId]) -> None:
        """Make those of *ids* new that have failed and are still aspired."""
        for id in ids:
            harness = self._harness(id)
            if harness is not None and harness.state is HarnessState.ERROR and harness.is_aspired:
                self._renew(harness)

    def end(self, harness: LoaderHarness, error: InserveError) -> None:
        """Give up on a version that is not in memory."""
        if not isinstance(error, CancelledError):
            _logger.error("Servable %s cannot be loaded: %s: %s", harness.id, error.code.name, error.message)
        self._estimates.pop(harness.id, None)
        self._fail(harness, error)

    def cancel(self, harness: LoaderHarness) -> None:
        """End a version that is no longer aspired and was not loaded yet."""
        self.end(harness, CancelledError("Loading of servable cancelled"))

    # Loading

    def has_load_slot(self) -> bool:
        """Return whether another load may be begun now."""
        return self._has_free_thread() and not self._estimates

    def begin_load(self, harness: LoaderHarness) -> None:
        """Begin to load a version that is NEW."""
        harness.request_load()
        self._estimate(harness)

    def begin_due(self) -> bool:
        """Begin the attempts that are due, as far as there are threads; return whether there were any."""
        now = self._clock.now()
        due = [(h.due_s, h.id, h) for h in self.harnesses() if h.due_s is not None and h.due_s <= now]
        changed = False
        for _, _, harness in sorted(due, key=lambda entry: entry[:2]):
            if harness.state is HarnessState.ERROR:
                self._renew(harness)
            elif not self._has_free_thread():
                continue
            elif harness.state is HarnessState.LOAD_REQUESTED:
                self._estimate(harness)
            else:
                harness.begin_attempt()
                self._load(harness)
            changed = True
        return changed

    def admit(self) -> bool:
        """Reserve resources for whoever waits for them, and load; return whether anything has changed."""
        changed = False
        for id, estimate in list(self._estimates.items()):
            harness = self.managed[id.name][id.version]
            if not harness.is_aspired:
                self.cancel(harness)
                changed = True
                continue
            if not self._has_free_thread():
                continue
            try:
                self._tracker.reserve(id, estimate)
            except ResourceExhaustedError as refusal:
                if not any(h.state in _USING_RESOURCES for h in self.harnesses()):
                    text = f"Insufficient resources to load servable {id}: {refusal.message}"
                    self.end(harness, ResourceExhaustedError(text))
                    changed = True
                continue
            _logger.info("Successfully reserved resources to load servable %s", id)
            del self._estimates[id]
            harness.transition(HarnessState.LOAD_APPROVED)
            harness.transition(HarnessState.LOADING)
            self._publish(harness, ManagerState.LOADING)
            self._load(harness)
            changed = True
        return changed

    def _has_free_thread(self) -> bool:
        return len(self._loads) < max(1, self.num_load_threads)

    def _renew(self, harness: LoaderHarness) -> None:
        harness.try_again()
        self._publish(harness, ManagerState.START)

    def _estimate(self, harness: LoaderHarness) -> None:
        assert harness.loader is not None
        harness.begin_attempt()
        self._run_load(harness, harness.loader.estimate_resources, self._estimated)

    def _estimated(
        self, harness: LoaderHarness, estimate: ResourceAllocation | None, error: InserveError | None
    ) -> None:
        self._loads.discard(harness.id)
        if error is not None:
            text = (
                f"Error while attempting to reserve resources to load servable {harness.id}: {error.message}"
            )
            self._attempt_failed(harness, error_from_code(error.code, text), ManagerState.START)
        elif estimate is not None:
            harness.estimated()
            self._estimates[harness.id] = estimate

    def _load(self, harness: LoaderHarness) -> None:
        assert harness.loader is not None
        _logger.info("Loading servable version %s", harness.id)
        self._run_load(harness, functools.partial(_load_servable, harness.loader), self._loaded)

    def _loaded(self, harness: LoaderHarness, loaded: _Loaded | None, error: InserveError | None) -> None:
        self._loads.discard(harness.id)
        if error is not None or loaded is None:
            assert error is not None
            self._attempt_failed(harness, error, ManagerState.LOADING)
            return
        if loaded.held is not None:
            self._tracker.book_anew(harness.id, loaded.held)
        if not harness.is_aspired:
            harness.error = CancelledError("Loading of servable cancelled")
            self._unload(harness)
        else:
            self._serving_map.publish(Lease(harness.id, loaded.servable, self.returned))
            harness.loaded()
            _logger.info("Successfully loaded servable version %s", harness.id)
            self._publish(harness, ManagerState.AVAILABLE)

    def _attempt_failed(self, harness: LoaderHarness, error: InserveError, state: ManagerState) -> None:
        if harness.attempt_failed(error, self._clock.now()):
            _logger.warning(
                "Loading servable: %s failed and is tried again: %s: %s",
                harness.id,
                error.code.name,
                error.message,
            )
            self._publish(harness, state)
        else:
            self.end(harness, error)

    # Unloading

    def begin_unload(self, harness: LoaderHarness) -> None:
        """Take a version that is READY from the requests to come; unload it when no handle is left."""
        _logger.info("Quiescing servable version %s", harness.id)
        harness.request_unload()
        harness.transition(HarnessState.QUIESCING)
        self._publish(harness, ManagerState.UNLOADING)
        self._serving_map.withdraw(harness.id)

    def unload_quiesced(self) -> bool:
        """Unload what has no handle left, as far as there are threads; return whether there was any."""
        changed = False
        for harness in self.harnesses():
            has_free_thread = len(self._unloads) < max(1, self._num_unload_threads)
            if harness.state is HarnessState.QUIESCED and has_free_thread:
                self._unload(harness)
                changed = True
        return changed

    def _quiesced(self, id: ServableId) -> None:
        harness = self._harness(id)
        if harness is not None and harness.state is HarnessState.QUIESCING:
            _logger.info("Done quiescing servable version %s", id)
            harness.transition(HarnessState.QUIESCED)

    def _unload(self, harness: LoaderHarness) -> None:
        assert harness.loader is not None
        harness.transition(HarnessState.UNLOADING)
        self._unloads.add(harness.id)
        runner = self._runner or (ThreadRunner() if self._num_unload_threads else InlineRunner())
        runner.start(
            f"inserve-unload-{harness.id.name}-{harness.id.version}",
            functools.partial(self._run_task, harness, harness.loader.unload, self._unloaded),
        )

    def _unloaded(self, harness: LoaderHarness, _: Any, error: InserveError | None) -> None:
        self._unloads.discard(harness.id)
        if error is not None:
            _logger.error(
                "Servable %s cannot be unloaded: %s: %s", harness.id, error.code.name, error.message
            )
            self._fail(harness, error)
            return
        self._tracker.release(harness.id)
        harness.transition(HarnessState.DISABLED)
        _logger.info("Done unloading servable version %s", harness.id)
        self._publish(harness, ManagerState.END)

    # Elsewhere

    def _run_load(
        self,
        harness: LoaderHarness,
        call: Callable[[], Any],
        report: Callable[[LoaderHarness, Any, InserveError | None], None],
    ) -> None:
        self._loads.add(harness.id)
        runner = self._runner or (ThreadRunner() if self.num_load_threads else InlineRunner())
        runner.start(
            f"inserve-load-{harness.id.name}-{harness.id.version}",
            functools.partial(self._run_task, harness, call, report),
        )

    def _run_task(
        self,
        harness: LoaderHarness,
        call: Callable[[], Any],
        report: Callable[[LoaderHarness, Any, InserveError | None], None],
    ) -> None:
        """Call the loader, on the thread of a task; what it raises becomes the report."""
        try:
            message = functools.partial(report, harness, call(), None)
        except Exception as error:
            if not isinstance(error, InserveError):
                _logger.exception("The loader of %s raised", harness.id)
            message = functools.partial(report, harness, None, health_of(error))
        self.post(message)

    def _fail(self, harness: LoaderHarness, error: InserveError) -> None:
        self._tracker.release(harness.id)
        harness.fail(error, self._clock.now())
        self._publish(harness, ManagerState.END)

    def _harness(self, id: ServableId) -> LoaderHarness | None:
        return self.managed.get(id.name, {}).get(id.version)

    def _publish(self, harness: LoaderHarness, state: ManagerState) -> None:
        error = harness.error if state is ManagerState.END else None
        self._bus.publish(
            ServableState(harness.id, state, self._clock.now(), error, harness.attempts, harness.last_failure)
        )


class _Loaded(NamedTuple):
    servable: Any
    held: ResourceAllocation | None


def _load_servable(loader: Loader) -> _Loaded:
    held = loader.load()
    try:
        return _Loaded(loader.servable(), held)
    except BaseException:
        loader.unload()
        raise
