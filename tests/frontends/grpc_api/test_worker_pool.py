from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from inserve.errors import ResourceExhaustedError, UnavailableError
from inserve.frontends.grpc_api.worker_pool import WorkerPool

LIMIT_S = 30.0


def test_no_thread_starts_before_work_comes() -> None:
    pool = WorkerPool("lazy-pool", 4, 4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lazy-pool")]
    assert pool.stop(0.0)


def test_a_future_holds_the_result_or_the_exception() -> None:
    pool = WorkerPool("test-pool", 2, 2)
    assert pool.submit(divmod, 7, 2).result(LIMIT_S) == (3, 1)
    assert isinstance(pool.submit(divmod, 7, 0).exception(LIMIT_S), ZeroDivisionError)
    assert pool.stop(LIMIT_S)


def test_a_task_beyond_threads_and_queue_is_refused_at_once() -> None:
    pool = WorkerPool("test-pool", 1, 1)
    release = threading.Event()
    running = pool.submit(release.wait, LIMIT_S)
    waiting = pool.submit(release.wait, LIMIT_S)
    with pytest.raises(ResourceExhaustedError, match="1 are running and 1 are waiting"):
        pool.submit(release.wait, LIMIT_S)
    release.set()
    assert running.result(LIMIT_S)
    assert waiting.result(LIMIT_S)
    assert pool.stop(LIMIT_S)


def test_stop_abandons_what_has_not_started_and_waits_for_the_rest() -> None:
    pool = WorkerPool("test-pool", 1, 1)
    entered, release = threading.Event(), threading.Event()

    def work() -> str:
        entered.set()
        release.wait(LIMIT_S)
        return "done"

    running = pool.submit(work)
    assert entered.wait(LIMIT_S)
    waiting = pool.submit(work)
    assert not pool.stop(0.0)
    with pytest.raises(CancelledError):
        waiting.result(LIMIT_S)
    release.set()
    assert pool.stop(LIMIT_S)
    assert running.result(LIMIT_S) == "done"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")]


def test_a_stopped_pool_takes_no_tasks() -> None:
    pool = WorkerPool("test-pool", 1, 1)
    pool.stop(LIMIT_S)
    with pytest.raises(UnavailableError, match="shutting down"):
        pool.submit(print)


def test_a_task_that_raises_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    pool = WorkerPool("test-pool", 1, 1)

    def fail() -> None:
        raise SystemExit(1)

    pool.execute(fail, fail)
    assert pool.submit(abs, -1).result(LIMIT_S) == 1
    assert pool.stop(LIMIT_S)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("max_workers", "max_queued"), [(0, 1), (1, -1)])
def test_sizes_out_of_range_are_refused(max_workers: int, max_queued: int) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        WorkerPool("test-pool", max_workers, max_queued)
