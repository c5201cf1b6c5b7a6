"""Names such as ``stable`` that stand for a version of a model.

Rules and texts: TensorFlow Serving, ``model_servers/server_core.cc`` (``UpdateModelVersionLabelMap``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from inserve.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from inserve.lifecycle.servable_id import ServableId

__all__ = ["VersionLabels"]


class VersionLabels:
    """The labels of all models, replaced together. Lookups take no lock; any thread may call.

    *is_available* tells whether a version is AVAILABLE now. *allow_unavailable* admits a label for
    a version that is not, unless it moves a label from another version (the flag
    ``--allow_version_labels_for_unavailable_models``). With *allowed* False no label is accepted in
    any config or request.
    """

    def __init__(
        self,
        is_available: Callable[[ServableId], bool],
        *,
        allow_unavailable: bool = False,
        allowed: bool = True,
    ) -> None:
        self._is_available = is_available
        self._allow_unavailable = allow_unavailable
        self._allowed = allowed
        self._assign_lock = threading.Lock()
        self._labels: Mapping[str, Mapping[str, int]] | None = None

    def assign(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all labels by *labels*: version by label by model.

        Labels and models left out are gone. An empty map counts as a first config.

        Raises:
            FailedPreconditionError: A version is not available, or labels are not allowed; nothing
                was changed.
        """
        with self._assign_lock:
            for model, version_by_label in labels.items():
                self._check(model, version_by_label)
            self._labels = _frozen(labels)

    def assign_model(self, model: str, labels: Mapping[str, int]) -> None:
        """Replace the labels of *model* alone, version by label; no other model's are looked at.

        Raises:
            FailedPreconditionError: As ``assign``.
        """
        with self._assign_lock:
            self._check(model, labels)
            self._labels = _frozen({**(self._labels or {}), model: labels})

    def _check(self, model: str, labels: Mapping[str, int]) -> None:
        if labels and not self._allowed:
            raise FailedPreconditionError("Model version labels are not currently allowed by the server.")
        current = self.of_model(model)
        for label, version in labels.items():
            if self._allow_unavailable and current.get(label) in (None, version):
                continue
            if not self._is_available(ServableId(model, version)):
                raise FailedPreconditionError(
                    f"Request to assign label to version {version} of model {model}, "
                    "which is not currently available for inference"
                )

    def version(self, model: str, label: str) -> int:
        """Return the version that *label* of *model* stands for, available or not.

        Raises:
            InvalidArgumentError: No such label, or labels are not allowed.
            UnavailableError: No labels were assigned yet.
        """
        if not self._allowed:
            raise InvalidArgumentError(
                "ModelSpec has 'version_label' set, but it is not currently allowed by the server."
            )
        labels = self._labels
        if labels is None:
            raise UnavailableError(f"Model labels does not init yet.{label}")
        version = labels.get(model, {}).get(label)
        if version is None:
            raise InvalidArgumentError(f"Unrecognized servable version label: {label}")
        return version

    def of_all(self) -> Mapping[str, Mapping[str, int]] | None:
        """Return all labels, None before any were assigned; not changed by what comes later."""
        return self._labels

    def restore(self, labels: Mapping[str, Mapping[str, int]] | None) -> None:
        """Make the labels what ``of_all`` returned, unchecked."""
        with self._assign_lock:
            self._labels = labels

    def of_model(self, model: str) -> Mapping[str, int]:
        """Return the labels of *model*, version by label; empty if it has none."""
        return (self._labels or {}).get(model, {})


def _frozen(labels: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
    return MappingProxyType(
        {model: MappingProxyType(dict(of_model)) for model, of_model in labels.items() if of_model}
    )
