"""A worker process as its parent sees it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe

__all__ = ["LaunchedProcess", "launch_worker"]

_MODULE = "inserve.server.workers.main"


class LaunchedProcess:
    """A running ``python -m inserve.server.workers.main``; ``connection`` leads to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        try:
            with theirs, _signals_held_back():
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, str(theirs.fileno()), str(_log_level())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, **_import_path()},
                )
        except BaseException:  # nobody else has this end of the pipe yet
            self.connection.close()
            raise
        self.pid = self._process.pid

    def wait(self, timeout_s: float | None = None) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()


def launch_worker() -> LaunchedProcess:
    """Start a process that can become a worker.

    It has this process's interpreter, environment and import path, and ends with its connection.

    Raises:
        OSError: It cannot be started.
    """
    return LaunchedProcess()


def _import_path() -> dict[str, str]:
    """Return the variables that give a process the ``sys.path`` of this one, and no more (Python 3.11 on)."""
    return {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONSAFEPATH": "1",
    }


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes with the signals blocked that end this one, until they have said that they ignore them.

    Else a Ctrl-C, which a terminal sends to all, could end one in the midst of its imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_level() -> int:
    """Return from which level on a worker's lines are wanted: it does all that this process does."""
    is_verbose = logging.getLogger("inserve").isEnabledFor(logging.DEBUG)
    return logging.DEBUG if is_verbose else logging.WARNING
