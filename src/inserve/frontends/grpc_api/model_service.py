"""``tensorflow.serving.ModelService``: its methods, bytes in and bytes out."""

from __future__ import annotations

from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.handlers.model_status import AnswersModelStatus
from inserve.handlers.reload_config import ReloadConfigHandler

__all__ = ["model_service_methods"]

_SERVICE = "/tensorflow.serving.ModelService/"


def model_service_methods(
    model_status: AnswersModelStatus, reload_config: ReloadConfigHandler, *, allow_reload: bool
) -> MethodTable:
    """Return the service's methods by path.

    The client's remaining deadline bounds how long a reload waits for new models. Without
    *allow_reload* every reload is refused.
    """

    def get_model_status_method(request: bytes, context: CallContext) -> bytes:
        del context
        return model_status.get_model_status_message(request)

    def reload_config_method(request: bytes, context: CallContext) -> bytes:
        return reload_config.reload_config_message(
            request, context.remaining_s(), context.may_block, allow_reload
        )

    return {
        _SERVICE + "GetModelStatus": get_model_status_method,
        _SERVICE + "HandleReloadConfigRequest": reload_config_method,
    }
