from __future__ import annotations

import pytest

from inserve.errors import Code, InvalidArgumentError, MissingExtraError
from inserve.lifecycle.servable_state import ManagerState, health_of, is_legal_transition


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "START"),
        (None, "END"),
        ("START", "LOADING"),
        ("START", "END"),
        ("LOADING", "LOADING"),
        ("LOADING", "AVAILABLE"),
        ("LOADING", "END"),
        ("AVAILABLE", "UNLOADING"),
        ("UNLOADING", "END"),
        ("END", "START"),
    ],
)
def test_states_follow_one_another_in_the_legal_order(before: str | None, after: str) -> None:
    assert is_legal_transition(None if before is None else ManagerState[before], ManagerState[after])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "LOADING"),
        ("START", "AVAILABLE"),
        ("LOADING", "START"),
        ("AVAILABLE", "END"),
        ("AVAILABLE", "AVAILABLE"),
        ("UNLOADING", "AVAILABLE"),
        ("END", "LOADING"),
    ],
)
def test_no_state_is_skipped_or_gone_back_to(before: str | None, after: str) -> None:
    assert not is_legal_transition(None if before is None else ManagerState[before], ManagerState[after])


def test_the_numbers_are_those_of_the_protocol() -> None:
    assert [(state.name, state.value) for state in ManagerState] == [
        ("START", 10),
        ("LOADING", 20),
        ("AVAILABLE", 30),
        ("UNLOADING", 40),
        ("END", 50),
    ]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InvalidArgumentError("bad"), Code.INVALID_ARGUMENT, "bad"),
        (MissingExtraError("install it"), Code.FAILED_PRECONDITION, "install it"),
        (MemoryError(), Code.RESOURCE_EXHAUSTED, "MemoryError"),
        (KeyError("k"), Code.UNKNOWN, "KeyError: 'k'"),
    ],
)
def test_a_status_keeps_code_and_text_of_an_error(error: Exception, code: Code, text: str) -> None:
    health = health_of(error)
    assert (health.code, health.message) == (code, text)


def test_a_status_keeps_no_frame_alive() -> None:
    def fail() -> None:
        raise InvalidArgumentError("bad") from OSError("cause")

    with pytest.raises(InvalidArgumentError) as caught:
        fail()
    health = health_of(caught.value)
    assert health.__traceback__ is None
    assert health.__cause__ is None
    assert health.__context__ is None
