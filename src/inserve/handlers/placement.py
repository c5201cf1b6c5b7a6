"""Who runs a request: the thread that received it, or a pool."""

from __future__ import annotations

__all__ = ["WouldBlock"]


class WouldBlock(Exception):  # noqa: N818 - a control-flow signal, as BlockingIOError is, not a failure
    """The work is long, or nobody knows yet how long, and this thread must not be held up.

    Raised before any work is done, only to callers that asked for it (``may_block=False``); they
    call again from a thread of their pool with ``may_block=True``.
    """
