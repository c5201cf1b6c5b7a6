"""GetModelStatus: the versions of a model and how each stands.

Behaviour: TensorFlow Serving, ``model_servers/get_model_status_impl.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from google.protobuf.message import DecodeError

from inserve.errors import InternalError, InvalidArgumentError, NotFoundError
from inserve.handlers.model_spec import model_spec_from_message
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.protos import messages

__all__ = ["AnswersModelStatus", "KnownStates", "ModelStatusHandler"]


class KnownStates(Protocol):
    """The last known state of each version (``ServableStateMonitor``)."""

    def state(self, id: ServableId) -> ServableState | None:
        """Return the state of one version, None if it was never seen."""
        ...

    def states(self, name: str) -> list[ServableState]:
        """Return the states of all versions of *name* ever seen."""
        ...


class AnswersModelStatus(Protocol):
    """``ModelStatusHandler``, or what passes the question on to one in another process."""

    @property
    def is_quick(self) -> bool:
        """Whether an answer never waits for another process."""
        ...

    def get_model_status_message(self, request: bytes) -> bytes: ...


class ModelStatusHandler:
    """Answers GetModelStatus from what *monitor* knows; called on any thread, takes no handle.

    *waiting* returns, for a model, what its versions that are not complete yet wait for. They are
    shown in state START, with code OK and that reason as text; the C++ server never waits.
    """

    is_quick = True

    def __init__(self, monitor: KnownStates, waiting: Callable[[str], Mapping[int, str]]) -> None:
        self._monitor = monitor
        self._waiting = waiting

    def get_model_status_message(self, request: bytes) -> bytes:
        """Return the serialized GetModelStatusResponse to a serialized GetModelStatusRequest.

        Without a version every version ever seen is in it, highest first; a label is ignored.

        Raises:
            InternalError: *request* is not such a message; the text is empty.
            InvalidArgumentError: No model spec.
            NotFoundError: No such version, or no version at all, was ever seen.
        """
        try:
            message = messages.GetModelStatusRequest.FromString(request)
        except DecodeError as error:
            raise InternalError from error
        if not message.HasField("model_spec"):
            raise InvalidArgumentError("Missing ModelSpec")
        name, wanted, _, _ = model_spec_from_message(message.model_spec)
        waiting = self._waiting(name)
        if wanted is None:
            known = {state.id.version: state for state in self._monitor.states(name)}
            versions = sorted({*known, *waiting}, reverse=True)
            if not versions:
                raise NotFoundError(f"Could not find any versions of model {name}")
        else:
            state = self._monitor.state(ServableId(name, wanted))
            known = {} if state is None else {wanted: state}
            versions = [wanted]
            if state is None and wanted not in waiting:
                raise NotFoundError(f"Could not find version {wanted} of model {name}")
        response = messages.GetModelStatusResponse()
        for version in versions:
            _add_version(response, version, known.get(version), waiting.get(version))
        return bytes(response.SerializeToString())


def _add_version(
    response: messages.GetModelStatusResponse,
    version: int,
    state: ServableState | None,
    waits_for: str | None,
) -> None:
    entry = response.model_version_status.add()
    entry.version = version
    entry.status.SetInParent()
    if waits_for is not None and (state is None or state.state is ManagerState.END):
        entry.state = ManagerState.START.value
        entry.status.error_message = waits_for
    elif state is not None:
        entry.state = state.state.value
        if state.error is not None:
            entry.status.error_code = state.error.code.value
            entry.status.error_message = state.error.message
