"""The available versions, as requests look them up.

Streams and leases are never changed once they are in the map: every change makes a new map and
swaps one reference, so a lookup sees the map before or the map after and takes no lock.
"""

from __future__ import annotations

from typing import Any

from inserve.errors import NotFoundError
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId, ServableRequest

__all__ = ["ServingMap"]


class _StreamView:
    """The available versions of one stream, at least one."""

    __slots__ = ("by_version", "latest")

    def __init__(self, by_version: dict[int, Lease]) -> None:
        self.by_version = by_version
        self.latest = by_version[max(by_version)]


class ServingMap:
    """A ``Manager``: any thread may look up, and one at a time may change it."""

    def __init__(self) -> None:
        self._streams: dict[str, _StreamView] = {}

    def servable_handle(self, request: ServableRequest) -> ServableHandle[Any]:
        """Return a handle to what *request* names; the caller releases it.

        Raises:
            NotFoundError: No such version is available.
        """
        name, version = request
        handle = self.lookup_latest(name) if version is None else self.lookup(name, version)
        if handle is None:
            raise NotFoundError(f"Servable not found for request: {request}")
        return handle

    def lookup(self, name: str, version: int) -> ServableHandle[Any] | None:
        """Return a handle to version *version* of *name*, or None; the caller releases it."""
        try:
            return ServableHandle(self._streams[name].by_version[version])
        except KeyError:
            return None

    def lookup_latest(self, name: str) -> ServableHandle[Any] | None:
        """Return a handle to the highest available version of *name*, or None; the caller releases it."""
        try:
            return ServableHandle(self._streams[name].latest)
        except KeyError:
            return None

    def available_servables(self) -> list[ServableId]:
        """Return the ids of all available versions, by name, then highest version first."""
        streams = self._streams
        return [
            ServableId(name, version)
            for name in sorted(streams)
            for version in sorted(streams[name].by_version, reverse=True)
        ]

    def available_versions(self, name: str) -> list[int]:
        """Return the available versions of *name*, highest first; empty if there is none."""
        stream = self._streams.get(name)
        return [] if stream is None else sorted(stream.by_version, reverse=True)

    def publish(self, lease: Lease) -> None:
        """Let lookups find *lease*; the map keeps the reference that makes it last."""
        name, version = lease.id
        stream = self._streams.get(name)
        by_version = {} if stream is None else dict(stream.by_version)
        by_version[version] = lease
        self._streams = {**self._streams, name: _StreamView(by_version)}

    def withdraw(self, id: ServableId) -> None:
        """Let lookups find version *id* no longer, and let go of its lease."""
        streams = dict(self._streams)
        by_version = {
            version: lease for version, lease in streams[id.name].by_version.items() if version != id.version
        }
        if by_version:
            streams[id.name] = _StreamView(by_version)
        else:
            del streams[id.name]
        self._streams = streams
