"""Tables: versions as ``number state aspired?``, expected action."""

from __future__ import annotations

import pytest

from inserve.lifecycle.aspired_version_policy import (
    VersionSnapshot,
    availability_preserving,
    resource_preserving,
)
from inserve.lifecycle.loader_harness import HarnessState


def stream(text: str) -> list[VersionSnapshot]:
    return [
        VersionSnapshot(int(version), HarnessState[state], aspired == "yes")
        for version, state, aspired in (entry.split() for entry in text.split(";") if entry.strip())
    ]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ("", None),
        ("1 READY no; 2 NEW yes", "load 2"),
        ("1 READY no; 2 LOADING yes", None),
        ("1 READY no; 2 ERROR yes", None),
        ("1 READY no; 2 READY yes", "unload 1"),
        ("1 READY no; 2 LOADING yes; 3 READY yes", "unload 1"),
        ("1 READY no; 2 ERROR yes; 3 READY yes", "unload 1"),
        ("1 READY no; 2 READY no; 3 ERROR yes; 4 LOADING yes", "unload 1"),
        ("3 READY no; 4 READY yes; 5 NEW yes", "unload 3"),
        ("3 READY yes; 4 NEW yes; 5 NEW yes", "load 5"),
        ("2 READY no", "unload 2"),
        ("2 READY no; 1 READY no", "unload 1"),
        ("1 READY yes; 2 READY yes", None),
        ("1 NEW no; 2 LOAD_REQUESTED no", None),
        ("1 QUIESCING no; 2 NEW yes", "load 2"),
        ("1 READY no; 2 UNLOADING no; 3 LOADING yes", None),
        ("5 NEW yes; 7 NEW yes; 6 NEW yes", "load 7"),
    ],
)
def test_the_availability_preserving_policy_loads_before_it_unloads(
    versions: str, expected: str | None
) -> None:
    action = availability_preserving(stream(versions))
    assert (action and f"{action.action.value} {action.version}") == expected


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ("", None),
        ("1 READY no; 2 NEW yes", "unload 1"),
        ("1 READY no; 2 READY no", "unload 1"),
        ("2 READY no; 1 READY no", "unload 2"),
        ("1 QUIESCING no; 2 NEW yes", None),
        ("1 UNLOADING no; 2 NEW yes", None),
        ("1 LOADING no; 2 NEW yes", None),
        ("1 NEW no; 2 NEW yes", None),
        ("1 DISABLED no; 2 NEW yes; 3 NEW yes", "load 3"),
        ("1 ERROR no; 2 NEW yes", "load 2"),
        ("1 ERROR yes; 2 READY yes", None),
    ],
)
def test_the_resource_preserving_policy_unloads_before_it_loads(versions: str, expected: str | None) -> None:
    action = resource_preserving(stream(versions))
    assert (action and f"{action.action.value} {action.version}") == expected
