"""Base paths: local directories, or URLs of remote stores."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

__all__ = ["absolute_base_path", "is_remote", "is_uri", "redacted"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USER_INFO = re.compile(r"(://)[^/@\s]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\")]*")


def is_uri(base_path: str) -> bool:
    """Return whether *base_path* starts with a scheme, ``gs://`` for instance."""
    return _SCHEME.match(base_path) is not None


def is_remote(base_path: str) -> bool:
    """Return whether *base_path* is a URL of anything but this machine's files."""
    return is_uri(base_path) and not base_path.lower().startswith("file://")


def absolute_base_path(path: str | os.PathLike[str]) -> str:
    """Return *path* as sources take it: an absolute local path, or a remote URL as it is.

    A relative path is relative to the working directory, ``~`` is the user's home, and ``file://`` is local.

    Raises:
        ValueError: it is empty, or a ``file://`` URL of another machine.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a base path is text or a path, got {path!r}")
    if not text:
        raise ValueError("a base path must not be empty")
    if is_remote(text):
        return text
    if is_uri(text):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ValueError(f"a file:// base path has the form file:///absolute/path, got {text}")
        text = unquote(parts.path)
    return os.path.abspath(os.path.expanduser(text))


def redacted(text: str) -> str:
    """Return *text* without what URLs in it may give away: user names, passwords, queries (signatures)."""
    return _QUERY.sub(r"\1?…", _USER_INFO.sub(r"\1", text))
