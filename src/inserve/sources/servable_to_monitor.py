"""What a source is told about a model, and what it tells about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from inserve.sources.version_selection import Latest, VersionPolicy

__all__ = ["MonitorStatus", "ServableToMonitor", "by_name"]


@dataclass(frozen=True)
class ServableToMonitor:
    """One model: its versions lie under *base_path*.

    *poll_interval_s* is in seconds: above 0 poll that often, 0 once, below 0 only when asked, None as the
    source does.
    """

    name: str
    base_path: str
    version_policy: VersionPolicy = field(default_factory=Latest)
    poll_interval_s: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a model needs a name, got an empty one")
        if not self.base_path:
            raise ValueError(f"model {self.name} needs a base path, got an empty one")


@dataclass(frozen=True)
class MonitorStatus:
    """How the last poll of one model went.

    *last_poll_s* is in seconds since the epoch, None before the first poll. *error* is why that poll could
    not be made, None when it could. *aspired_versions* is the list sent last. *waiting* says, by version
    number, what a version that is not aspired to yet waits for.
    """

    base_path: str
    last_poll_s: float | None = None
    error: str | None = None
    aspired_versions: tuple[int, ...] = ()
    waiting: Mapping[int, str] = field(default_factory=dict)


def by_name(models: Iterable[ServableToMonitor]) -> dict[str, ServableToMonitor]:
    """Return *models* by name, names in order.

    Raises:
        ValueError: a name comes twice.
    """
    found: dict[str, ServableToMonitor] = {}
    for model in models:
        if model.name in found:
            raise ValueError(f"model {model.name} is listed twice, expected each name once")
        found[model.name] = model
    return dict(sorted(found.items()))
