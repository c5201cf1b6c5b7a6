"""What a request needs of the manager: a servable, now, or the news that there is none."""

from __future__ import annotations

from typing import Any, Protocol

from inserve.lifecycle.servable_handle import ServableHandle
from inserve.lifecycle.servable_id import ServableId, ServableRequest

__all__ = ["Manager"]


class Manager(Protocol):
    """Finds available servables. Any thread may call, none ever waits, and no lock is taken.

    A version that is loading, failed or unloading is not found; a request is never queued for it.
    """

    def servable_handle(self, request: ServableRequest) -> ServableHandle[Any]:
        """Return a handle to what *request* names; the caller releases it.

        Raises:
            NotFoundError: No such version is available.
        """
        ...

    def lookup(self, name: str, version: int) -> ServableHandle[Any] | None:
        """Return a handle to version *version* of *name*, or None; the caller releases it."""
        ...

    def lookup_latest(self, name: str) -> ServableHandle[Any] | None:
        """Return a handle to the highest available version of *name*, or None; the caller releases it."""
        ...

    def available_servables(self) -> list[ServableId]:
        """Return the ids of all available versions, by name, then highest version first."""
        ...

    def available_versions(self, name: str) -> list[int]:
        """Return the available versions of *name*, highest first; empty if there is none."""
        ...
