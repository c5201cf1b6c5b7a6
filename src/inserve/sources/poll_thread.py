"""One named thread that polls when something is due or somebody asks, never twice at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from inserve.clock import Clock
from inserve.errors import CancelledError, DeadlineExceededError, FailedPreconditionError

__all__ = ["PollRequest", "PollThread"]

_logger = logging.getLogger("inserve.sources")
_PAUSE_AFTER_DEFECT_S = 1.0


class PollRequest:
    """Somebody wants a poll that starts after this moment."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None


class PollThread:
    """Calls *poll(asked)* on a thread called *name*.

    *asked* is True when ``ask`` asked for this poll. *poll* returns the monotonic time at which it wants
    to be called next, None for only when asked or woken. It should handle its own failures: what it raises
    goes to those who asked and to the log, and it is called again a second later.
    """

    def __init__(self, name: str, poll: Callable[[bool], float | None], clock: Clock) -> None:
        self._name = name
        self._poll = poll
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._requests: list[PollRequest] = []
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called; a long poll looks here between its steps."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the thread, which polls at once. A second call, or one after ``stop``, does nothing."""
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """End the thread after the poll in progress; return whether it ended within *timeout_s*.

        Idempotent; called on the thread itself it does not wait.
        """
        with self._lock:
            self._stopping.set()
            thread = self._thread
        self._wake.set()
        if thread is None or thread is threading.current_thread():
            return thread is None
        thread.join(timeout_s)
        return not thread.is_alive()

    def wake(self) -> None:
        """Have *poll* called soon, to look again at what is due. Does not wait."""
        self._wake.set()

    def ask(self) -> PollRequest:
        """Ask for a poll that starts after this call; ``wait_for`` waits for it.

        Raises:
            FailedPreconditionError: the thread was not started, is stopped, or is the caller.
        """
        request = PollRequest()
        with self._lock:
            if self._thread is None or self._stopping.is_set():
                raise FailedPreconditionError(f"{self._name} is not running, expected it to be started")
            if self._thread is threading.current_thread():
                raise FailedPreconditionError(f"{self._name} cannot wait for itself: a poll is in progress")
            self._requests.append(request)
            self._wake.set()
        return request

    def wait_for(self, request: PollRequest, timeout_s: float | None = None) -> None:
        """Return once the poll that *request* stands for is over.

        Raises:
            CancelledError: the thread was stopped meanwhile.
            DeadlineExceededError: *timeout_s* seconds passed; the poll still takes place.
        """
        if not self._clock.wait(request.done, timeout_s):
            raise DeadlineExceededError(f"{self._name} did not finish its poll within {timeout_s} s")
        if request.error is not None:
            raise request.error

    def _run(self) -> None:
        while True:
            with self._lock:
                # Together, so that what comes later wakes the wait below, and what is seen here does not.
                self._wake.clear()
                if self._stopping.is_set():
                    break
                requests, self._requests = self._requests, []
            next_due: float | None
            error: Exception | None = None
            try:
                next_due = self._poll(bool(requests))
            except Exception as raised:
                _logger.exception("%s: a poll failed unexpectedly", self._name)
                error, next_due = raised, self._clock.now() + _PAUSE_AFTER_DEFECT_S
            for request in requests:
                request.error = error
                request.done.set()
            timeout_s = None if next_due is None else max(0.0, next_due - self._clock.now())
            self._clock.wait(self._wake, timeout_s)
        with self._lock:
            requests, self._requests = self._requests, []
        for request in requests:
            request.error = CancelledError(f"{self._name} was stopped")
            request.done.set()
