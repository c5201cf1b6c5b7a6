"""ModelSpec: which servable, and which signature of it, a request asks for.

Order, codes and texts: TensorFlow Serving, ``model_servers/server_core.cc``
(``ServableRequestFromModelSpec``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from inserve.errors import InvalidArgumentError, UnavailableError
from inserve.lifecycle.manager import Manager
from inserve.lifecycle.servable_handle import ServableHandle
from inserve.lifecycle.servable_id import ServableRequest
from inserve.lifecycle.version_labels import VersionLabels
from inserve.saved_model.saved_model_servable import SavedModelServable

__all__ = ["DEFAULT_SIGNATURE_NAME", "ModelSpec", "ServableFinder", "model_spec_from_message"]

DEFAULT_SIGNATURE_NAME = "serving_default"
"""The signature meant by an empty ``signature_name``."""


class ModelSpec(NamedTuple):
    """``tensorflow.serving.ModelSpec``; *version* and *version_label* exclude each other."""

    name: str = ""
    version: int | None = None
    version_label: str | None = None
    signature_name: str = ""


def model_spec_from_message(message: Any) -> ModelSpec:
    """Return a ``tensorflow.serving.ModelSpec`` message as a ModelSpec.

    An empty ``version`` submessage asks for version 0; an absent one does not ask for any.
    """
    choice = message.WhichOneof("version_choice")
    return ModelSpec(
        message.name,
        message.version.value if choice == "version" else None,
        message.version_label if choice == "version_label" else None,
        message.signature_name,
    )


class ServableFinder:
    """Finds the servable that a ModelSpec names; takes no lock, called on any thread.

    Finds nothing before ``open`` and after ``close``.
    """

    def __init__(self, manager: Manager, labels: VersionLabels) -> None:
        self._manager = manager
        self._labels = labels
        self._lookup_latest: Callable[[str], ServableHandle[SavedModelServable] | None]
        self._refusal: str | None
        self._refuse("the server is not started")

    def open(self) -> None:
        """Find servables from now on."""
        self._refusal = None
        self._lookup_latest = self._manager.lookup_latest

    def close(self) -> None:
        """Refuse every further request with UNAVAILABLE; handles that are out stay good."""
        self._refuse("the server is stopped")

    def find(self, spec: ModelSpec | None) -> ServableHandle[SavedModelServable]:
        """Return a handle to the servable; the caller releases it.

        Raises:
            InvalidArgumentError: No spec, no name, or an unknown label.
            NotFoundError: No such version is available.
            UnavailableError: The server is not running, or no labels were assigned yet.
        """
        if spec is None:
            raise InvalidArgumentError("Missing ModelSpec")
        name, version, label, _ = spec
        if version is None and label is None:
            handle = self._lookup_latest(name)
            if handle is not None:
                return handle
        if self._refusal is not None:
            raise UnavailableError(self._refusal)
        if not name:
            raise InvalidArgumentError("ModelSpec has no name specified.")
        if label is not None:
            version = self._labels.version(name, label)
        return self._manager.servable_handle(ServableRequest(name, version))

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._lookup_latest = lambda _: None
