"""How many processors this process may use: fewer than the machine has in most containers."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["schedulable_cpus", "usable_cpus"]


def schedulable_cpus() -> int:
    """Return the processors that the threads of this process may be placed on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cpus(root: Path = Path("/"), schedulable: int | None = None) -> int:
    """Return the processors whose time this process may use, rounded up, at least 1.

    *schedulable* is by default ``schedulable_cpus()``; on Linux the quotas of its control group and of
    every group above it count as well, version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``).
    *root* is where ``proc`` and ``sys`` are found. What cannot be read does not limit.
    """
    limits = [float(schedulable_cpus() if schedulable is None else schedulable)]
    limits += _quotas(root)
    return max(1, math.ceil(min(limits)))


def _quotas(root: Path) -> list[float]:
    """Return every quota on the way up, in processors; a line is ``hierarchy:controllers:path``."""
    quotas: list[float] = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        is_second = hierarchy == "0" and not controllers
        if not is_second and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" if is_second else root / "sys/fs/cgroup/cpu"
        parts = [part for part in group.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if is_second:
                quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
            else:
                quota = _read(folder / "cpu.cfs_quota_us") or ""
                period = _read(folder / "cpu.cfs_period_us") or ""
            quota, period = quota.strip(), period.strip()
            if quota.isdigit() and period.isdigit() and int(period) and int(quota):
                quotas.append(int(quota) / int(period))
    return quotas


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
