from __future__ import annotations

import pytest

from inserve.errors import CancelledError, DataLossError, InserveError, NotFoundError, UnknownError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.server.availability import (
    Verdict,
    did_not_become_available,
    first_settled,
    judge,
    unsettled_versions,
)
from inserve.sources.servable_to_monitor import MonitorStatus

BROKEN = DataLossError("broken")


def states(text: str) -> list[ServableState]:
    """Return the states of ``3 END broken; 1 AVAILABLE``, in that order."""
    errors: dict[str, InserveError] = {"broken": BROKEN, "cancelled": CancelledError("cancelled")}
    found = []
    for part in filter(None, text.split("; ")):
        version, state, *error = part.split()
        found.append(
            ServableState(
                ServableId("m", int(version)), ManagerState[state], 0.0, errors[error[0]] if error else None
            )
        )
    return found


def seen(*aspired: int, waiting: dict[int, str] | None = None, error: str | None = None) -> MonitorStatus:
    return MonitorStatus("/m", 1.0, error, aspired, waiting or {})


@pytest.mark.parametrize(
    ("known", "aspired", "waiting", "verdict"),
    [
        ("2 AVAILABLE", (2,), {}, "available"),
        ("3 END broken; 1 AVAILABLE", (3, 1), {}, "available"),
        ("3 END broken; 1 AVAILABLE", (3,), {}, "available"),
        ("", (2,), {}, "pending"),
        ("2 START", (2,), {}, "pending"),
        ("2 LOADING; 1 END broken", (2, 1), {}, "pending"),
        ("2 END", (2,), {}, "pending"),
        ("2 END cancelled", (2,), {}, "pending"),
        ("2 END broken", (3,), {}, "pending"),
        ("1 END broken", (1,), {2: "waiting"}, "pending"),
        ("2 END broken", (2,), {}, "failed"),
        ("2 END broken; 1 END broken", (1, 2), {}, "failed"),
        ("2 END", (), {}, "none"),
        ("", (), {}, "none"),
        ("", (), {2: "waiting"}, "pending"),
    ],
)
def test_a_model_is_available_fails_or_is_still_to_be_decided(
    known: str, aspired: tuple[int, ...], waiting: dict[int, str], verdict: str
) -> None:
    found = judge("m", states(known), seen(*aspired, waiting=waiting))
    assert found.is_available is (verdict == "available")
    assert found.is_decided is (verdict != "pending")
    assert bool(found.pending) is (verdict == "pending")
    assert found.failed == (ServableId("m", max(aspired)) if verdict == "failed" else None)
    assert isinstance(found.problem, NotFoundError) is (verdict == "none")


def test_states_of_a_former_life_decide_nothing() -> None:
    known = states("2 END broken")
    assert not judge("m", known, seen(2), stale=known).is_decided
    assert first_settled(known, stale=known) is None
    assert unsettled_versions(known, seen(2), stale=known) == [2]


def test_who_is_impatient_does_not_wait_for_an_incomplete_version() -> None:
    verdict = judge("m", [], seen(waiting={2: "waiting for saved_model.pb"}), is_patient=False)
    assert str(verdict) == "{{name: m} due to error: UNAVAILABLE: version 2: waiting for saved_model.pb}, "


def test_what_is_pending_names_versions_states_attempts_and_causes() -> None:
    retried = ServableState(ServableId("m", 3), ManagerState.LOADING, 0.0, None, 2, BROKEN)
    verdict = judge("m", [retried], seen(3, 1, waiting={4: "waiting for assets/v.txt"}))
    assert verdict.pending == (
        "model m: version 3 is in state LOADING after 2 attempt(s), the last failed: DATA_LOSS: broken; "
        "version 1 is in state START; version 4: waiting for assets/v.txt"
    )


@pytest.mark.parametrize(
    ("known", "version"),
    [("3 LOADING; 2 END broken; 1 AVAILABLE", 2), ("3 AVAILABLE; 2 END broken", 3), ("2 LOADING", None)],
)
def test_in_tensorflow_serving_the_highest_version_that_has_settled_decides(
    known: str, version: int | None
) -> None:
    state = first_settled(states(known))
    assert (None if state is None else state.id.version) == version


def test_models_without_a_version_are_not_found() -> None:
    verdicts = [Verdict(name, problem=NotFoundError(f"no {name}")) for name in "ba"]
    error = did_not_become_available([*verdicts, Verdict("c", is_available=True)], "servable")
    assert isinstance(error, NotFoundError)
    assert str(error) == "no a; no b"


def test_other_failures_have_the_text_of_tensorflow_serving() -> None:
    verdicts = [Verdict(name, problem=BROKEN, failed=ServableId(name, 1)) for name in "ba"]
    error = did_not_become_available(verdicts, "model")
    assert isinstance(error, UnknownError)
    assert str(error) == (
        "2 model(s) did not become available: {{{name: a version: 1} due to error: DATA_LOSS: broken}, "
        "{{name: b version: 1} due to error: DATA_LOSS: broken}, }"
    )
