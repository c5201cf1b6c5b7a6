"""Looks at the model config file again and again, and applies it when it has changed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable

from inserve.clock import Clock, SystemClock
from inserve.errors import InserveError
from inserve.sources.poll_thread import PollThread

__all__ = ["ConfigFilePoller", "file_fingerprint"]

_logger = logging.getLogger("inserve.server")
_PIECE_BYTES = 1 << 20


def file_fingerprint(path: str | os.PathLike[str]) -> bytes | None:
    """Return what differs whenever the content of the file *path* does; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError:
        return None
    return digest.digest()


class ConfigFilePoller:
    """Calls *apply* when the content of the file *path* is another than *applied*, the one in force.

    All on one thread, ``inserve-config-file-poller``, every *interval_s* seconds. *apply* reads the
    file. While it raises, it is called again at each poll, and each new reason is logged once.
    TensorFlow Serving (``--model_config_file_poll_wait_seconds``) applies the file at each poll,
    changed or not, and so takes back what was changed by a call.

    Raises:
        ValueError: *interval_s* is not above 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        interval_s: float,
        apply: Callable[[], object],
        applied: bytes | None,
        clock: Clock | None = None,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"the interval is {interval_s} s, expected above 0")
        self._path = os.fspath(path)
        self._interval_s = interval_s
        self._apply = apply
        self._applied = applied
        self._clock = SystemClock() if clock is None else clock
        self._problem: str | None = None
        self._thread = PollThread("inserve-config-file-poller", self._poll, self._clock)

    def start(self) -> None:
        """Start polling, at once; more calls do nothing."""
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop polling; return whether the poll in progress ended within *timeout_s*."""
        return self._thread.stop(timeout_s)

    def refresh(self, timeout_s: float | None = None) -> None:
        """Poll now; return after what was found has been applied or logged.

        Raises:
            FailedPreconditionError: The poller is not running.
            CancelledError: It was stopped meanwhile.
            DeadlineExceededError: *timeout_s* seconds passed; the poll still takes place.
        """
        self._thread.wait_for(self._thread.ask(), timeout_s)

    def _poll(self, asked: bool) -> float:
        del asked
        due = self._clock.now() + self._interval_s
        fingerprint = file_fingerprint(self._path)
        if fingerprint is None or fingerprint != self._applied:
            try:
                self._apply()
            except (InserveError, ValueError) as error:
                self._report(str(error))
                return due
            self._applied = fingerprint
            _logger.info("Applied the changed model config file %s", self._path)
        self._problem = None
        return due

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            text = " ".join(problem.split())
            _logger.error("Model config file %s: %s; the models stay as they are", self._path, text)
        self._problem = problem
