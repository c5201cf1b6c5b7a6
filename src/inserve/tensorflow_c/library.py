"""TensorFlow's C library: found without importing TensorFlow, opened once per process.

Importing this module opens nothing. The two shared libraries lie beside the installed package
``tensorflow``; a process may import that package before or after, and shares one runtime with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from inserve.errors import FailedPreconditionError, MissingExtraError
from inserve.tensorflow_c import log
from inserve.tensorflow_c.declarations import ffi
from inserve.tensorflow_c.opening_lines import collected_opening_lines

__all__ = ["MINIMUM_VERSION", "Library", "LibraryPaths", "check_version", "find_library", "load_library"]

MINIMUM_VERSION = (2, 20)
"""The oldest TensorFlow, (major, minor), that is accepted."""

_EXTRAS = "pip install 'inserve[cpu]', 'inserve[tensorflow]' or 'inserve[gpu]' (only one of them)"


class LibraryPaths(NamedTuple):
    """Where the two shared libraries are; *framework* has to be opened first."""

    framework: Path
    cc: Path


class Library(NamedTuple):
    """The open library. Functions of both files are attributes of ``lib``; call them from any thread."""

    ffi: Any
    lib: Any
    version: str
    """What ``TF_Version`` says, such as ``2.21.0``."""
    paths: LibraryPaths


_lock = threading.Lock()
_library: Library | None = None


def find_library() -> LibraryPaths:
    """Return the paths of TensorFlow's shared libraries; neither imports nor opens anything.

    Raises:
        MissingExtraError: No package ``tensorflow`` is installed.
        FailedPreconditionError: There is one, without the libraries: too old or damaged.
    """
    folder = _package_folder()
    if folder is None:
        raise MissingExtraError(f"TensorFlow is not installed: {_EXTRAS}")
    suffix = ".2.dylib" if sys.platform == "darwin" else ".so.2"
    paths = LibraryPaths(
        folder / f"libtensorflow_framework{suffix}",
        folder / f"libtensorflow_cc{suffix}",
    )
    for path in paths:
        if not path.is_file():
            raise FailedPreconditionError(
                f"the TensorFlow installed in {folder} has no {path.name}: "
                f"expected version {_text(MINIMUM_VERSION)} or newer, complete; {_EXTRAS}"
            )
    return paths


def load_library() -> Library:
    """Return the open library, opening it at the first call; later calls cost a lock.

    TensorFlow's log lines go to the logger ``inserve.tensorflow`` from here on (``log``). The
    library stays open until the process ends: closing it while its threads run would crash.

    Raises:
        MissingExtraError: No package ``tensorflow`` is installed.
        FailedPreconditionError: TensorFlow is too old, or its library cannot be opened.
    """
    global _library
    with _lock:
        if _library is None:
            _library = _open(find_library())
        return _library


def check_version(version: str) -> None:
    """Return if *version*, ``major.minor.patch``, is supported.

    Raises:
        FailedPreconditionError: It is below ``MINIMUM_VERSION``, or cannot be read.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < MINIMUM_VERSION:
        raise FailedPreconditionError(
            f"TensorFlow {version} is installed, expected {_text(MINIMUM_VERSION)} or newer: {_EXTRAS}"
        )


def _open(paths: LibraryPaths) -> Library:
    # RTLD_LOCAL: the framework exports its own copy of SSL, and the system's, bound to it by a later
    # ``import hashlib``, would crash. RTLD_NODELETE: unloading the library at exit, under its own
    # threads, ends in SIGSEGV.
    flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)
    try:
        with collected_opening_lines() if log.is_wanted() else contextlib.nullcontext():
            framework = ffi.dlopen(str(paths.framework), flags)
        log.install(framework)
        lib = ffi.dlopen(str(paths.cc), flags)
        version = ffi.string(lib.TF_Version()).decode("ascii", "replace")
    except (OSError, AttributeError) as error:
        raise FailedPreconditionError(
            f"TensorFlow's library in {paths.cc.parent} cannot be used: {error}"
        ) from error
    check_version(version)
    return Library(ffi, lib, version, paths)


def _package_folder() -> Path | None:
    module = sys.modules.get("tensorflow")
    spec = getattr(module, "__spec__", None) if module else importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _renew_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_after_fork)
