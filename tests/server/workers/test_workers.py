from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from inserve.metrics.registry import Registry, add_up
from inserve.server.options import ServerOptions
from inserve.server.workers import workers as workers_module
from inserve.server.workers.worker_group import WorkerState, WorkerStatus
from inserve.server.workers.workers import Workers, budget_of_process

GIBIBYTE = 1 << 30


class FakeGroup:
    """Workers by pid that have counted so much; those in *mute* do not answer."""

    def __init__(self, *_: Any) -> None:
        self.counts: dict[int, int] = {}
        self.mute: set[int] = set()
        self.asked: list[tuple[Any, ...]] = []

    def status(self) -> Sequence[WorkerStatus]:
        return [WorkerStatus(1, pid, WorkerState.SERVING) for pid in self.counts]

    def ask_all(self, operation: str, *_: Any, timeout_s: float | None = None) -> list[Any]:
        assert (operation, timeout_s) == ("metrics", 2.0)
        return [(pid, snapshot(count)) for pid, count in self.counts.items() if pid not in self.mute]


def snapshot(count: int) -> Any:
    registry = Registry()
    registry.counter("requests").cell().increment_by(count)
    return registry.snapshot()


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> FakeGroup:
    group = FakeGroup()
    monkeypatch.setattr(workers_module, "WorkerGroup", lambda *_: group)
    return group


def counted(workers: Workers) -> int:
    metrics = add_up(workers.metrics())
    return sum(value for metric in metrics for value in metric.cells.values() if isinstance(value, int))


def test_what_a_worker_has_told_counts_while_it_does_not_answer_and_after_its_end(group: FakeGroup) -> None:
    workers = Workers(2, lambda _, __: None, bytes, bytes, list)
    group.counts = {10: 5, 11: 7}
    assert counted(workers) == 12
    group.counts[10], group.mute = 6, {10}
    assert counted(workers) == 12
    group.mute = set()
    assert counted(workers) == 13
    del group.counts[10]
    assert counted(workers) == 13
    group.counts[12] = 1
    assert counted(workers) == 14
    assert counted(workers) == 14


def test_each_process_has_its_share_of_the_memory_budget() -> None:
    assert budget_of_process(ServerOptions(memory_budget=6 * GIBIBYTE, workers=3)) == {"main": 2 * GIBIBYTE}
    assert budget_of_process(ServerOptions(memory_budget=6 * GIBIBYTE)) == {"main": 6 * GIBIBYTE}
    assert budget_of_process(ServerOptions()) is None
