"""Remembers tunings between processes: one small file for each model, machine and version of TensorFlow.

Nothing depends on it: what cannot be read is measured again, what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from pathlib import Path

from inserve.errors import InserveError
from inserve.saved_model.tuning import Tuning, tuning_from_dict, tuning_to_dict
from inserve.saved_model.warmup import warmup_file
from inserve.tensorflow_c.library import find_library

__all__ = ["MAX_ENTRIES", "TuningCache", "default_cache_dir", "machine_text", "model_digest"]

MAX_ENTRIES = 512
"""Beyond so many the entries that were used longest ago are removed."""

_FORMAT = "4"
_CHOICES = ("TF_ENABLE_ONEDNN_OPTS", "TF_MKL", "ONEDNN_", "DNNL_", "MKL_")
"""First letters of variables by which people choose kernels."""
_MAX_ENTRY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20

_LOGGER = logging.getLogger("inserve.saved_model")


def default_cache_dir() -> str:
    """Return inserve's own folder: ``INSERVE_CACHE_DIR``, else one in the user's cache."""
    own = os.environ.get("INSERVE_CACHE_DIR")
    if own:
        return own
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "inserve")


class TuningCache:
    """The tunings in the folder *folder*, which need not exist; any number of processes may share it."""

    def __init__(self, folder: str, max_entries: int = MAX_ENTRIES) -> None:
        self._folder = Path(folder)
        self._max_entries = max_entries

    def get(self, key: str) -> Tuning | None:
        """Return what was put under *key*, or None."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_ENTRY_BYTES)
            tuning = tuning_from_dict(json.loads(data))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            _LOGGER.debug("the tuning in %s is not used: %s", path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return tuning

    def put(self, key: str, tuning: Tuning) -> None:
        """Keep *tuning* under *key*; another process sees all of it or nothing."""
        path = self._path(key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=self._folder)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(tuning_to_dict(tuning), file)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            self._remove_oldest()
        except OSError as error:
            _LOGGER.debug("the tuning is not kept in %s: %s", path, error)

    def _remove_oldest(self) -> None:
        entries = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):
                entries.append((entry.stat().st_mtime_ns, entry.path))
        for _, path in sorted(entries)[: max(0, len(entries) - self._max_entries)]:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def model_digest(path: str) -> str:
    """Return a text that is the same for copies of the SavedModel in *path*, and differs for others.

    It is made of ``fingerprint.pb``, or for older models of the graph and the variables' index, and of
    the size of recorded warm-up requests, because runs are measured on those.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    names = ["fingerprint.pb"]
    if not os.path.exists(os.path.join(path, names[0])):
        names = ["saved_model.pb", "saved_model.pbtxt", os.path.join("variables", "variables.index")]
    for name in names:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(path, name), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        digest.update(b"\0")
    with contextlib.suppress(FileNotFoundError):
        digest.update(str(os.path.getsize(warmup_file(path))).encode())
    return digest.hexdigest()


def machine_text() -> str:
    """Return what figures depend on beside the model: the processor and the TensorFlow installed."""
    try:
        library = find_library().cc
        file = library.stat()
        tensorflow = f"{library} {file.st_size} {file.st_mtime_ns}"
    except (InserveError, OSError):
        tensorflow = "none"
    kernels = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_CHOICES)]
    return "|".join((_FORMAT, _processor(), tensorflow, *kernels))


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, separator, value = line.partition(":")
            if separator and name.strip() == "model name":
                return value.strip()
    return f"{platform.machine()} {platform.processor()}"
