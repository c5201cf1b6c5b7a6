from __future__ import annotations

import subprocess
import sys

import pytest

FREE_BUT_KEPT = """
import resource, sys
import psutil
from inserve.resources.freed_memory import return_freed_memory
blocks = [bytes(100_000) for _ in range(2000)]
kept = blocks[-1]
blocks.clear()
before = psutil.Process().memory_info().rss
return_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives memory back when asked")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREE_BUT_KEPT], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 100_000_000
