"""Request targets: which are well-formed, and what the ones below ``/v1/`` ask for.

Sources: TensorFlow Serving, ``model_servers/http_rest_api_handler.cc`` for the patterns, and RFC 3986 as
libevent applies it. A query or fragment is part of what the patterns see, as in the C++ server.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

__all__ = [
    "InferenceTarget",
    "ModelTarget",
    "Target",
    "VersionTooLargeError",
    "inference_target",
    "model_target",
    "openapi_target",
    "parse_target",
]

_MAX_VERSION = 2**63 - 1
_MAX_VERSION_DIGITS = 19

_PCHAR = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})"
_QCHAR = _PCHAR.replace(b"@/", b"@/?")
_REGNAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})"
_TARGET = re.compile(
    rb"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):)?"
    rb"(?P<authority>//(?:(?:"
    + _REGNAME
    + rb"|:)*@)?(?:\[[0-9A-Fa-f:.]*\]|"
    + _REGNAME
    + rb"*)(?::[0-9]*)?)?"
    rb"(?P<rest>(?P<path>" + _PCHAR + rb"*)(?:\?" + _QCHAR + rb"*)?(?:#" + _QCHAR + rb"*)?)"
)

_VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE
)
_MODEL = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?:/(?P<part>metadata))?", re.IGNORECASE
)
_OPENAPI = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}/openapi\.json", re.IGNORECASE)


class VersionTooLargeError(Exception):
    """A version in a target does not fit 64 bits."""


class Target(NamedTuple):
    """A well-formed request target without its scheme and authority."""

    path: str
    full: str
    """The path with its query and fragment."""

    def signature_name(self) -> str | None:
        """Return the value of the query ``signature_name=``, empty without a query, None for another one."""
        rest = self.full[len(self.path) :]
        if not rest:
            return ""
        name, separator, value = rest.partition("=")
        if name != "?signature_name" or not separator or "&" in value or "#" in value:
            return None
        return _decoded(value)


class ModelTarget(NamedTuple):
    """A model, percent-decoded; *version* and *label* exclude each other. *name* is empty if absent.

    Bytes that are no UTF-8 stand in the names as surrogate escapes.
    """

    name: str
    version: int | None
    label: str | None
    wants_metadata: bool = False


class InferenceTarget(NamedTuple):
    """A model and what to do with it."""

    model: ModelTarget
    verb: str
    """As it was written: only lower case means something."""


def parse_target(target: bytes) -> Target | None:
    """Return *target* in its parts, None where it is not well-formed."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return None
    path = match["path"]
    if match["scheme"] is None and match["authority"] is None and b":" in path.partition(b"/")[0]:
        return None
    return Target(path.decode("ascii"), match["rest"].decode("ascii"))


def inference_target(full: str) -> InferenceTarget | None:
    """Return the model and verb of a POST target, None where it has another form.

    Raises:
        VersionTooLargeError: The version does not fit 64 bits.
    """
    match = _INFERENCE.fullmatch(full)
    return None if match is None else InferenceTarget(_model_of(match), match["verb"])


def model_target(full: str) -> ModelTarget | None:
    """Return the model of a GET target, None where it has another form.

    Raises:
        VersionTooLargeError: The version does not fit 64 bits.
    """
    match = _MODEL.fullmatch(full)
    return None if match is None else _model_of(match)._replace(wants_metadata=match["part"] == "metadata")


def openapi_target(full: str) -> ModelTarget | None:
    """Return the model whose description a GET target asks for, None where it has another form.

    Raises:
        VersionTooLargeError: The version does not fit 64 bits.
    """
    match = _OPENAPI.fullmatch(full)
    return None if match is None else _model_of(match)


def _model_of(match: re.Match[str]) -> ModelTarget:
    name, version, label = match["name"], match["version"], match["label"]
    number = None
    if version is not None:
        digits = version.lstrip("0") or "0"
        if len(digits) > _MAX_VERSION_DIGITS or (number := int(digits)) > _MAX_VERSION:
            raise VersionTooLargeError
    return ModelTarget(_decoded(name or ""), number, None if label is None else _decoded(label))


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape") if "%" in text else text
