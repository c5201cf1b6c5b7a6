"""A manager that is driven by hand, with everything around it in view."""

from __future__ import annotations

from collections.abc import Mapping

from inserve.errors import InserveError
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManager, AspiredVersionsManagerOptions
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.source import ServableData
from inserve.resources.tracker import ResourceTracker
from inserve.testing.deferred_runner import DeferredRunner
from inserve.testing.manual_clock import ManualClock

__all__ = ["ManagerBench"]


class ManagerBench:
    """An ``AspiredVersionsManager`` without threads, on a manual clock; for one thread.

    Loads and unloads wait in ``runner`` until they are run. *budget* is bytes by device, by default
    without limit.
    """

    def __init__(
        self, options: AspiredVersionsManagerOptions | None = None, budget: Mapping[str, int] | None = None
    ) -> None:
        self.clock = ManualClock()
        self.runner = DeferredRunner()
        self.tracker = ResourceTracker({} if budget is None else budget)
        self.bus: EventBus[ServableState] = EventBus()
        self.events: list[ServableState] = []
        self.bus.subscribe(self.events.append)
        self.monitor = ServableStateMonitor(self.bus, self.clock)
        self.manager = AspiredVersionsManager(
            options, bus=self.bus, tracker=self.tracker, clock=self.clock, runner=self.runner
        )

    def aspire(self, name: str, versions: Mapping[int, Loader | InserveError]) -> None:
        """Aspire to exactly *versions* of *name*, a loader or an error for each, and step."""
        self.manager.set_aspired_versions(
            name,
            [
                ServableData(ServableId(name, version), error=given)
                if isinstance(given, InserveError)
                else ServableData(ServableId(name, version), payload=given)
                for version, given in versions.items()
            ],
        )
        self.manager.step()

    def run(self, task: str) -> None:
        """Run the task ``inserve-``*task*, such as ``load-m-1`` or ``unload-m-1``, and step."""
        self.runner.run(f"inserve-{task}")
        self.manager.step()

    def settle(self) -> None:
        """Step and run tasks, oldest first, until there is nothing left to do at this time."""
        self.manager.step()
        while self.runner.names:
            self.runner.run(self.runner.names[0])
            self.manager.step()

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and step."""
        self.clock.advance(seconds)
        self.manager.step()

    def published(self, name: str, version: int) -> list[ManagerState]:
        """Return the states published for one version, oldest first."""
        return [event.state for event in self.events if event.id == (name, version)]
