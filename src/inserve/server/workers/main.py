"""The program of a worker process: a server of its own behind shared ports, told what to do by its parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from inserve.errors import FailedPreconditionError, InserveError
from inserve.server.workers.peer import Operations, Peer

if TYPE_CHECKING:
    from inserve.batching.options import BatchingOptions
    from inserve.lifecycle.servable_state import ServableState
    from inserve.metrics.registry import MetricSnapshot
    from inserve.server.model_config import ModelConfig
    from inserve.server.model_server import Server
    from inserve.server.workers.worker_group import WorkerStart

__all__ = ["main"]

_APPLY_AGAIN_S = 0.25
_APPLY_LIMIT_S = 60.0
"""A label may move to a version that is available at the parent and, for a moment yet, not here."""

_END_LIMIT_S = 5.0
"""How long the end may take once the parent is gone, whatever is loading or running."""


class _Worker:
    """One server, and the peer that says what it does."""

    def __init__(self, connection: Connection) -> None:
        self._server: Server | None = None
        self._ended = threading.Event()
        operations: Operations = {
            "start": self._start,
            "set_models": self._set_models,
            "wait_until_available": self._wait_until_available,
            "refresh": self._refresh,
            "retry": self._retry,
            "set_batching": self._set_batching,
            "metrics": self._metrics,
            "stop": self._stop,
        }
        self.peer = Peer(connection, "the parent", operations, {}, self._end)

    def run(self) -> None:
        """Answer the parent until it ends the connection; a parent that dies does that, too."""
        self.peer.start()
        _prepare()
        self._ended.wait()
        server = self._server
        if server is not None:
            server.stop(0.0)

    def _end(self) -> None:
        if self._server is None:  # in reserve: whatever it is getting ready is of no use any more
            os._exit(0)
        self._ended.set()
        limit = threading.Timer(_END_LIMIT_S, os._exit, (1,))
        limit.daemon = True
        limit.start()

    def _start(self, start: WorkerStart) -> None:
        from inserve.server.model_server import Server
        from inserve.server.workers.parent_link import ParentLink

        self._server = server = Server.of_options(
            start.options, start.models, ParentLink(self.peer, self._tell_state, start.is_replacement)
        )
        server.start()

    def _tell_state(self, state: ServableState) -> None:
        self.peer.tell("state", state)

    def _running(self) -> Server:
        if self._server is None:
            raise FailedPreconditionError("this worker has not started")
        return self._server

    def _set_models(self, models: Sequence[ModelConfig]) -> None:
        deadline = time.monotonic() + _APPLY_LIMIT_S
        while not self._has_set(models, is_last=time.monotonic() > deadline):
            if self._ended.wait(_APPLY_AGAIN_S):
                return

    def _has_set(self, models: Sequence[ModelConfig], is_last: bool) -> bool:
        try:
            self._running().models.replace_all(models)
        except FailedPreconditionError:
            if is_last:
                raise
            return False
        return True

    def _wait_until_available(self, names: Sequence[str], timeout_s: float | None) -> None:
        self._running().models.wait_until_available(names, timeout_s)

    def _refresh(self, names: Sequence[str] | None, timeout_s: float | None) -> None:
        self._running().models.refresh(names, timeout_s)

    def _retry(self, name: str, version: int | None) -> None:
        self._running().models.retry(name, version)

    def _set_batching(self, model: str, options: BatchingOptions) -> None:
        self._running().set_batching(model, options)

    def _metrics(self) -> tuple[int, list[MetricSnapshot]]:
        return os.getpid(), self._running().metrics.registry.snapshot()

    def _stop(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.stop(grace_s)


class _LogToParent(logging.Handler):
    """Hands what is logged to the parent, whose handlers decide what becomes of it."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer

    def emit(self, record: logging.LogRecord) -> None:
        self._peer.tell("log", record.name, record.levelno, self.format(record))


def _prepare() -> None:
    """Do what takes long and needs no options, while the parent loads its own models."""
    from inserve.server import model_server  # noqa: F401
    from inserve.tensorflow_c.library import load_library

    try:
        load_library()
    except InserveError as error:
        logging.getLogger("inserve.server").warning("%s", error)


def main() -> None:
    """Serve the process at the other end of file ``argv[1]``; log from level ``argv[2]`` on."""
    # The parent decides when to end: it gets the signals that a terminal sends to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    worker = _Worker(Connection(int(sys.argv[1])))
    logger = logging.getLogger()
    logger.addHandler(_LogToParent(worker.peer))
    logger.setLevel(int(sys.argv[2]))
    worker.run()


if __name__ == "__main__":
    main()
