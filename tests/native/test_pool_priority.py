from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
from inserve.tensorflow_c.devices import list_devices
from inserve.tensorflow_c.pool_priority import lower_pool_priority

assert lower_pool_priority() == 0  # there is no pool yet
list_devices()
found = lower_pool_priority()
nice = {}
for task in os.listdir("/proc/self/task"):
    name = open(f"/proc/self/task/{task}/comm").read().strip()
    nice.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, int(task)))
print(found > 0, nice.pop("tf_Compute"), set().union(*nice.values()), lower_pool_priority() == found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are known on Linux only")
def test_the_threads_of_the_pool_yield_and_no_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split("\n")[0] == "True {15} {0} True", done.stderr
