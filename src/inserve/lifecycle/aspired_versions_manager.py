"""The manager: takes in aspired versions, asks the policy, has versions loaded and unloaded.

Everything that changes state runs in ``step``, on one thread at a time: it takes in what arrived
(lists, results of loads, handles given back), decides, and starts what was decided. Loads and
unloads run elsewhere and report back. So nothing here needs a lock but what callers hand in, and a
test may call ``step`` itself, without a thread.

Rules: TensorFlow Serving, ``core/aspired_versions_manager.h`` and ``core/basic_manager.h``. What
is better here: the C++ manager looks around every 100 ms and starts one load or unload each time;
this one is woken by whatever happens and starts every step that the policy and the number of
threads allow. A pause between attempts holds no load thread, and ends early when the version is no
longer aspired. A version that failed can be tried again (``retry_failed``, ``RetryPolicy``). At
the end UNLOADING and END are published as ever.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from inserve.clock import Clock, SystemClock
from inserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from inserve.lifecycle.aspired_version_policy import (
    Action,
    AspiredVersionPolicy,
    VersionSnapshot,
    availability_preserving,
)
from inserve.lifecycle.basic_manager import BasicManager
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.loader_harness import HarnessState, LoaderHarness, RetryPolicy
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ServableState
from inserve.lifecycle.serving_map import ServingMap
from inserve.lifecycle.source import ServableData
from inserve.lifecycle.task_runner import TaskRunner
from inserve.resources.tracker import ResourceTracker

__all__ = ["AspiredVersionsManager", "AspiredVersionsManagerOptions"]

_logger = logging.getLogger("inserve.lifecycle")

_PAUSE_AFTER_DEFECT_S = 1.0
_THREAD_END_S = 5.0


@dataclass(frozen=True)
class AspiredVersionsManagerOptions:
    """How a manager works.

    *num_load_threads* loads and *num_unload_threads* unloads run at once. 0 means one, on the
    manager's own thread, which does nothing else meanwhile; the C++ server's flags default to it.

    Raises:
        ValueError: A number of threads is negative.
    """

    num_load_threads: int = 2
    num_unload_threads: int = 1
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    policy: AspiredVersionPolicy = availability_preserving

    def __post_init__(self) -> None:
        _check_num_threads("num_load_threads", self.num_load_threads)
        _check_num_threads("num_unload_threads", self.num_unload_threads)


class AspiredVersionsManager(ServingMap):
    """Keeps loaded what is aspired to; answers lookups (``Manager``).

    Changes of state are published on *bus*, on the thread that runs ``step``. *tracker* decides
    whether a version may be loaded. *runner* replaces the threads that loads and unloads run on.
    """

    def __init__(
        self,
        options: AspiredVersionsManagerOptions | None = None,
        *,
        bus: EventBus[ServableState],
        tracker: ResourceTracker | None = None,
        clock: Clock | None = None,
        runner: TaskRunner | None = None,
    ) -> None:
        super().__init__()
        self._options = AspiredVersionsManagerOptions() if options is None else options
        self._clock = SystemClock() if clock is None else clock
        self._wake = threading.Event()
        self._basic = BasicManager(
            self,
            bus,
            ResourceTracker() if tracker is None else tracker,
            self._clock,
            self._wake.set,
            self._options.num_load_threads,
            self._options.num_unload_threads,
            runner,
        )
        self._lists_lock = threading.Lock()
        self._pending_lists: dict[str, list[ServableData[Loader]]] = {}
        self._failed: tuple[ServableId, ...] = ()
        self._step_lock = threading.Lock()
        self._life_lock = threading.Lock()
        self._threads: tuple[threading.Thread, ...] = ()
        self._stopping = False
        self._finished = threading.Event()

    def __repr__(self) -> str:
        managed = sum(1 for _ in self._basic.harnesses())
        stopping = ", stopping" if self._stopping else ""
        return (
            f"<AspiredVersionsManager managed: {managed}, available: {len(self.available_servables())}, "
            f"loading: {self._basic.num_loads}, unloading: {self._basic.num_unloads}{stopping}>"
        )

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[Loader]]) -> None:
        """Aspire to exactly *versions* of *name* from now on; an ``AspiredVersionsCallback``.

        Returns at once; any thread may call. Of several lists for one name that were not looked at
        yet, the last counts. A list that names a version which is still being unloaded, or is
        loaded but no longer aspired, waits until that version is gone; it is then loaded afresh.
        Once ``stop`` was called, lists are dropped.

        Raises:
            InvalidArgumentError: An entry bears another name; the list is dropped.
        """
        for data in versions:
            if data.id.name != name:
                raise InvalidArgumentError(f"expected only versions of {name} in its list, got {data.id}")
        with self._lists_lock:
            if self._stopping:
                return
            self._pending_lists[name] = list(versions)
        self._wake.set()

    def is_aspired(self, name: str) -> bool:
        """Return whether a version of *name* is aspired to, or will be by a list not looked at yet.

        Any thread may call. When it is not, no loader of an earlier list will be taken for a later one.
        """
        with self._lists_lock:
            if self._pending_lists.get(name):
                return True
        return any(harness.is_aspired for harness in list(self._basic.managed.get(name, {}).values()))

    def retry_failed(self, name: str, version: int | None = None) -> list[ServableId]:
        """Have failed versions of *name* loaded anew: *version*, or all that are aspired to.

        Returns their ids at once; any thread may call. Their status starts over at START.

        Raises:
            NotFoundError: There is no such failed version.
        """
        ids = [id for id in self._failed if id.name == name and version in (None, id.version)]
        if not ids:
            wanted = f"version of {name}" if version is None else f"version {version} of {name}"
            raise NotFoundError(f"No aspired {wanted} has failed")
        self._basic.post(functools.partial(self._basic.try_again, ids))
        return ids

    def set_num_load_threads(self, num_load_threads: int) -> None:
        """Let *num_load_threads* loads run at once; those under way go on. Any thread may call.

        Raises:
            ValueError: The number is negative.
        """
        _check_num_threads("num_load_threads", num_load_threads)
        self._basic.num_load_threads = num_load_threads
        self._wake.set()

    def start(self) -> None:
        """Start managing, on threads of its own; more calls do nothing.

        Raises:
            FailedPreconditionError: The manager was stopped.
        """
        with self._life_lock:
            if self._stopping:
                raise FailedPreconditionError("a manager that was stopped cannot be started again")
            if self._threads:
                return
            self._threads = (
                threading.Thread(target=self._manage, name="inserve-manager", daemon=True),
                threading.Thread(target=self._forward_returned, name="inserve-handle-returns", daemon=True),
            )
            for thread in self._threads:
                thread.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Unload everything and end the threads; more calls do nothing.

        Lookups find nothing from soon on. Running attempts to load and handles in use are waited
        for, pauses between attempts are not. Not to be called by a subscriber of the bus. Without
        ``start`` this steps as far as it gets and does not wait.

        Raises:
            DeadlineExceededError: After *timeout_s* seconds some versions, which the text names,
                are still loading or in use. Nothing is taken from under a request; they are
                unloaded when their time comes, and ``stop`` may be called again.
        """
        with self._life_lock:
            self._stopping = True
        self._wake.set()
        if self._threads:
            self._clock.wait(self._finished, timeout_s)
        else:
            self.step()
        left = ", ".join(f"{harness.id} {harness.state.value}" for harness in self._basic.harnesses())
        if left or (self._threads and not self._finished.is_set()):
            raise DeadlineExceededError(f"after {timeout_s} s not yet unloaded: {left}")
        for thread in self._threads:
            thread.join(_THREAD_END_S)

    def step(self) -> float | None:
        """Do all that can be done now; return the seconds until something is due, None if nothing is.

        The manager's thread does this whenever it is woken; without ``start`` the caller does.
        Runs loads and unloads itself where the number of their threads is 0.
        """
        with self._step_lock:
            while self._advance():
                pass
            return self._basic.next_due_s()

    def _manage(self) -> None:
        while True:
            self._wake.clear()
            delay_s: float | None
            try:
                delay_s = self.step()
            except Exception:
                _logger.exception("The manager failed and goes on in %s s", _PAUSE_AFTER_DEFECT_S)
                delay_s = _PAUSE_AFTER_DEFECT_S
            if self._stopping and not self._basic.managed:
                break
            self._clock.wait(self._wake, delay_s)
        self._basic.returned.put(None)
        self._finished.set()

    def _forward_returned(self) -> None:
        """Turn what leases put into the queue into messages; a lease must not wake an event itself."""
        while (id := self._basic.returned.get()) is not None:
            self._basic.quiesced(id)

    def _advance(self) -> bool:
        """Take one round of everything; return whether anything has changed."""
        if not self._threads:
            self._basic.take_returned()
        changed = self._basic.take_in()
        if self._stopping:
            changed |= self._unaspire_all()
        changed |= self._forget_ended()
        changed |= self._apply_lists()
        changed |= self._begin_unloads()
        changed |= self._basic.unload_quiesced()
        changed |= self._basic.begin_due()
        changed |= self._basic.admit()
        changed |= self._begin_loads()
        if changed:
            self._failed = tuple(
                h.id
                for h in self._basic.harnesses()
                if h.state is HarnessState.ERROR and h.is_aspired and h.loader is not None
            )
        return changed

    def _unaspire_all(self) -> bool:
        with self._lists_lock:
            self._pending_lists.clear()
        changed = False
        for harness in self._basic.harnesses():
            if harness.is_aspired:
                harness.unaspire()
                changed = True
            if harness.due_s is not None and harness.last_failure is not None:
                self._basic.end(harness, harness.last_failure)
                changed = True
        return changed

    def _forget_ended(self) -> bool:
        changed = False
        for harness in self._basic.harnesses():
            if harness.is_aspired:
                continue
            if harness.state is HarnessState.NEW:
                self._basic.cancel(harness)
            if harness.state in (HarnessState.DISABLED, HarnessState.ERROR):
                self._basic.forget(harness)
                changed = True
        return changed

    def _apply_lists(self) -> bool:
        with self._lists_lock:
            names = [name for name in self._pending_lists if not self._must_wait(name)]
            lists = [(name, self._pending_lists.pop(name)) for name in names]
        for name, versions in lists:
            self._apply_list(name, versions)
        return bool(lists)

    def _must_wait(self, name: str) -> bool:
        stream = self._basic.managed.get(name, {})
        ids = (data.id.version for data in self._pending_lists[name])
        return any(version in stream and not stream[version].is_aspired for version in ids)

    def _apply_list(self, name: str, versions: Sequence[ServableData[Loader]]) -> None:
        stream = self._basic.managed.get(name, {})
        wanted: dict[int, ServableData[Loader]] = {}
        for data in versions:
            if data.id.version in wanted:
                _logger.warning("This servable is already being managed: %s", data.id)
            else:
                wanted[data.id.version] = data
        for version, harness in stream.items():
            if version not in wanted and harness.is_aspired:
                harness.unaspire()
        for version, data in wanted.items():
            managed = stream.get(version)
            if managed is not None and (managed.loader is not None or data.payload is None):
                continue
            self._basic.add(LoaderHarness(data.id, data.payload, self._options.retry, data.error))

    def _next_action(self, name: str, action: Action) -> LoaderHarness | None:
        """Return the version that the policy wants to have this done with next, if that is its wish."""
        stream = self._basic.managed.get(name, {})
        if self._stopping:
            ready = [h for h in stream.values() if h.state is HarnessState.READY]
            return ready[0] if ready and action is Action.UNLOAD else None
        decision = self._options.policy(
            [VersionSnapshot(version, h.state, h.is_aspired) for version, h in stream.items()]
        )
        if decision is None or decision.action is not action:
            return None
        return stream[decision.version]

    def _begin_unloads(self) -> bool:
        changed = False
        for name in list(self._basic.managed):
            while (harness := self._next_action(name, Action.UNLOAD)) is not None:
                self._basic.begin_unload(harness)
                changed = True
        return changed

    def _begin_loads(self) -> bool:
        """Begin at most one load per stream; a stream that had its turn goes to the end of the row."""
        changed = False
        for name in list(self._basic.managed):
            if not self._basic.has_load_slot():
                break
            harness = self._next_action(name, Action.LOAD)
            if harness is not None:
                self._basic.managed[name] = self._basic.managed.pop(name)
                self._basic.begin_load(harness)
                changed = True
        return changed


def _check_num_threads(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name}: expected at least 0, got {value}")
