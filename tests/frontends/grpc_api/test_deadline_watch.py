from __future__ import annotations

import threading
import time

from inserve.frontends.grpc_api.deadline_watch import DeadlineWatch

LIMIT_S = 30.0


def test_deadlines_pass_in_their_order() -> None:
    watch = DeadlineWatch("test-watch")
    passed: list[str] = []
    both = threading.Event()

    def late() -> None:
        passed.append("late")
        both.set()

    now = time.monotonic()
    watch.add(now + 0.02, late)
    watch.add(now + 0.01, lambda: passed.append("early"))
    assert both.wait(LIMIT_S)
    assert passed == ["early", "late"]
    watch.stop(LIMIT_S)


def test_a_discarded_deadline_never_passes() -> None:
    watch = DeadlineWatch("test-watch")
    passed: list[str] = []
    last = threading.Event()

    def unwanted() -> None:
        passed.append("unwanted")

    now = time.monotonic()
    watch.add(now + 0.01, unwanted)
    watch.discard(unwanted)
    watch.add(now + 0.02, last.set)
    assert last.wait(LIMIT_S)
    assert passed == []
    watch.stop(LIMIT_S)


def test_stop_ends_the_thread_and_forgets_deadlines() -> None:
    watch = DeadlineWatch("stopped-watch")
    watch.add(time.monotonic() + 1000.0, lambda: None)
    watch.stop(LIMIT_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "stopped-watch"]
