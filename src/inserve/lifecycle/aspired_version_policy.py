"""What to do next with the versions of one stream. Pure functions.

Rules: TensorFlow Serving, ``core/availability_preserving_policy.h`` and
``core/resource_preserving_policy.h``. A policy gives one action at a time; the manager starts it
and asks again with the states that follow, so several loads and unloads may be under way at once
where the C++ server starts one in 100 ms. Each action is safe in the very states it was given.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from inserve.lifecycle.loader_harness import HarnessState

__all__ = [
    "Action",
    "AspiredVersionPolicy",
    "VersionAction",
    "VersionSnapshot",
    "availability_preserving",
    "resource_preserving",
]


class Action(enum.Enum):
    """What is done with one version."""

    LOAD = "load"
    UNLOAD = "unload"


class VersionSnapshot(NamedTuple):
    """What a policy may know of one version."""

    version: int
    state: HarnessState
    is_aspired: bool


class VersionAction(NamedTuple):
    """One step, for one version of the stream."""

    action: Action
    version: int


AspiredVersionPolicy: TypeAlias = Callable[[Sequence[VersionSnapshot]], VersionAction | None]
"""Takes all managed versions of one stream, each once; returns the next step, or None for none.

Stateless. LOAD is given only for a version that is NEW, UNLOAD only for one that is READY.
"""


def availability_preserving(versions: Sequence[VersionSnapshot]) -> VersionAction | None:
    """Load before unloading: a stream that serves goes on serving until another version does."""
    unwanted = [v.version for v in versions if not v.is_aspired and v.state is HarnessState.READY]
    aspired_states = [v.state for v in versions if v.is_aspired]
    if unwanted and (not aspired_states or HarnessState.READY in aspired_states or len(unwanted) > 1):
        return VersionAction(Action.UNLOAD, min(unwanted))
    return _load_highest(versions)


def resource_preserving(versions: Sequence[VersionSnapshot]) -> VersionAction | None:
    """Unload before loading: the stream needs no more than the aspired versions, and has gaps."""
    for v in versions:
        if not v.is_aspired and v.state is HarnessState.READY:
            return VersionAction(Action.UNLOAD, v.version)
    ended = (HarnessState.DISABLED, HarnessState.ERROR)
    if any(not v.is_aspired and v.state not in ended for v in versions):
        return None
    return _load_highest(versions)


def _load_highest(versions: Sequence[VersionSnapshot]) -> VersionAction | None:
    new = [v.version for v in versions if v.is_aspired and v.state is HarnessState.NEW]
    return VersionAction(Action.LOAD, max(new)) if new else None
