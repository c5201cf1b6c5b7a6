"""Logs a problem when it begins and when it ends, not at every poll in between."""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["ProblemLog"]

_logger = logging.getLogger("inserve.sources")


class ProblemLog:
    """Remembers the problems of one model. Used by one thread."""

    def __init__(self) -> None:
        self._current: frozenset[str] = frozenset()

    def report(self, problems: Iterable[str]) -> None:
        """Take *problems* as all there are now: new ones become warnings, those gone one line each."""
        present = tuple(dict.fromkeys(problems))
        for problem in present:
            if problem not in self._current:
                _logger.warning("%s", problem)
        for problem in sorted(self._current.difference(present)):
            _logger.info("No longer so: %s", problem)
        self._current = frozenset(present)
