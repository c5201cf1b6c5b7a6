from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from inserve.resources.memory_limit import memory_limit_bytes


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 1000, id="no control groups"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "300\n"}, 300, id="v2 own group"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "400\n",
            },
            400,
            id="v2 group above",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "500\n"},
            500,
            id="v2 inside a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "600\n",
            },
            600,
            id="v1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5000\n"},
            1000,
            id="limit above the machine",
        ),
        pytest.param(
            {"proc/self/cgroup": "nonsense\n0::/../..\n", "sys/fs/cgroup/memory.max": "junk\n"},
            1000,
            id="unreadable text",
        ),
    ],
)
def test_the_smallest_limit_that_can_be_read_holds(
    tmp_path: Path, files: Mapping[str, str], expected: int
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_limit_bytes(tmp_path, machine_bytes=1000) == expected


def test_this_machine_has_memory() -> None:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory_limit_bytes() <= machine_bytes
