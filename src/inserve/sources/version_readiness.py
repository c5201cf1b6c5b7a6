"""May this version directory be aspired to yet? Complete, and left alone for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from inserve.clock import Clock
from inserve.sources.completeness import content_problem
from inserve.sources.directory_snapshot import take_snapshot
from inserve.sources.version_selection import Selection, VersionChild, VersionPolicy, select_versions

__all__ = ["ReadyVersions", "VersionReadiness", "Wait", "choose_ready_versions"]


@dataclass(frozen=True)
class Wait:
    """Why a version is waited for, and in how many seconds to look again (None: at the next poll)."""

    reason: str
    seconds: float | None = None


@dataclass(frozen=True)
class ReadyVersions:
    """What a policy asks for among the versions that are ready; *waits* is by version number."""

    selection: Selection
    waits: dict[int, Wait]


@dataclass(frozen=True)
class _Seen:
    fingerprint: int
    since: float
    problem: str | None


class VersionReadiness:
    """Judges the version directories of one model, remembering how each was at the poll before.

    A directory whose newest change lies the quiet period back is judged at once. Otherwise, or when its times
    lie in the future (another machine's clock), it has to look the same for that long. Used by one thread.
    """

    def __init__(self, clock: Clock, wall_time: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_time = wall_time
        self._seen: dict[str, _Seen] = {}

    def wait_for(self, directory: str, quiet_period_s: float) -> Wait | None:
        """Return what the version in *directory* waits for, or None when it may be aspired to."""
        try:
            snapshot = take_snapshot(directory)
        except NotADirectoryError:
            return Wait("waiting for a directory: it is a file")
        except OSError as error:
            return Wait(f"waiting until it can be read: {error.strerror or type(error).__name__}")
        if not snapshot.whole:
            return None
        now = self._clock.now()
        seen = self._seen.get(directory)
        if seen is None or seen.fingerprint != snapshot.fingerprint:
            seen = _Seen(snapshot.fingerprint, now, content_problem(directory, snapshot.files))
            self._seen[directory] = seen
        if seen.problem is not None:
            return Wait(seen.problem)
        age = self._wall_time() - snapshot.changed_s
        quiet_s = max(age, now - seen.since)
        if quiet_s < quiet_period_s:
            return Wait("waiting for its files to stop changing", quiet_period_s - quiet_s)
        return None

    def forget_except(self, directories: Iterable[str]) -> None:
        """Drop what is remembered of every other directory."""
        kept = set(directories)
        self._seen = {directory: seen for directory, seen in self._seen.items() if directory in kept}


def choose_ready_versions(
    servable_name: str,
    base_path: str,
    children: list[VersionChild],
    policy: VersionPolicy,
    wait_for: Callable[[VersionChild], Wait | None],
) -> ReadyVersions:
    """Return what *policy* selects among those *children* that need not be waited for.

    Only children that the policy would select are asked about, each once: the good version below a broken
    newest one under ``Latest(1)`` is, the ten before it are not.
    """
    waits: dict[int, Wait] = {}
    asked: set[str] = set()
    excluded: frozenset[str] = frozenset()
    while True:
        selection = select_versions(servable_name, base_path, children, policy, excluded)
        fresh = [child for child in selection.children if child.name not in asked]
        found = {child: wait for child in fresh if (wait := wait_for(child)) is not None}
        asked.update(child.name for child in fresh)
        if not found:
            return ReadyVersions(selection, waits)
        waits.update({child.version: wait for child, wait in found.items()})
        excluded = excluded.union(child.name for child in found)
