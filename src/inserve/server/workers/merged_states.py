"""How the versions of a server with several processes stand: as at the one where they stand worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor

__all__ = ["MergedStates", "worst_state"]

_WORST_FIRST = (
    ManagerState.START,
    ManagerState.LOADING,
    ManagerState.UNLOADING,
    ManagerState.END,
    ManagerState.AVAILABLE,
)
_ON_THE_WAY = (ManagerState.START, ManagerState.LOADING, ManagerState.AVAILABLE)


def worst_state(states: Sequence[ServableState | None]) -> ServableState | None:
    """Return the state that tells most about what is amiss; None where no process knows the version.

    A failure comes first, and a version is available only where it is so at every process. One that
    has not seen it yet (None) is about to, unless the others are done with it.
    """
    known = [state for state in states if state is not None]
    if not known:
        return None
    failed = [state for state in known if state.state is ManagerState.END and state.error is not None]
    if failed:
        return failed[0]
    worst = min(known, key=lambda state: _WORST_FIRST.index(state.state))
    if len(known) < len(states) and worst.state in _ON_THE_WAY:
        return ServableState(worst.id, ManagerState.START, worst.time_s)
    return worst


class MergedStates:
    """The states that *monitor* knows, together with those of other processes; any thread may ask.

    *others* returns the last state of each version at each of these.
    """

    def __init__(
        self,
        monitor: ServableStateMonitor,
        others: Callable[[], Sequence[Mapping[ServableId, ServableState]]],
    ) -> None:
        self._monitor = monitor
        self._others = others

    def state(self, id: ServableId) -> ServableState | None:
        """Return the state of one version, None if no process knows it."""
        return worst_state([self._monitor.state(id), *(states.get(id) for states in self._others())])

    def states(self, name: str) -> list[ServableState]:
        """Return the state of each version of *name* that a process knows, highest version first."""
        others = self._others()
        own = {state.id: state for state in self._monitor.states(name)}
        ids = {id for states in (own, *others) for id in states if id.name == name}
        merged = (worst_state([own.get(id), *(states.get(id) for states in others)]) for id in ids)
        return sorted(
            (state for state in merged if state is not None), key=lambda state: state.id, reverse=True
        )
