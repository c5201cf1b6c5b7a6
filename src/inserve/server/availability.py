"""Can this model answer requests, will it, or why not? Pure: states in, verdict out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from inserve.errors import Code, InserveError, NotFoundError, UnavailableError, UnknownError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.sources.servable_to_monitor import MonitorStatus

__all__ = ["Verdict", "did_not_become_available", "first_settled", "judge", "unsettled_versions"]


@dataclass(frozen=True)
class Verdict:
    """How one model stands.

    With neither *is_available* nor *problem* it is still to be decided, and *pending* says what by.
    """

    name: str
    is_available: bool = False
    problem: InserveError | None = None
    """Why, as things are on disk, no version of it can become available."""
    failed: ServableId | None = None
    """The version whose failure *problem* is; None where there is no version."""
    pending: str = ""

    @property
    def is_decided(self) -> bool:
        return self.is_available or self.problem is not None

    def __str__(self) -> str:
        """Return the entry of this model in the list of those that are not available."""
        name = f"{{name: {self.name}}}" if self.failed is None else str(self.failed)
        text = "OK" if self.problem is None else f"{self.problem.code.name}: {self.problem.message}"
        return f"{{{name} due to error: {text}}}, "


def judge(
    name: str,
    states: Sequence[ServableState],
    seen: MonitorStatus,
    stale: Collection[ServableState] = (),
    *,
    is_patient: bool = True,
) -> Verdict:
    """Return the verdict on *name* from the *states* of its versions, highest first, and the last poll.

    One version that answers is enough. A model has failed when every version aspired to has, and, if
    *is_patient*, no incomplete version is waited for. *stale* are states from a former life of the
    model; they decide nothing.
    """
    current = {state.id.version: state for state in states if state not in stale}
    if any(state.state is ManagerState.AVAILABLE for state in current.values()):
        return Verdict(name, is_available=True)
    if not seen.aspired_versions and not seen.waiting:
        return Verdict(
            name,
            problem=NotFoundError(
                seen.error
                or f"No versions of servable {name} found under base path {seen.base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?"
            ),
        )
    aspired = sorted(seen.aspired_versions, reverse=True)
    failures = [state for version in aspired if (state := current.get(version)) and _has_failed(state)]
    pending = _pending(aspired, current, seen)
    if len(failures) == len(aspired) and not (seen.waiting and is_patient):
        if failures:
            return Verdict(name, problem=failures[0].error, failed=failures[0].id)
        return Verdict(name, problem=UnavailableError(pending))
    return Verdict(name, pending=f"model {name}: {pending}")


def first_settled(
    states: Sequence[ServableState], stale: Collection[ServableState] = ()
) -> ServableState | None:
    """Return the state that decides in TensorFlow Serving: the highest version that is available or failed.

    Source: ``core/servable_state_monitor.cc`` (``ShouldSendNotification``).
    """
    for state in states:
        if state not in stale and (state.state is ManagerState.AVAILABLE or _has_failed(state)):
            return state
    return None


def unsettled_versions(
    states: Sequence[ServableState], seen: MonitorStatus, stale: Collection[ServableState] = ()
) -> list[int]:
    """Return the versions aspired to that have neither become available nor failed."""
    settled = {
        state.id.version
        for state in states
        if state not in stale and (state.state is ManagerState.AVAILABLE or _has_failed(state))
    }
    return [version for version in seen.aspired_versions if version not in settled]


def did_not_become_available(verdicts: Iterable[Verdict], noun: str) -> InserveError:
    """Return the one error that tells of every problem; *noun* is ``servable`` or ``model``.

    Models without any version alone are a NotFoundError, else the code is UNKNOWN and the text
    TensorFlow Serving's (``model_servers/server_core.cc``).
    """
    problems = sorted((verdict for verdict in verdicts if verdict.problem), key=lambda verdict: verdict.name)
    if all(isinstance(verdict.problem, NotFoundError) and verdict.failed is None for verdict in problems):
        return NotFoundError("; ".join(verdict.problem.message for verdict in problems if verdict.problem))
    entries = "".join(map(str, problems))
    return UnknownError(f"{len(problems)} {noun}(s) did not become available: {{{entries}}}")


def _has_failed(state: ServableState) -> bool:
    """Return whether the version ended with an error of its own; a cancelled load may yet come again."""
    return (
        state.state is ManagerState.END and state.error is not None and state.error.code is not Code.CANCELLED
    )


def _pending(aspired: Sequence[int], current: dict[int, ServableState], seen: MonitorStatus) -> str:
    """Return, for each version that is not there yet, how it stands."""
    reasons = []
    for version in aspired:
        state = current.get(version)
        text = "START" if state is None else state.state.name
        if state is not None and state.last_failure is not None:
            failure = state.last_failure
            text += (
                f" after {state.attempts} attempt(s), the last failed: {failure.code.name}: {failure.message}"
            )
        reasons.append(f"version {version} is in state {text}")
    reasons += [f"version {version}: {reason}" for version, reason in sorted(seen.waiting.items())]
    return "; ".join(reasons)
