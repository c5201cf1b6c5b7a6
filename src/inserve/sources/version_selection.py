"""Which version directories of a base path a policy asks for.

Selecting is pure: names in, names out; ``is_saved_model`` and ``version_directories`` look at a disk for
callers that poll nothing. A name is a version when the *whole* name parses as a signed 64-bit
decimal number: ``1``, ``00017`` (17), ``+7``, ``-3`` and names with ASCII blanks around the number do,
``1.0``, ``0x10``, ``tmp-1``, ``1.tmp`` and non-ASCII digits do not and are ignored without a word, which is
how a writer keeps a half-written version out of sight.

Rules: TensorFlow Serving, ``sources/storage_path/file_system_storage_path_source.cc`` and its ``.proto``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = [
    "SAVED_MODEL_FILES",
    "All",
    "Latest",
    "Selection",
    "Specific",
    "VersionChild",
    "VersionPolicy",
    "is_saved_model",
    "parse_version",
    "select_versions",
    "version_children",
    "version_directories",
]

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
"""Any one of these files makes a directory a SavedModel."""

_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1
_BLANKS = " \t\n\v\f\r"
_DECIMAL = re.compile(r"([+-]?)0*([0-9]{1,20})")


@dataclass(frozen=True)
class Latest:
    """The *num_versions* highest numbers; all of them when there are fewer."""

    num_versions: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.num_versions, bool) or not isinstance(self.num_versions, int):
            raise TypeError(f"Latest takes a number of versions, got {self.num_versions!r}")
        if self.num_versions < 1:
            raise ValueError(f"Latest takes a number of versions of at least 1, got {self.num_versions}")


@dataclass(frozen=True)
class All:
    """Every version there is."""


@dataclass(frozen=True)
class Specific:
    """The listed numbers, as far as they exist. Kept as a tuple."""

    versions: Sequence[int]

    def __post_init__(self) -> None:
        try:
            versions = tuple(self.versions)
        except TypeError:
            raise TypeError(f"Specific takes a list of version numbers, got {self.versions!r}") from None
        for version in versions:
            if isinstance(version, bool) or not isinstance(version, int):
                raise TypeError(f"Specific takes version numbers, got {version!r}")
            if not _INT64_MIN <= version <= _INT64_MAX:
                raise ValueError(f"Specific takes signed 64-bit version numbers, got {version}")
        object.__setattr__(self, "versions", versions)


VersionPolicy: TypeAlias = Latest | All | Specific


@dataclass(frozen=True)
class VersionChild:
    """A directory *name* and the *version* number it spells."""

    version: int
    name: str


@dataclass(frozen=True)
class Selection:
    """The children to aspire to, in the order they are emitted, and what to warn about."""

    children: tuple[VersionChild, ...]
    warnings: tuple[str, ...] = ()


def parse_version(name: str) -> int | None:
    """Return the number that *name* spells as a whole, or None when it is not a version name."""
    match = _DECIMAL.fullmatch(name.strip(_BLANKS))
    if match is None:
        return None
    version = int(match[1] + match[2])
    return version if _INT64_MIN <= version <= _INT64_MAX else None


def version_children(names: Iterable[str]) -> list[VersionChild]:
    """Return the children of *names* that are versions, ordered by name.

    Names are cut at the first ``/`` and de-duplicated first: object stores list below the children as well.
    """
    parsed = ((parse_version(name), name) for name in sorted({name.split("/", 1)[0] for name in names}))
    return [VersionChild(version, name) for version, name in parsed if version is not None]


def select_versions(
    servable_name: str,
    base_path: str,
    children: Iterable[VersionChild],
    policy: VersionPolicy,
    excluded: frozenset[str] = frozenset(),
) -> Selection:
    """Return what *policy* asks for among *children*, which are ordered by name.

    Children named in *excluded* exist but cannot be served yet: they are not counted among the versions, and
    a requested one of them is not reported as missing. Emission order: ``Latest`` descending, ``All`` by
    directory name, ``Specific`` in the order listed when every number has its plain directory name, else
    ascending. Of two directories with one number the last name wins, under ``All`` the first, and under
    ``Specific`` with plain names the plain one. TensorFlow Serving emits both under ``All`` and its manager
    refuses the second; here only the one that is managed is emitted, and the warning names that one.
    """
    present = tuple(children)
    usable = [child for child in present if child.name not in excluded]
    warnings: list[str] = []
    if isinstance(policy, Specific):
        selected = _specific(servable_name, present, usable, policy, warnings)
    elif isinstance(policy, All):
        first_names = _one_per_version(reversed(usable), warnings)
        selected = [child for child in usable if first_names[child.version] is child]
    else:
        by_version = _one_per_version(usable, warnings)
        selected = [by_version[version] for version in sorted(by_version, reverse=True)][
            : policy.num_versions
        ]
    if not selected and not excluded:
        warnings.append(
            f"No versions of servable {servable_name} found under base path {base_path}. "
            "Did you forget to name your leaf directory as a number (eg. '/1/')?"
        )
    return Selection(tuple(selected), tuple(warnings))


def is_saved_model(directory: str | os.PathLike[str]) -> bool:
    """Return whether *directory* itself holds a SavedModel, as a version directory does."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in SAVED_MODEL_FILES)


def version_directories(base_path: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the version directories below *base_path* by number; the last name wins as under ``Latest``.

    Raises:
        OSError: *base_path* cannot be listed.
    """
    base = Path(base_path)
    return {
        child.version: base / child.name
        for child in version_children(os.listdir(base))
        if (base / child.name).is_dir()
    }


def _specific(
    servable_name: str,
    present: tuple[VersionChild, ...],
    usable: list[VersionChild],
    policy: Specific,
    warnings: list[str],
) -> list[VersionChild]:
    if not policy.versions:
        warnings.append(f"No specific versions requested for servable {servable_name}.")
        return []
    wanted = list(dict.fromkeys(policy.versions))
    plain = {child.name: child for child in usable}
    if all(str(version) in plain for version in wanted):
        return [plain[str(version)] for version in wanted]
    existing = {child.version for child in present}
    by_version = _one_per_version((child for child in usable if child.version in set(wanted)), warnings)
    warnings.extend(
        f"Version {version} of servable {servable_name}, which was requested to be served as a 'specific' "
        "version in the servable's version policy, was not found in the file system"
        for version in wanted
        if version not in existing
    )
    return [by_version[version] for version in sorted(by_version)]


def _one_per_version(children: Iterable[VersionChild], warnings: list[str]) -> dict[int, VersionChild]:
    """Return the last child of each number; a loser adds a warning."""
    winners: dict[int, VersionChild] = {}
    for child in children:
        loser = winners.get(child.version)
        winners[child.version] = child
        if loser is not None:
            warnings.append(
                f"Duplicate version directories detected. Version {child.version} will be loaded from "
                f"{child.name}, {loser.name} will be ignored."
            )
    return winners
