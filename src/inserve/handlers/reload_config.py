"""HandleReloadConfigRequest: another list of models from now on.

Behaviour: TensorFlow Serving, ``model_servers/model_service_impl.cc`` and ``server_core.cc``.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from inserve.errors import InternalError, InvalidArgumentError, PermissionDeniedError
from inserve.handlers.placement import WouldBlock
from inserve.protos import messages

__all__ = ["ReloadConfigHandler"]


class ReloadConfigHandler:
    """Answers HandleReloadConfigRequest; called on any thread.

    *apply* is given the new config and the seconds it may take (None: no limit). It returns once
    every new model has a version that answers, and raises when one does not. *counter* returns the
    value of the metric with this registry name, 0 for a name it does not know.
    """

    def __init__(
        self,
        apply: Callable[[messages.ModelServerConfig, float | None], None],
        counter: Callable[[str], int],
    ) -> None:
        self._apply = apply
        self._counter = counter

    def reload_config_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, is_allowed: bool
    ) -> bytes:
        """Return the serialized ReloadConfigResponse to a serialized ReloadConfigRequest.

        The answer has, for each of ``metric_names``, how much it grew meanwhile. *is_allowed* says
        whether this caller may change the models at all.

        Raises:
            InternalError: *request* is not such a message; the text is empty.
            PermissionDeniedError: Not *is_allowed*.
            InvalidArgumentError: The config is not a list of models, or not a good one.
            WouldBlock: Not *may_block*.
            InserveError: What *apply* raised.
        """
        if not is_allowed:
            raise PermissionDeniedError(
                "this server does not let remote callers change its models; it was started without "
                "allow_remote_reload=True (inserve serve --allow_remote_reload)"
            )
        try:
            message = messages.ReloadConfigRequest.FromString(request)
        except DecodeError as error:
            raise InternalError from error
        if message.config.WhichOneof("config") != "model_config_list":
            raise InvalidArgumentError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        if not may_block:
            raise WouldBlock
        names = list(dict.fromkeys(message.metric_names))
        before = {name: self._counter(name) for name in names}
        self._apply(message.config, timeout_s)
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        for name in names:
            metric = response.metric.add()
            metric.name = name
            metric.int64_value_increase = self._counter(name) - before[name]
        return bytes(response.SerializeToString())
