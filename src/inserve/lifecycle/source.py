"""Where versions come from: a source says which versions of a stream it aspires to.

Contract: TensorFlow Serving, ``core/source.h`` and ``core/target.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from inserve.errors import InserveError
from inserve.lifecycle.servable_id import ServableId

__all__ = ["AspiredVersionsCallback", "ServableData", "Source"]

PayloadT = TypeVar("PayloadT")


@dataclass(frozen=True)
class ServableData(Generic[PayloadT]):
    """One aspired version: what it is made of (a path, a loader), or why that could not be had.

    Raises:
        ValueError: Not exactly one of *payload* and *error* is given.
    """

    id: ServableId
    payload: PayloadT | None = None
    error: InserveError | None = None

    def __post_init__(self) -> None:
        if (self.payload is None) == (self.error is None):
            raise ValueError(f"{self.id}: expected either a payload or an error, got {self!r}")


AspiredVersionsCallback: TypeAlias = Callable[[str, Sequence[ServableData[PayloadT]]], None]
"""Takes the name of a stream and the complete list of its aspired versions.

A list replaces the one before it for that name; versions left out are to be unloaded, so an empty
list unloads the stream. Called on any thread of the source; it returns soon and does not raise
because of a version that cannot be loaded. All entries bear the name given first.
"""


class Source(Protocol[PayloadT]):
    """Produces aspired versions from the moment it has somebody to tell."""

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[PayloadT]) -> None:
        """Tell *callback* every list from now on; called once, before the source is started."""
        ...
