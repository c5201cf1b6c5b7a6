"""What a worker's server leaves to the process that launched it: whatever concerns all of them."""

from __future__ import annotations

from collections.abc import Callable

from inserve.lifecycle.servable_state import ServableState
from inserve.protos import messages
from inserve.server.workers.peer import Peer

__all__ = ["ParentLink"]

_ANSWER_LIMIT_S = 10.0
"""How long the parent may take to say how things stand."""


class ParentLink:
    """Asks the parent; any thread may call. *tell_state* is given each state that is published here.

    Raises ``UnavailableError`` from each question once the parent is gone.
    """

    def __init__(self, peer: Peer, tell_state: Callable[[ServableState], None]) -> None:
        self._peer = peer
        self.tell_state = tell_state

    def reload(self, config: messages.ModelServerConfig, timeout_s: float | None) -> None:
        """Have all processes serve *config*; as ``Server`` does it, raising what the parent raises."""
        self._peer.ask("reload", config.SerializeToString(), timeout_s)

    def get_model_status_message(self, request: bytes) -> bytes:
        """Return the serialized GetModelStatusResponse of all processes together."""
        response: bytes = self._peer.ask("model_status", request, timeout_s=_ANSWER_LIMIT_S)
        return response

    def metrics_page(self) -> bytes:
        """Return the page with the metrics of all processes added up."""
        page: bytes = self._peer.ask("metrics_page", timeout_s=_ANSWER_LIMIT_S)
        return page
