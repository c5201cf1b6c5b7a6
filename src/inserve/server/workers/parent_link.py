"""What a worker's server leaves to the process that launched it: whatever concerns all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from inserve.errors import InserveError
from inserve.frontends.grpc_api.method import CallContext, Method
from inserve.handlers.placement import WouldBlock
from inserve.lifecycle.servable_state import ServableState
from inserve.protos import messages
from inserve.server.models import Models
from inserve.server.workers.peer import Peer

__all__ = ["ParentLink", "off_receiving_thread"]

_ANSWER_LIMIT_S = 10.0
"""How long the parent may take to say how things stand."""


_logger = logging.getLogger("inserve.server")


class ParentLink:
    """Asks the parent; any thread may call. *tell_state* is given each state that is published here.

    *is_replacement*: the worker takes the place of one that served.

    Raises ``UnavailableError`` from each question once the parent is gone.
    """

    is_quick = False

    def __init__(
        self, peer: Peer, tell_state: Callable[[ServableState], None], is_replacement: bool = False
    ) -> None:
        self._peer = peer
        self.tell_state = tell_state
        self.is_replacement = is_replacement

    def wait_for_models(self, models: Models) -> None:
        """Return once those of *models* that answer at the parent answer here, or have failed to.

        One that fails is logged and tried again later: the others are served all the same.
        """
        for name in self._peer.ask("available_models", timeout_s=_ANSWER_LIMIT_S):
            _wait_for_model(models, name)

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


def off_receiving_thread(method: Method) -> Method:
    """Return *method* for a thread that may be held up: its answer comes from another process."""

    def call(request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        return method(request, context)

    return call


def _wait_for_model(models: Models, name: str) -> None:
    try:
        models.wait_until_available([name])
    except InserveError as error:
        _logger.warning("%s", error)
