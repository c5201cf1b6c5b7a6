"""Versions of one remote base path, kept in a local folder.

::

    <folder>/<child>/          a whole version; <child>/.inserve-files.jsonl says what was copied
    <folder>/<child>.partial/  a copy in progress, gone on with after an interruption
    <folder>/<child>.lock      shared while a process serves the version, exclusive while one changes it

Processes may share the folder. A version appears by one rename, after every file had the size, and where the
store gives one the checksum, that the store told.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import IO

from inserve.errors import DataLossError, ResourceExhaustedError, UnavailableError
from inserve.sources.remote_store import RemoteFile

__all__ = ["VersionCache"]

_RECORDS = ".inserve-files.jsonl"
_PARTIAL, _LOCK, _DISCARDED = ".partial", ".lock", ".discarded"
_PIECE_BYTES = 1 << 20
_LOCK_ATTEMPTS = 10
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class _Record:
    """A file that was copied: what the store said of it, and how the copy looked."""

    path: str
    tag: str | None
    size: int
    mtime_ns: int
    sha256: str


class VersionCache:
    """Cached versions below *folder*. Used by one thread.

    *copy(file, target)* copies a remote file to a local path.
    """

    def __init__(self, folder: str, copy: Callable[[RemoteFile, str], None]) -> None:
        self._folder = folder
        self._copy = copy
        self._locks: dict[str, IO[bytes]] = {}

    def __repr__(self) -> str:
        return f"<VersionCache [{self._folder}, {len(self._locks)} in use]>"

    def path(self, child: str) -> str:
        """Return where *child* lies when it is here."""
        return os.path.join(self._folder, child)

    def fetch(self, child: str, files: Mapping[str, RemoteFile], relist: Callable[[], object]) -> str:
        """Return the local path of *child*, whose remote files are *files*, and keep it from eviction.

        Copies what is not here or differs, checking each file. *relist* returns the remote files once more
        when all are copied: a version that changed meanwhile is not taken.

        Raises:
            DataLossError: a file did not have the size or checksum that the store told.
            ResourceExhaustedError: the disk is full.
            UnavailableError: another process has it, or the version changed while it was copied.
            InserveError: what *copy* and *relist* raise.
        """
        target = self.path(child)
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._hold(child, fcntl.LOCK_SH)
            if not self._is_intact(target, files):
                self._hold(child, fcntl.LOCK_EX)
                self._fill(child, files)
                self._publish(child, relist() == files)
                self._hold(child, fcntl.LOCK_SH)
        except OSError as error:
            self.release(child)
            raise self._failed(child, error) from error
        except BaseException:
            self.release(child)
            raise
        return target

    def held(self) -> list[str]:
        """Return the versions kept from eviction."""
        return list(self._locks)

    def release(self, child: str) -> None:
        """Let *child* be evicted. Idempotent."""
        lock = self._locks.pop(child, None)
        if lock is not None:
            lock.close()

    def evict(self, kept: Collection[str], spare: int) -> list[str]:
        """Delete versions other than those *kept*, except the *spare* ones used last; return their names.

        Versions that another process serves stay.
        """
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        children = {name.removesuffix(_LOCK) for name in names if name.endswith(_LOCK)} - set(kept)
        whole = sorted((child for child in children if child in names), key=self._last_use, reverse=True)
        evicted = []
        for child in sorted(children.difference(whole[:spare])):
            try:
                self._hold(child, fcntl.LOCK_EX)
            except UnavailableError:
                continue
            for name in (child, child + _PARTIAL, child + _DISCARDED):
                shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, child + _LOCK))
            self.release(child)
            evicted.append(child)
        return evicted

    def _last_use(self, child: str) -> float:
        return os.stat(os.path.join(self._folder, child + _LOCK)).st_mtime

    def _hold(self, child: str, kind: int) -> None:
        """Lock *child* in this way, changing the lock already held.

        Raises:
            UnavailableError: another process holds it.
        """
        path = os.path.join(self._folder, child + _LOCK)
        for _ in range(_LOCK_ATTEMPTS):
            lock = self._locks.get(child)
            if lock is None:
                lock = self._locks[child] = open(path, "ab")  # noqa: SIM115
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release(child)
                raise UnavailableError(
                    f"another process copies or serves {path.removesuffix(_LOCK)}"
                ) from None
            # The file may have been evicted between opening and locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                    os.utime(path)
                    return
            self.release(child)
        raise UnavailableError(f"another process keeps evicting {path.removesuffix(_LOCK)}")

    def _is_intact(self, directory: str, files: Mapping[str, RemoteFile]) -> bool:
        records = _read_records(directory)
        return all(_is_good(directory, records.get(name), file) for name, file in files.items())

    def _fill(self, child: str, files: Mapping[str, RemoteFile]) -> None:
        """Make the partial folder hold every one of *files*, checked."""
        whole, partial = self.path(child), self.path(child) + _PARTIAL
        os.makedirs(partial, exist_ok=True)
        here, before = _read_records(partial), _read_records(whole)
        _remove_others(partial, files)
        kept: list[_Record] = []
        needed: list[str] = []
        for name, file in sorted(files.items()):
            copied, old = here.get(name), before.get(name)
            if copied is not None and _is_good(partial, copied, file):
                kept.append(copied)
            elif old is not None and _is_good(whole, old, file):
                shutil.copy2(os.path.join(whole, name), _place(partial, name))
                kept.append(old)
            else:
                needed.append(name)
        with open(os.path.join(partial, _RECORDS), "w", encoding="utf-8") as records:
            records.writelines(map(_line, kept))
        missing_bytes = sum(files[name].size or 0 for name in needed)
        free_bytes = shutil.disk_usage(self._folder).free
        if missing_bytes > free_bytes:
            raise ResourceExhaustedError(
                f"disk full: version {child} needs {missing_bytes} bytes more in {self._folder}, "
                f"{free_bytes} are free"
            )
        for name in needed:
            self._copy_checked(child, files[name], partial, name)

    def _copy_checked(self, child: str, file: RemoteFile, partial: str, name: str) -> None:
        target = _place(partial, name)
        self._copy(file, target)
        algorithm = file.checksum.algorithm if file.checksum is not None else "sha256"
        sha256, digest = _digests(target, algorithm)
        status = os.stat(target)
        problem = None
        if file.size is not None and status.st_size != file.size:
            problem = f"{status.st_size} bytes, expected {file.size}"
        elif file.checksum is not None and digest != file.checksum.digest:
            problem = f"{algorithm} {digest}, expected {file.checksum.digest}"
        if problem is not None:
            os.unlink(target)
            raise DataLossError(f"the copy of {child}/{name} has {problem}")
        _add_record(partial, _Record(name, file.tag, status.st_size, status.st_mtime_ns, sha256))

    def _publish(self, child: str, unchanged: bool) -> None:
        if not unchanged:
            raise UnavailableError(f"version {child} changed while it was copied")
        target = self.path(child)
        discarded = target + _DISCARDED
        shutil.rmtree(discarded, ignore_errors=True)
        if os.path.exists(target):
            os.rename(target, discarded)
        os.rename(target + _PARTIAL, target)
        shutil.rmtree(discarded, ignore_errors=True)

    def _failed(self, child: str, error: OSError) -> ResourceExhaustedError | UnavailableError:
        if error.errno in _DISK_FULL:
            return ResourceExhaustedError(f"disk full: could not keep version {child} in {self._folder}")
        return UnavailableError(
            f"could not keep version {child} in {self._folder}: {error.strerror or error}"
        )


def _is_good(directory: str, record: _Record | None, file: RemoteFile) -> bool:
    """Return whether the copy that *record* tells of is there, unchanged, and still what the store has."""
    if record is None or record.tag != file.tag or file.size not in (None, record.size):
        return False
    path = os.path.join(directory, record.path)
    try:
        status = os.stat(path)
        if status.st_size != record.size:
            return False
        return status.st_mtime_ns == record.mtime_ns or _digests(path, "sha256")[0] == record.sha256
    except OSError:
        return False


def _digests(path: str, algorithm: str) -> tuple[str, str]:
    """Return the SHA-256 and the *algorithm* hash of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    other = sha256 if algorithm == "sha256" else hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            sha256.update(piece)
            if other is not sha256:
                other.update(piece)
    return sha256.hexdigest(), other.hexdigest()


def _place(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _remove_others(directory: str, kept: Collection[str]) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, directory)
            if relative != _RECORDS and relative not in kept:
                os.unlink(path)


def _add_record(directory: str, record: _Record) -> None:
    with open(os.path.join(directory, _RECORDS), "a", encoding="utf-8") as records:
        records.write(_line(record))


def _line(record: _Record) -> str:
    return json.dumps(asdict(record)) + "\n"


def _read_records(directory: str) -> dict[str, _Record]:
    """Return the records of *directory* by path; a line that was not finished ends them."""
    records: dict[str, _Record] = {}
    try:
        with open(os.path.join(directory, _RECORDS), encoding="utf-8") as file:
            for line in file:
                record = _Record(**json.loads(line))
                records[record.path] = record
    except (OSError, TypeError, ValueError):
        return records
    return records
