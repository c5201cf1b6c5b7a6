"""The contract between gRPC methods and what carries them.

A method takes the bytes of one request and returns the bytes of one response. Transports (native,
grpcio, the in-process channel, a server of the host application) differ only in how bytes arrive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["CallContext", "Method", "MethodTable", "TogetherMethod", "TogetherTable"]


class CallContext:
    """What a method may know of one call.

    *deadline* is in ``time.monotonic()`` seconds, or None. *may_block* is False on a thread that
    must stay free for other calls; a method with long work then raises ``WouldBlock``.
    ``cancelled`` may be set by the transport from any thread; work that has not started by then
    need not start.
    """

    __slots__ = ("cancelled", "deadline", "may_block", "metadata")

    def __init__(
        self,
        deadline: float | None = None,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        may_block: bool = True,
    ) -> None:
        self.deadline = deadline
        self.metadata = metadata
        self.may_block = may_block
        self.cancelled = False

    def remaining_s(self) -> float | None:
        """Return the seconds left, never below 0, or None where there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


Method: TypeAlias = Callable[[bytes, CallContext], bytes]
"""Serialized request and context in, serialized response out.

Called on any thread, by many at once. Raises ``InserveError``, whose code and text the transport
sends; ``WouldBlock``, see ``CallContext.may_block``. Any other exception is a defect: it is logged
under ``inserve.grpc`` and sent as INTERNAL with the text ``internal error``.
"""

MethodTable: TypeAlias = Mapping[str, Method]
"""Methods by full path, ``/package.Service/Method``."""

TogetherMethod: TypeAlias = Callable[[Sequence[bytes], Sequence[CallContext]], "Sequence[bytes | None]"]
"""A method for calls that a transport has received together: the answer of each, or None for those that the
``Method`` of the same path is to answer."""

TogetherTable: TypeAlias = Mapping[str, TogetherMethod]
"""Methods by path that also take several calls at once; transports may use them, and need not."""
