"""Model stores behind URLs, through fsspec: list versions and their files, copy a file.

fsspec, and the package of the store's scheme, are imported when a store is opened. Nothing that is raised or
logged shows the user, password or query of a URL.
"""

from __future__ import annotations

import base64
import binascii
import errno
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

from inserve.errors import (
    CancelledError,
    InserveError,
    InvalidArgumentError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from inserve.sources.base_path import redacted

__all__ = ["Checksum", "RemoteFile", "RemoteStore", "require_fsspec"]

_MOST_FILES = 100_000
_TAG_KEYS = (
    "ETag",
    "etag",
    "generation",
    "blob_id",
    "version_id",
    "LastModified",
    "mtime",
    "updated",
    "created",
)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Checksum(NamedTuple):
    """A hash of a file's content: *algorithm* as ``hashlib`` names it, *digest* in hexadecimal."""

    algorithm: str
    digest: str


class RemoteFile(NamedTuple):
    """One file of a version. *location* is the store's own name of it.

    *size* in bytes, *tag* (differs when the content does) and *checksum* are None where the store gives none.
    """

    location: str
    size: int | None
    tag: str | None
    checksum: Checksum | None


def require_fsspec() -> None:
    """Check that remote stores can be used at all.

    Raises:
        MissingExtraError: fsspec is not installed.
    """
    try:
        importlib.import_module("fsspec")
    except ImportError as error:
        raise MissingExtraError("Remote model stores need fsspec: pip install 'inserve[remote]'") from error


class RemoteStore:
    """The versions below one URL. Methods block on the network; used by one thread.

    *storage_options* are those of the fsspec file system of the scheme. Every method raises NotFoundError,
    PermissionDeniedError or UnavailableError for what the store answers.

    Raises:
        MissingExtraError: fsspec or the package of the scheme is not installed.
        InvalidArgumentError: nothing serves the scheme.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        require_fsspec()
        fsspec = importlib.import_module("fsspec")
        self.name = redacted(url)
        scheme = url.partition("://")[0]
        try:
            self._filesystem, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        except ImportError as error:
            raise MissingExtraError(
                f"{self.name}: the store {scheme}:// needs another package: {redacted(str(error))}"
            ) from error
        except ValueError as error:
            raise InvalidArgumentError(
                f"File system scheme '{scheme}' not implemented (file: '{self.name}'): {redacted(str(error))}"
            ) from error
        self._root = str(root).rstrip("/")
        self._quoted = scheme.lower() in ("http", "https")

    def __repr__(self) -> str:
        return f"<RemoteStore [{self.name}]>"

    def children(self) -> list[str]:
        """Return the names directly below the URL, in order.

        Raises:
            NotFoundError: there is nothing at the URL.
        """
        with self._translated("list"):
            self._filesystem.invalidate_cache()
            locations = self._filesystem.ls(self._root + "/" if self._quoted else self._root, detail=False)
            names = {self._relative(location, self._root).split("/", 1)[0] for location in locations}
        return sorted(name for name in names if _is_plain(name))

    def files(self, child: str) -> dict[str, RemoteFile]:
        """Return the files below *child* by their path relative to it.

        Raises:
            InvalidArgumentError: there are more than 100,000 files, or one would lie outside.
            NotFoundError: there is no such child.
        """
        base = f"{self._root}/{child}"
        found: dict[str, RemoteFile] = {}
        with self._translated(f"list {child} of"):
            self._filesystem.invalidate_cache()
            listing: dict[str, dict[str, Any]] = self._filesystem.find(base, detail=True)
            if len(listing) > _MOST_FILES:
                raise InvalidArgumentError(
                    f"{self.name}/{child} has {len(listing)} files, expected at most {_MOST_FILES}"
                )
            for location, listed in listing.items():
                relative = self._relative(location, base)
                if not relative or location.endswith("/") or listed.get("type") == "directory":
                    continue
                if self._quoted:
                    relative = unquote(relative)
                if not all(map(_is_plain, relative.split("/"))):
                    raise InvalidArgumentError(f"{self.name}/{child} has a file with the path {relative!r}")
                info = listed if listed.get("size") is not None else self._filesystem.info(location)
                size = info.get("size")
                found[relative] = RemoteFile(
                    location, None if size is None else int(size), _tag(info), _checksum(info)
                )
        if not found:
            raise NotFoundError(f"{self.name}/{child} has no files")
        return found

    def copy(self, file: RemoteFile, target: str, cancelled: Callable[[], bool]) -> None:
        """Copy *file* to the local path *target*, whose directory exists.

        *cancelled* is asked after each piece.

        Raises:
            CancelledError: *cancelled* said so.
            ResourceExhaustedError: the local disk is full.
        """
        with self._translated("copy from"):
            self._filesystem.get_file(file.location, target, callback=_cancelling_callback(cancelled))

    def _relative(self, location: str, base: str) -> str:
        location = str(location)
        if location.startswith(base):
            return location[len(base) :].strip("/")
        return location.rstrip("/").lstrip("/").removeprefix(base.lstrip("/")).strip("/")

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Turn what a store raises, which may be anything, into our errors."""
        try:
            yield
        except InserveError:
            raise
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.name} not found") from error
        except PermissionError as error:
            raise PermissionDeniedError(f"could not {action} {self.name}: {redacted(str(error))}") from None
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise ResourceExhaustedError(f"disk full: could not {action} {self.name}") from error
            raise self._unavailable(action, error) from None
        except Exception as error:
            raise self._unavailable(action, error) from None

    def _unavailable(self, action: str, error: Exception) -> UnavailableError:
        text = redacted(str(error)) or "no reason given"
        return UnavailableError(f"could not {action} {self.name}: {type(error).__name__}: {text}")


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _tag(info: Mapping[str, Any]) -> str | None:
    return next((str(info[key]) for key in _TAG_KEYS if info.get(key) is not None), None)


def _checksum(info: Mapping[str, Any]) -> Checksum | None:
    """Return the hash that the store keeps: Google Cloud Storage, Azure, Hugging Face.

    The ETag of S3 is left out: it is an MD5 for some ways of uploading and encrypting only.
    """
    if info.get("md5Hash"):
        return Checksum("md5", _hex(info["md5Hash"]))
    settings = info.get("content_settings")
    if isinstance(settings, Mapping) and settings.get("content_md5"):
        return Checksum("md5", _hex(settings["content_md5"]))
    lfs = info.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    return Checksum("sha256", str(sha256)) if sha256 else None


def _hex(digest: str | bytes | bytearray) -> str:
    raw = base64.b64decode(digest) if isinstance(digest, str) else bytes(digest)
    return binascii.hexlify(raw).decode()


def _cancelling_callback(cancelled: Callable[[], bool]) -> Any:
    """Return an fsspec callback that raises between two pieces once *cancelled* says so."""
    callbacks = importlib.import_module("fsspec.callbacks")

    class Cancelling(callbacks.Callback):  # type: ignore[name-defined,misc]
        def call(self, hook_name: str | None = None, **kwargs: Any) -> None:  # noqa: ARG002
            if cancelled():
                raise CancelledError("the copy was cancelled")

    return Cancelling()
