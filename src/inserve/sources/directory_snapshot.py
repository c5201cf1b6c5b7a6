"""The files of a version directory at one moment, and when they last changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DirectorySnapshot", "take_snapshot"]

_MOST_ENTRIES = 100_000
_DEEPEST = 32


@dataclass(frozen=True)
class DirectorySnapshot:
    """What lies below a directory.

    *files* maps paths relative to it, with ``/``, to sizes in bytes. *changed_s* is the newest change, in
    seconds since the epoch: the later of modification and status change of a file (a copy that keeps
    modification times shows in the other), the modification of a directory (its status changes when a
    finished version is renamed into place). *fingerprint* differs whenever a file came, went or changed.
    *whole* is False when there was too much to look at (100,000 entries, 32 levels).
    """

    files: Mapping[str, int]
    changed_s: float
    fingerprint: int
    whole: bool = True


@dataclass
class _Walk:
    files: dict[str, int] = field(default_factory=dict)
    stamps: list[tuple[str, int, int, int]] = field(default_factory=list)
    changed_ns: int = 0
    whole: bool = True


def take_snapshot(directory: str | os.PathLike[str]) -> DirectorySnapshot:
    """Return the files below *directory* now; links are followed, what vanishes meanwhile is left out.

    Raises:
        OSError: *directory* cannot be listed.
    """
    walk = _Walk(changed_ns=os.stat(directory).st_mtime_ns)
    _visit(os.fspath(directory), "", _DEEPEST, walk)
    fingerprint = hash(tuple(sorted(walk.stamps)))
    return DirectorySnapshot(walk.files, walk.changed_ns / 1e9, fingerprint, walk.whole)


def _visit(directory: str, prefix: str, levels: int, walk: _Walk) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(walk.stamps) >= _MOST_ENTRIES:
                walk.whole = False
                return
            name = prefix + entry.name
            try:
                status = entry.stat()
                if entry.is_dir():
                    walk.stamps.append((name, 0, status.st_mtime_ns, 0))
                    walk.changed_ns = max(walk.changed_ns, status.st_mtime_ns)
                    if levels:
                        _visit(entry.path, f"{name}/", levels - 1, walk)
                    else:
                        walk.whole = False
                    continue
            except FileNotFoundError:
                continue
            walk.files[name] = status.st_size
            walk.stamps.append((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            walk.changed_ns = max(walk.changed_ns, status.st_mtime_ns, status.st_ctime_ns)
