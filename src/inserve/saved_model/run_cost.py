"""What runs of one signature have cost, so that a request can be placed by it."""

from __future__ import annotations

from inserve.saved_model.tuning import LONGEST_CALLING_THREAD_RUN_S
from inserve.tensorflow_c.interface import Executor

__all__ = ["SHORT_RUN_S", "RunCost"]

SHORT_RUN_S = 1e-3
"""Up to this a run is short: handing it to another thread would cost a notable part of it."""

_FORGETTING = 0.1
"""The weight of a new, lower figure; a higher one counts at once, unless it is a leap."""

_LEAP = 4.0
"""A run that takes this many times what others took, or so many times less, counts only if the next one
does, too: the machine may have been busy with something else. Two that agree count at once."""

_MOST_GROWTH = 2.0
"""A run chosen for the calling thread stays there up to this many times what it cost then."""


class RunCost:
    """Seconds that a run takes, by the size of its input in powers of two.

    A request of a thousand rows says nothing about one of a single row, hence the sizes. The first
    figure of a size holds only until the second: kernels prepare themselves for shapes they have not
    seen. ``on_calling_thread`` has the seconds of those sizes, ``int.bit_length`` of the bytes, whose runs
    belong on the calling thread. Any number of threads may call in here; a lost update costs one
    observation.
    """

    __slots__ = ("_doubted", "_first", "_limits", "_seconds", "on_calling_thread", "seconds_of_size")

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self.seconds_of_size = self._seconds.get
        """Called with the ``int.bit_length`` of the bytes of an input: ``estimate_s``, in one step."""
        self._first: set[int] = set()
        self._doubted: dict[int, float] = {}
        self._limits: dict[int, float] = {}
        """The most seconds on the calling thread, where something was chosen for a size."""
        self.on_calling_thread: dict[int, float] = {}

    def estimate_s(self, input_bytes: int) -> float | None:
        """Return the seconds a run with inputs of about this size takes, or None if none was seen."""
        return self._seconds.get(input_bytes.bit_length())

    def observe(self, input_bytes: int, seconds: float) -> bool:
        """Take in one finished run; return whether the next one should be measured as well."""
        size = input_bytes.bit_length()
        known = self._seconds.get(size)
        doubted = self._doubted.pop(size, None)
        if known is None:
            self._first.add(size)
        elif size in self._first:
            self._first.discard(size)
        elif doubted is not None and (doubted > known) == (seconds > known):
            seconds = min(seconds, doubted) if seconds > known else max(seconds, doubted)
        elif seconds > _LEAP * known or _LEAP * seconds < known:
            self._doubted[size] = seconds
            return True
        elif seconds < known:
            seconds = known + _FORGETTING * (seconds - known)
        self._put(size, seconds)
        return False

    def may_be_on_calling_thread(self, input_bytes: int) -> bool:
        """Return whether only what runs of this size cost keeps them off the calling thread, no choice."""
        return self._limits.get(input_bytes.bit_length(), LONGEST_CALLING_THREAD_RUN_S) > 0

    def settle(self, input_bytes: int, seconds: float) -> None:
        """Take *seconds* for what a run of this size takes, whatever was seen before."""
        size = input_bytes.bit_length()
        self._first.discard(size)
        self._put(size, seconds)

    def choose(self, input_bytes: int, executor: Executor, seconds: float) -> None:
        """Execute runs of this size on *executor* from now on, where one was measured to take *seconds*.

        That is no cost of a run here: it may have been measured long ago.
        """
        size = input_bytes.bit_length()
        self._limits[size] = (
            max(LONGEST_CALLING_THREAD_RUN_S, _MOST_GROWTH * seconds)
            if executor is Executor.CALLING_THREAD
            else -1.0
        )
        known = self._seconds.get(size)
        if known is not None:
            self._put(size, known)

    def _put(self, size: int, seconds: float) -> None:
        self._seconds[size] = seconds
        if seconds <= self._limits.get(size, LONGEST_CALLING_THREAD_RUN_S):
            self.on_calling_thread[size] = seconds
        else:
            self.on_calling_thread.pop(size, None)
