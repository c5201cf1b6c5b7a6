"""``Server(workers=N)``: what the process that the server was made in does for the others."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ServableState
from inserve.metrics.registry import MetricSnapshot, add_up
from inserve.protos import messages
from inserve.resources.allocation import MAIN_MEMORY
from inserve.resources.memory_limit import memory_limit_bytes
from inserve.server.model_config import ModelConfig
from inserve.server.options import ServerOptions
from inserve.server.workers.free_ports import check_free
from inserve.server.workers.process import launch_worker
from inserve.server.workers.worker_group import WorkerGroup, WorkerState, WorkerStatus

if TYPE_CHECKING:
    from inserve.batching.options import BatchingOptions

__all__ = ["Workers", "budget_of_process"]

_METRICS_LIMIT_S = 2.0
"""How long a worker may take to tell its metrics; they are left out then."""


class Workers:
    """The worker processes of one server beside its own, from 1 on; any thread may call.

    One more process waits in reserve, with TensorFlow's library open and no model.

    *reload*, *model_status* and *metrics_page* answer for all processes what a client asked one of
    them; *available_models* names those that answer here. Changes of models are followed in the
    background, in order; only the last one counts.
    """

    def __init__(
        self,
        count: int,
        reload: Callable[[messages.ModelServerConfig, float | None], None],
        model_status: Callable[[bytes], bytes],
        metrics_page: Callable[[], bytes],
        available_models: Callable[[], Sequence[str]],
    ) -> None:
        def reload_bytes(config: bytes, timeout_s: float | None) -> None:
            reload(messages.ModelServerConfig.FromString(config), timeout_s)

        self._group = WorkerGroup(
            count,
            launch_worker,
            {
                "reload": reload_bytes,
                "model_status": model_status,
                "metrics_page": metrics_page,
                "available_models": available_models,
            },
            {"log": _log},
        )
        self._metrics_lock = threading.Lock()
        self._metrics_of: dict[int | None, list[MetricSnapshot]] = {}
        """What each process told last, by its pid."""
        self._ended_metrics: list[MetricSnapshot] = []
        self._changed = threading.Condition()
        self._models: Sequence[ModelConfig] | None = None
        self._num_changes = 0
        self._num_followed = 0
        self._stopped = False
        self._follower = threading.Thread(target=self._follow, name="inserve-workers-follow", daemon=True)

    def __repr__(self) -> str:
        return f"<Workers {self._group!r}>"

    def launch(self, options: ServerOptions) -> None:
        """Start the processes; they get ready while this one loads its models.

        Raises:
            UnavailableError: Somebody listens on a port of *options*, and they do not want to share it.
        """
        if not options.reuse_port:
            check_free([*options.grpc, *options.rest])
        self._group.launch()

    def start(
        self,
        options: ServerOptions,
        grpc: Sequence[str],
        rest: Sequence[str],
        models: Sequence[ModelConfig],
        timeout_s: float | None,
    ) -> None:
        """Have them serve *models* at the bound addresses *grpc* and *rest*; return once all do.

        Raises:
            InserveError: One could not start.
            DeadlineExceededError: *timeout_s* seconds have passed.
        """
        shared = replace(
            options,
            workers=1,
            reuse_port=True,
            grpc=tuple(address for address in grpc if not address.startswith("unix:")),
            rest=tuple(rest),
            config_poll_interval=None,
            allow_version_labels_for_unavailable_models=True,
            memory_budget=_budget_bytes(options),
        )
        self._group.start(shared, models, timeout_s)
        self._follower.start()

    def stop(self, grace_s: float) -> None:
        """Drain and end them all; more calls do nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._group.stop(grace_s)

    def status(self) -> tuple[WorkerStatus, ...]:
        """Return how each process stands, this one first."""
        own = WorkerStatus(0, os.getpid(), WorkerState.SERVING)
        return tuple(
            replace(worker, memory_bytes=_own_memory(worker.pid)) for worker in (own, *self._group.status())
        )

    def states(self) -> list[Mapping[ServableId, ServableState]]:
        """Return the last state of each version at each other process that serves."""
        return self._group.states()

    def metrics(self) -> list[list[MetricSnapshot]]:
        """Return the metrics of the other processes, together with those of ended ones.

        Sums of them do not fall when a process ends or does not answer in time: what it told last counts.
        """
        answers = self._group.ask_all("metrics", timeout_s=_METRICS_LIMIT_S)
        with self._metrics_lock:
            pids = {worker.pid for worker in self._group.status()}
            self._metrics_of.update((pid, metrics) for pid, metrics in answers if pid in pids)
            for pid in self._metrics_of.keys() - pids:
                self._ended_metrics = add_up([self._ended_metrics, self._metrics_of.pop(pid)])
            return [self._ended_metrics, *self._metrics_of.values()]

    # --- Followers ----------------------------------------------------------------------------------

    def follow(self, models: Sequence[ModelConfig]) -> None:
        """Have the others serve *models* soon; returns at once."""
        with self._changed:
            self._models = models
            self._num_changes += 1
            self._changed.notify_all()

    def wait_until_available(self, names: Sequence[str], timeout_s: float | None) -> None:
        """Return once *names* answer at the others, too; those where they do not are logged."""
        with self._changed:
            wanted = self._num_changes
            self._changed.wait_for(lambda: self._stopped or self._num_followed >= wanted, timeout_s)
        self._group.ask_all("wait_until_available", names, timeout_s)

    def refresh(self, names: Sequence[str] | None, timeout_s: float | None) -> None:
        """Have the others look for new versions."""
        self._group.ask_all("refresh", names, timeout_s)

    def retry(self, name: str, version: int | None) -> None:
        """Have the others load failed versions anew."""
        self._group.ask_all("retry", name, version)

    def set_batching(self, name: str, options: BatchingOptions) -> None:
        """Have the others, and those that will replace them, form the batches of *name* by *options*."""
        self._group.ask_all_for_good("set_batching", name, name, options)

    def _follow(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._num_followed < self._num_changes)
                if self._stopped:
                    return
                models, number = self._models, self._num_changes
            assert models is not None
            self._group.set_models(models)
            with self._changed:
                self._num_followed = number
                self._changed.notify_all()


def budget_of_process(options: ServerOptions) -> Mapping[str, int] | None:
    """Return the memory budget of each process by device: its share where there are several."""
    return options.budget() if options.workers == 1 else {MAIN_MEMORY: _budget_bytes(options)}


def _budget_bytes(options: ServerOptions) -> int:
    total = memory_limit_bytes() if options.memory_budget is None else options.memory_budget
    return total // options.workers


def _log(index: int, name: str, level: int, text: str) -> None:
    """Log a line of worker *index* as if it had been logged here."""
    logging.getLogger(name).log(level, "worker %d: %s", index, text)


def _own_memory(pid: int | None) -> int | None:
    """Return the bytes that a process holds for itself alone, None where the system does not tell."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return None
