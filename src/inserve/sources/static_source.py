"""Aspires to a fixed list of versions: for tests, and for programs that know what they serve."""

from __future__ import annotations

from collections.abc import Sequence

from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.source import AspiredVersionsCallback, ServableData

__all__ = ["StaticSource"]


class StaticSource:
    """Sends one list for one model, once: when it gets its callback, on the caller's thread.

    *paths* maps version numbers to storage paths. Rule: TensorFlow Serving,
    ``sources/storage_path/static_storage_path_source.cc``.
    """

    def __init__(self, name: str, paths: dict[int, str]) -> None:
        self._name = name
        self._versions: Sequence[ServableData[str]] = [
            ServableData(ServableId(name, version), path) for version, path in sorted(paths.items())
        ]

    def __repr__(self) -> str:
        return f"<StaticSource [{self._name}: {len(self._versions)} versions]>"

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[str]) -> None:
        """Send the fixed list to *callback*, now."""
        callback(self._name, self._versions)
