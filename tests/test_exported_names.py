"""The public face is a list, and this is its second copy: a change of it is a decision."""

from __future__ import annotations

import inserve

NAMES = [
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


def test_the_package_exports_exactly_these_names() -> None:
    assert sorted(inserve.__all__) == sorted(NAMES)


def test_every_exported_name_exists() -> None:
    assert [name for name in inserve.__all__ if not hasattr(inserve, name)] == []
