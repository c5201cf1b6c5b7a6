"""Runs tasks when the test says so."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DeferredRunner"]


class DeferredRunner:
    """A ``TaskRunner`` that keeps tasks until they are run by name; for one thread."""

    def __init__(self) -> None:
        self._tasks: list[tuple[str, Callable[[], None]]] = []

    @property
    def names(self) -> list[str]:
        """The names of the tasks that were started and not run yet, oldest first."""
        return [name for name, _ in self._tasks]

    def start(self, name: str, task: Callable[[], None]) -> None:
        self._tasks.append((name, task))

    def run(self, name: str) -> None:
        """Run the oldest task called *name*.

        Raises:
            LookupError: There is none.
        """
        if name not in self.names:
            raise LookupError(f"expected one of {self.names}, got {name}")
        _, task = self._tasks.pop(self.names.index(name))
        task()
