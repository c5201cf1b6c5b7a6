"""The last known state of every version, and waiting for a state.

Rules: TensorFlow Serving, ``core/servable_state_monitor.h``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from inserve.clock import Clock, SystemClock
from inserve.errors import DeadlineExceededError
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ManagerState, ServableState

__all__ = ["ServableStateMonitor"]


class ServableStateMonitor:
    """Remembers what *bus* publishes from now on. Any thread may ask.

    A version that ended stays listed, and starts over when it is loaded again. The C++ server keeps
    all of them for ever; here each stream keeps its *max_ended_versions* that ended last.

    Raises:
        ValueError: *max_ended_versions* is below 1.
    """

    def __init__(
        self, bus: EventBus[ServableState], clock: Clock | None = None, max_ended_versions: int = 1000
    ) -> None:
        if max_ended_versions < 1:
            raise ValueError(f"max_ended_versions: expected at least 1, got {max_ended_versions}")
        self._clock = SystemClock() if clock is None else clock
        self._max_ended_versions = max_ended_versions
        self._lock = threading.Lock()
        self._streams: dict[str, dict[int, ServableState]] = {}
        self._waits: list[_Wait] = []
        self._lookers: list[threading.Event] = []
        self._unsubscribe = bus.subscribe(self._on_event)

    def close(self) -> None:
        """Stop listening; what is known stays readable."""
        self._unsubscribe()

    def state(self, id: ServableId) -> ServableState | None:
        """Return the last known state of version *id*, None if it was never seen."""
        with self._lock:
            return self._streams.get(id.name, {}).get(id.version)

    def states(self, name: str) -> list[ServableState]:
        """Return the last known state of every version of *name* ever seen, highest version first."""
        with self._lock:
            return _descending(self._streams.get(name, {}))

    def all_states(self) -> dict[str, list[ServableState]]:
        """Return ``states`` of every stream ever seen, in order of name."""
        with self._lock:
            return {name: _descending(self._streams[name]) for name in sorted(self._streams)}

    def is_available(self, id: ServableId) -> bool:
        """Return whether version *id* is AVAILABLE now."""
        state = self.state(id)
        return state is not None and state.state is ManagerState.AVAILABLE

    def wait_until_reached(
        self,
        requests: Iterable[ServableRequest],
        goal: ManagerState = ManagerState.AVAILABLE,
        timeout_s: float | None = None,
    ) -> dict[ServableRequest, ServableState]:
        """Block until every request is decided; return the state that decided each.

        A version is decided in state *goal* or END. For ``latest``, any version decides: at each
        event they are looked at from the highest number down, and the first that is in *goal* or
        END counts. The caller looks whether ``state`` is *goal*; in END, ``error`` says why not.

        Raises:
            DeadlineExceededError: *timeout_s* seconds passed first; the text names who is missing.
        """
        wait = _Wait(requests, goal)
        with self._lock:
            wait.look_at(self._streams)
            self._waits.append(wait)
        try:
            self._clock.wait(wait.done, timeout_s)
        finally:
            with self._lock:
                self._waits.remove(wait)
        if wait.open:
            missing = ", ".join(str(request) for request in sorted(wait.open, key=str))
            raise DeadlineExceededError(f"after {timeout_s} s not yet {goal.name} or END: {missing}")
        return wait.decided

    def wait_until(
        self, is_so: Callable[[], bool], timeout_s: float | None = None, look_every_s: float | None = None
    ) -> bool:
        """Block until *is_so*; return whether it was within *timeout_s* seconds.

        *is_so* is called here at once, after each event and every *look_every_s* seconds, on the
        caller's thread; what it raises ends the wait.
        """
        deadline_s = None if timeout_s is None else self._clock.now() + timeout_s
        changed = threading.Event()
        with self._lock:
            self._lookers.append(changed)
        try:
            while True:
                changed.clear()
                if is_so():
                    return True
                waits = [] if look_every_s is None else [look_every_s]
                if deadline_s is not None:
                    left_s = deadline_s - self._clock.now()
                    if left_s <= 0:
                        return False
                    waits.append(left_s)
                self._clock.wait(changed, min(waits, default=None))
        finally:
            with self._lock:
                self._lookers.remove(changed)

    def _on_event(self, event: ServableState) -> None:
        with self._lock:
            stream = self._streams.setdefault(event.id.name, {})
            stream[event.id.version] = event
            if event.state is ManagerState.END:
                self._drop_oldest_ended(stream)
            for wait in self._waits:
                wait.look_at(self._streams)
            for changed in self._lookers:
                changed.set()

    def _drop_oldest_ended(self, stream: dict[int, ServableState]) -> None:
        ended = [state for state in stream.values() if state.state is ManagerState.END]
        if len(ended) > self._max_ended_versions:
            oldest = min(ended, key=lambda state: (state.time_s, state.id.version))
            del stream[oldest.id.version]


class _Wait:
    """One caller of ``wait_until_reached``; all access under the monitor's lock until done."""

    def __init__(self, requests: Iterable[ServableRequest], goal: ManagerState) -> None:
        self.open = set(requests)
        self.decided: dict[ServableRequest, ServableState] = {}
        self.done = threading.Event()
        self._deciding = (goal, ManagerState.END)

    def look_at(self, streams: dict[str, dict[int, ServableState]]) -> None:
        for request in tuple(self.open):
            stream = streams.get(request.name, {})
            if request.version is None:
                candidates = _descending(stream)
            else:
                candidates = [stream[request.version]] if request.version in stream else []
            for state in candidates:
                if state.state in self._deciding:
                    self.decided[request] = state
                    self.open.discard(request)
                    break
        if not self.open:
            self.done.set()


def _descending(stream: dict[int, ServableState]) -> list[ServableState]:
    return [stream[version] for version in sorted(stream, reverse=True)]
