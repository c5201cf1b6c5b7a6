"""TensorFlow Serving as a Python library: models served inside your own process.

Errors are here at once; the rest is imported when it is first used, so that a program which needs
only a part, or only ``--help``, does not wait for NumPy, protobuf and gRPC.
"""

import importlib
from typing import TYPE_CHECKING, Any

from inserve._version import __version__
from inserve.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    Code,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InserveError,
    InternalError,
    InvalidArgumentError,
    MissingExtraError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)

if TYPE_CHECKING:
    from inserve.batching.options import BatchingOptions
    from inserve.frontends.grpc_api.credentials import SslOptions
    from inserve.saved_model.signature import Signature, TensorSpec
    from inserve.server.model import Model, load
    from inserve.server.model_config import ModelConfig
    from inserve.server.model_server import Server
    from inserve.server.record_warmup import WarmupRecording, record_warmup
    from inserve.sources.remote_source import RemoteSourceOptions
    from inserve.sources.version_selection import All, Latest, Specific

__all__ = [
    "AbortedError",
    "All",
    "AlreadyExistsError",
    "BatchingOptions",
    "CancelledError",
    "Code",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InserveError",
    "InternalError",
    "InvalidArgumentError",
    "Latest",
    "MissingExtraError",
    "Model",
    "ModelConfig",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "RemoteSourceOptions",
    "ResourceExhaustedError",
    "Server",
    "Signature",
    "Specific",
    "SslOptions",
    "TensorSpec",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "WarmupRecording",
    "__version__",
    "load",
    "record_warmup",
]

_MODULE_BY_NAME = {
    "All": "inserve.sources.version_selection",
    "BatchingOptions": "inserve.batching.options",
    "Latest": "inserve.sources.version_selection",
    "Model": "inserve.server.model",
    "ModelConfig": "inserve.server.model_config",
    "RemoteSourceOptions": "inserve.sources.remote_source",
    "Server": "inserve.server.model_server",
    "Signature": "inserve.saved_model.signature",
    "Specific": "inserve.sources.version_selection",
    "SslOptions": "inserve.frontends.grpc_api.credentials",
    "TensorSpec": "inserve.saved_model.signature",
    "WarmupRecording": "inserve.server.record_warmup",
    "load": "inserve.server.model",
    "record_warmup": "inserve.server.record_warmup",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_BY_NAME[name]
    except KeyError:
        raise AttributeError(f"module 'inserve' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
