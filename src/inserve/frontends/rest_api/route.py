"""What answers the requests with one target, and the contracts it is built on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeAlias

from inserve.frontends.rest_api.response import Response
from inserve.handlers.model_spec import ModelSpec
from inserve.metrics.request_record import RequestRecord

__all__ = [
    "LONGEST_INLINE_BYTES",
    "LONGEST_UNSENT_S",
    "Answer",
    "FixedRoute",
    "ModelDirectory",
    "Pool",
    "RequestKey",
    "Rest",
    "Route",
    "SignatureInfo",
    "TensorInfo",
]

LONGEST_INLINE_BYTES = 256 << 10
"""A larger body, and larger outputs, are read and written by the pool: it takes the event loop too long."""

LONGEST_UNSENT_S = 2e-3
"""For so long answers are kept until they are sent together."""

Rest: TypeAlias = Callable[["RequestRecord | None"], Response]
"""What is left to do of a request, for a thread that may be held up; gets a fresh record."""

Answer: TypeAlias = Response | Rest
"""An answer, or what is left to do to get it."""


class RequestKey(NamedTuple):
    """What of a request decides its route. Header values are empty if absent."""

    method: str
    target: bytes
    """As it stands in the request line."""
    content_type: bytes = b""
    content_encoding: bytes = b""
    accept: bytes = b""
    origin: bytes = b""


class Pool(Protocol):
    """Threads for what takes long."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Return the future of ``fn(*args)``.

        Raises:
            ResourceExhaustedError: As much is waiting as may wait.
        """
        ...


class TensorInfo(Protocol):
    """An input or output of a signature, as ``inserve.saved_model.signature.TensorSpec``."""

    @property
    def tensor_name(self) -> str: ...

    @property
    def data_type(self) -> int: ...

    @property
    def shape(self) -> tuple[int | None, ...] | None: ...

    @property
    def dtype(self) -> Any: ...


class SignatureInfo(Protocol):
    """A signature, as ``inserve.saved_model.signature.Signature``."""

    @property
    def key(self) -> str: ...

    @property
    def method_name(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorInfo]: ...

    @property
    def input_types(self) -> Mapping[str, int]: ...

    @property
    def outputs(self) -> Mapping[str, TensorInfo]: ...


class ModelDirectory(Protocol):
    """Which models there are; any thread may ask."""

    def names(self) -> Sequence[str]:
        """Return the names of the configured models."""
        ...

    def signatures(self, spec: ModelSpec) -> tuple[int, Mapping[str, SignatureInfo]]:
        """Return the version that *spec* names, and its signatures.

        Raises:
            InserveError: As for a Predict with *spec*.
        """
        ...


class Route(Protocol):
    """Answers the requests with one method, target and choice of headers; any thread may call."""

    @property
    def is_rest(self) -> bool:
        """Whether this is the REST API, which is counted and has CORS headers."""
        ...

    @property
    def model_name(self) -> str:
        """The model named in the target, empty if there is none."""
        ...

    @property
    def api(self) -> str:
        """``predict``, ``classify``, ``regress``, or empty."""
        ...

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        """Answer without holding up this thread; *record* learns what becomes known of the request.

        Raises:
            InserveError: The request failed.
        """
        ...


class FixedRoute:
    """Gives one answer to every request."""

    model_name = ""
    api = ""

    def __init__(self, response: Response, is_rest: bool = True) -> None:
        self.is_rest = is_rest
        self._response = response

    def answer(self, body: bytes, record: RequestRecord | None) -> Response:
        del body, record
        return self._response
