"""``tensorflow.serving.SessionService``: its method, bytes in and bytes out."""

from __future__ import annotations

from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.handlers.session_run import SessionRunHandler

__all__ = ["session_service_methods"]


def session_service_methods(session_run: SessionRunHandler) -> MethodTable:
    """Return the service's method by path.

    The client's remaining deadline bounds the run.
    """

    def session_run_method(request: bytes, context: CallContext) -> bytes:
        return session_run.session_run_message(request, context.remaining_s(), context.may_block)

    return {"/tensorflow.serving.SessionService/SessionRun": session_run_method}
