"""What names a servable, and what a request may ask for.

Text forms: TensorFlow Serving, ``core/servable_id.h`` and ``core/manager.h``.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ServableId", "ServableRequest"]


class ServableId(NamedTuple):
    """One version of one stream. Ordered by name, then by version."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


class ServableRequest(NamedTuple):
    """A wish for one servable: version *version* of stream *name*, or its latest if that is None."""

    name: str
    version: int | None = None

    @classmethod
    def specific(cls, name: str, version: int) -> ServableRequest:
        """Return the request for exactly this version; 0 and negative numbers are versions too."""
        return cls(name, version)

    @classmethod
    def latest(cls, name: str) -> ServableRequest:
        """Return the request for the highest version that is available when it is looked up."""
        return cls(name, None)

    def __str__(self) -> str:
        if self.version is None:
            return f"Latest({self.name})"
        return f"Specific({self.name}, {self.version})"
