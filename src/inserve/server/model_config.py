"""What a user says about one model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from inserve.errors import InvalidArgumentError
from inserve.replicas.replica_devices import spread_replicas
from inserve.sources.base_path import absolute_base_path
from inserve.sources.servable_to_monitor import ServableToMonitor
from inserve.sources.version_selection import All, Latest, Specific, VersionPolicy
from inserve.tensorflow_c.devices import short_device_name

__all__ = ["ModelConfig", "check_transition"]

_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class ModelConfig:
    """One model of a server.

    *path* is the base path, whose children are version directories: a local path (made absolute), or the
    URL of a remote store. *labels* gives version numbers by label. *poll_interval* is in seconds: above 0
    look for versions that often, 0 once, below 0 never, None as the server does. *platform* is what kind of
    servable the versions are. *replicas* gives numbers by device (``{"GPU:0": 1, "GPU:1": 1}``): each version
    is loaded so many times there, and its requests are spread over them; empty: as the server does.

    Raises:
        ValueError, TypeError: a value is out of its range or of another type; the text names the model.
    """

    name: str
    path: str | os.PathLike[str]
    version_policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    poll_interval: float | None = None
    platform: str = "tensorflow"
    replicas: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a model name is text, got {self.name!r}")
        if not self.name:
            raise ValueError("a model needs a name, got an empty one")
        try:
            object.__setattr__(self, "path", absolute_base_path(self.path))
        except ValueError as error:
            raise ValueError(f"model {self.name}: {error}") from None
        if not isinstance(self.version_policy, (Latest, All, Specific)):
            raise TypeError(
                f"model {self.name}: version_policy is Latest(n), All() or Specific([...]), "
                f"got {self.version_policy!r}"
            )
        object.__setattr__(self, "labels", dict(self.labels))
        for label, version in self.labels.items():
            if not isinstance(label, str) or isinstance(version, bool) or not isinstance(version, int):
                raise TypeError(
                    f"model {self.name}: labels gives version numbers by label, got {label!r}: {version!r}"
                )
            if not label:
                raise ValueError(f"model {self.name}: a label must not be empty")
            if not _INT64_MIN <= version <= _INT64_MAX:
                raise ValueError(
                    f"model {self.name}: label {label} needs a signed 64-bit version, got {version}"
                )
        interval = self.poll_interval
        if interval is not None and (isinstance(interval, bool) or not math.isfinite(interval)):
            raise ValueError(f"model {self.name}: poll_interval is in seconds or None, got {interval!r}")
        object.__setattr__(self, "replicas", self._checked_replicas())
        if not self.platform:
            raise ValueError(f"model {self.name} needs a platform, got an empty one")

    def _checked_replicas(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        try:
            for device, number in self.replicas.items():
                name = short_device_name(device)
                numbers[name] = numbers.get(name, 0) + number
            if numbers:
                spread_replicas(numbers)
        except (TypeError, ValueError) as error:
            raise type(error)(f"model {self.name}: {error}") from None
        return numbers

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each replica; empty if there are none."""
        return spread_replicas(self.replicas) if self.replicas else ()

    @property
    def base_path(self) -> str:
        """The absolute local path or URL under which the versions lie."""
        return os.fspath(self.path)

    def servable_to_monitor(self) -> ServableToMonitor:
        """Return what a source has to know of this model."""
        return ServableToMonitor(self.name, self.base_path, self.version_policy, self.poll_interval)


def check_transition(old: Iterable[ModelConfig], new: Iterable[ModelConfig]) -> None:
    """Check that *new* may replace *old*: a model that stays keeps its platform.

    Source: TensorFlow Serving, ``model_servers/server_core.cc``.

    Raises:
        InvalidArgumentError: the platform of a model would change.
    """
    platforms = {model.name: model.platform for model in old}
    for model in new:
        before = platforms.get(model.name, model.platform)
        if before != model.platform:
            raise InvalidArgumentError(
                f"Illegal to change a model's platform. For model {model.name} platform was {before} "
                f"and new platform requested is {model.platform}"
            )
