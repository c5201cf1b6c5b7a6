"""How much RAM this process may use: the control group's limit, or the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_limit_bytes"]


def memory_limit_bytes(root: Path = Path("/"), machine_bytes: int | None = None) -> int:
    """Return the smallest limit, in bytes, that holds for this process.

    On Linux the limits of its control group and of every group above it count, version 2
    (``memory.max``) and version 1 (``memory.limit_in_bytes``); elsewhere only the machine's memory
    does, *machine_bytes* if given. *root* is where ``proc`` and ``sys`` are found. What cannot be
    read does not limit.
    """
    if machine_bytes is None:
        machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine_bytes, *_control_group_limits(root)])


def _control_group_limits(root: Path) -> list[int]:
    """Return every limit on the way up; a line is ``hierarchy:controllers:path`` (cgroups(7))."""
    limits: list[int] = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mount, file_name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file_name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts), -1, -1):
            text = _read(mount.joinpath(*parts[:depth], file_name))
            if text is not None and text.strip().isdigit():
                limits.append(int(text))
    return limits


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
