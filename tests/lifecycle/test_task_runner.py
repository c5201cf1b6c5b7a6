from __future__ import annotations

import os
import sys
import threading

import pytest

from inserve.lifecycle.task_runner import InlineRunner, ThreadRunner


def test_an_inline_task_has_run_when_start_returns() -> None:
    threads: list[threading.Thread] = []
    InlineRunner().start("inserve-load-m-1", lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def test_a_task_runs_on_a_daemon_thread_with_its_name() -> None:
    threads, ran = list[threading.Thread](), threading.Event()

    def task() -> None:
        threads.append(threading.current_thread())
        ran.set()

    ThreadRunner().start("inserve-load-m-1", task)
    assert ran.wait(30.0)
    assert (threads[0].name, threads[0].daemon) == ("inserve-load-m-1", True)
    threads[0].join(30.0)


def test_a_task_runs_in_place_where_there_is_no_thread_to_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "Thread", NoThread)
    ran: list[int] = []
    ThreadRunner().start("inserve-load-m-1", lambda: ran.append(1))
    assert ran == [1]
    assert "No thread for inserve-load-m-1: can't start new thread" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_a_task_and_the_threads_it_starts_have_a_low_priority() -> None:
    seen: list[int] = []
    done = threading.Event()

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def task() -> None:
        seen.append(priority())
        inner = threading.Thread(target=lambda: seen.append(priority()))
        inner.start()
        inner.join()
        done.set()

    own = priority()
    ThreadRunner(niceness=3).start("inserve-load-m-1", task)
    assert done.wait(30)
    assert seen == [own + 3, own + 3]
    assert priority() == own


def test_a_negative_niceness_is_refused() -> None:
    with pytest.raises(ValueError, match="niceness is -1, expected at least 0"):
        ThreadRunner(niceness=-1)
