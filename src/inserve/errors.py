"""Errors of inserve, one class per canonical status code.

::

    InserveError                     .code, the canonical code
    ├── CancelledError               CANCELLED            1
    ├── UnknownError                 UNKNOWN              2
    ├── InvalidArgumentError         INVALID_ARGUMENT     3
    ├── DeadlineExceededError        DEADLINE_EXCEEDED    4
    ├── NotFoundError                NOT_FOUND            5
    ├── AlreadyExistsError           ALREADY_EXISTS       6
    ├── PermissionDeniedError        PERMISSION_DENIED    7
    ├── ResourceExhaustedError       RESOURCE_EXHAUSTED   8
    ├── FailedPreconditionError      FAILED_PRECONDITION  9
    │   └── MissingExtraError        an optional package is not installed
    ├── AbortedError                 ABORTED             10
    ├── OutOfRangeError              OUT_OF_RANGE        11
    ├── UnimplementedError           UNIMPLEMENTED       12
    ├── InternalError                INTERNAL            13
    ├── UnavailableError             UNAVAILABLE         14
    ├── DataLossError                DATA_LOSS           15
    └── UnauthenticatedError         UNAUTHENTICATED     16

A mistake in the arguments of a Python call (an option out of range, a wrong type) is a
``ValueError`` or ``TypeError`` instead. Front-ends translate ``code``; nothing here knows a transport.
"""

from __future__ import annotations

import enum

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "Code",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InserveError",
    "InternalError",
    "InvalidArgumentError",
    "MissingExtraError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "error_from_code",
]


class Code(enum.IntEnum):
    """Canonical status codes (``absl::StatusCode``, ``google.rpc.Code``)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class InserveError(Exception):
    """Base of every error of this library; ``code`` is the canonical code of its class."""

    code: Code = Code.UNKNOWN
    message_bytes: bytes | None = None
    """What the text was made of where that is not UTF-8, None elsewhere."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message
        """The text alone, as a remote caller gets it."""


class CancelledError(InserveError):
    code = Code.CANCELLED


class UnknownError(InserveError):
    code = Code.UNKNOWN


class InvalidArgumentError(InserveError):
    code = Code.INVALID_ARGUMENT


class DeadlineExceededError(InserveError):
    code = Code.DEADLINE_EXCEEDED


class NotFoundError(InserveError):
    code = Code.NOT_FOUND


class AlreadyExistsError(InserveError):
    code = Code.ALREADY_EXISTS


class PermissionDeniedError(InserveError):
    code = Code.PERMISSION_DENIED


class ResourceExhaustedError(InserveError):
    code = Code.RESOURCE_EXHAUSTED


class FailedPreconditionError(InserveError):
    code = Code.FAILED_PRECONDITION


class MissingExtraError(FailedPreconditionError, ImportError):
    """An optional package is not installed; the text names the extra that brings it."""


class AbortedError(InserveError):
    code = Code.ABORTED


class OutOfRangeError(InserveError):
    code = Code.OUT_OF_RANGE


class UnimplementedError(InserveError):
    code = Code.UNIMPLEMENTED


class InternalError(InserveError):
    code = Code.INTERNAL


class UnavailableError(InserveError):
    code = Code.UNAVAILABLE


class DataLossError(InserveError):
    code = Code.DATA_LOSS


class UnauthenticatedError(InserveError):
    code = Code.UNAUTHENTICATED


_CLASS_BY_CODE: dict[int, type[InserveError]] = {
    error.code.value: error
    for error in (
        CancelledError,
        UnknownError,
        InvalidArgumentError,
        DeadlineExceededError,
        NotFoundError,
        AlreadyExistsError,
        PermissionDeniedError,
        ResourceExhaustedError,
        FailedPreconditionError,
        AbortedError,
        OutOfRangeError,
        UnimplementedError,
        InternalError,
        UnavailableError,
        DataLossError,
        UnauthenticatedError,
    )
}


def error_from_code(code: int, message: str) -> InserveError:
    """Return the error of a canonical *code*; codes outside 1 to 16 become ``UnknownError``."""
    return _CLASS_BY_CODE.get(code, UnknownError)(message)
