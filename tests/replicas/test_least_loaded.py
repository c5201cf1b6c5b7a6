from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inserve.replicas.least_loaded import LeastLoaded


def test_runs_that_do_not_overlap_go_round() -> None:
    least_loaded = LeastLoaded(3)
    taken = []
    for _ in range(5):
        taken.append(least_loaded.take())
        least_loaded.give_back(taken[-1])
    assert taken == [0, 1, 2, 0, 1]


def test_a_run_goes_where_the_fewest_are_in_progress() -> None:
    least_loaded = LeastLoaded(3)
    assert [least_loaded.take() for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    least_loaded.give_back(1)
    assert least_loaded.take() == 1
    least_loaded.give_back(2)
    least_loaded.give_back(2)
    assert [least_loaded.take(), least_loaded.take()] == [2, 2]
    assert least_loaded.counts() == [2, 2, 2]


@pytest.mark.parametrize("start", [0, 1, 2])
def test_of_several_with_the_fewest_the_next_in_turn_is_taken(start: int) -> None:
    least_loaded = LeastLoaded(3)
    for _ in range(start):
        least_loaded.give_back(least_loaded.take())
    assert [least_loaded.take() for _ in range(3)] == [(start + step) % 3 for step in range(3)]


def test_one_replica_is_always_the_one() -> None:
    least_loaded = LeastLoaded(1)
    assert [least_loaded.take() for _ in range(3)] == [0, 0, 0]


def test_no_run_is_lost_from_the_count_between_threads() -> None:
    least_loaded = LeastLoaded(2)

    def many_runs() -> None:
        for _ in range(2000):
            least_loaded.give_back(least_loaded.take())

    threads = [threading.Thread(target=many_runs) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert least_loaded.counts() == [0, 0]


FORKS = """
import os, sys, threading
from inserve.replicas.least_loaded import LeastLoaded

sys.setswitchinterval(1e-6)
least_loaded = LeastLoaded(2)
going = True

def many_runs():
    while going:
        least_loaded.give_back(least_loaded.take())

threads = [threading.Thread(target=many_runs) for _ in range(2)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(60):
    child = os.fork()
    if not child:
        threading.Timer(5, os._exit, [1]).start()
        least_loaded.take()
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
    if statuses[-1]:
        break
going = False
sys.exit(any(statuses))
"""


def test_a_fork_in_the_middle_of_a_choice_blocks_nobody_in_the_child() -> None:
    source = Path(__file__).parent.parent.parent / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", FORKS], env=environment, timeout=60, check=False)
    assert done.returncode == 0
