"""What the manager needs of one version, whatever kind of servable it is."""

from __future__ import annotations

from typing import Any, Protocol

from inserve.resources.allocation import ResourceAllocation

__all__ = ["Loader"]


class Loader(Protocol):
    """Brings one version into memory and out again.

    The manager is the only caller and makes one call at a time, on a load or unload thread (its own
    thread where it has none); every method may block. ``load`` and ``unload`` alternate, and a
    loader may be loaded again after it was unloaded or has failed. A call has no time limit, so a
    loader bounds its own work.
    """

    def estimate_resources(self) -> ResourceAllocation:
        """Return what the servable will need while loading and when loaded, never too little.

        Asked before each load. Raising means that this attempt has failed.
        """
        ...

    def load(self) -> ResourceAllocation | None:
        """Load the servable; return what it needs from now on if that is more than was estimated.

        Raising means that this attempt has failed and that nothing is held: ``unload`` is then not
        called. An ``InserveError`` is shown in the status of the version as it is, anything else as
        UNKNOWN.
        """
        ...

    def unload(self) -> None:
        """Free everything ``load`` took; no handle to the servable exists any more."""
        ...

    def servable(self) -> Any:
        """Return the loaded object that requests use; called between ``load`` and ``unload``."""
        ...
