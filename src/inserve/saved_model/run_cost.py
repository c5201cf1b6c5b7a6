"""What runs of one signature have cost, so that a request can be placed by it."""

from __future__ import annotations

__all__ = ["SHORT_RUN_S", "RunCost"]

SHORT_RUN_S = 1e-3
"""Up to this a run is short: handing it to another thread would cost a notable part of it."""

_FORGETTING = 0.1
"""The weight of a new, lower figure; a higher one counts at once."""


class RunCost:
    """Seconds that a run takes, by the size of its input in powers of two.

    A request of a thousand rows says nothing about one of a single row, hence the sizes. The first
    figure of a size holds only until the second: kernels prepare themselves for shapes they have not
    seen. Any number of threads may call in here; a lost update costs one observation.
    """

    __slots__ = ("_first", "_seconds")

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._first: set[int] = set()

    def estimate_s(self, input_bytes: int) -> float | None:
        """Return the seconds a run with inputs of about this size takes, or None if none was seen."""
        return self._seconds.get(input_bytes.bit_length())

    def observe(self, input_bytes: int, seconds: float) -> None:
        """Take in one finished run."""
        size = input_bytes.bit_length()
        known = self._seconds.get(size)
        if known is None:
            self._first.add(size)
        elif size in self._first:
            self._first.discard(size)
        elif seconds < known:
            seconds = known + _FORGETTING * (seconds - known)
        self._seconds[size] = seconds

    def settle(self, input_bytes: int, seconds: float) -> None:
        """Take *seconds* for what a run of this size takes, whatever was seen before."""
        size = input_bytes.bit_length()
        self._first.discard(size)
        self._seconds[size] = seconds
