"""Where the shared libraries with operations are that an option ``custom_ops`` means."""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from inserve.errors import InvalidArgumentError, NotFoundError

__all__ = ["find_op_libraries", "package_folders"]

_SUFFIXES = (".so", ".dylib")

_REGISTRATIONS = (
    b"OpDefBuilder",
    b"OpKernelRegistrar",
    b"TF_RegisterOpDefinition",
    b"TF_RegisterKernelBuilder",
)
"""One of these symbols is in every library that registers operations or kernels; in the Python extension
modules beside them there is none."""

_MAX_FILES = 100_000
"""How many files of a package are looked at."""


def find_op_libraries(entry: str) -> list[str]:
    """Return the paths of the shared libraries that *entry* means, sorted; nothing is opened or imported.

    *entry* is the path of a library, which is returned as it is, a folder, or the name of an importable
    package such as ``tensorflow_text``; a dotted name narrows the search to a folder or library within.
    In folders those libraries count that register operations.

    Raises:
        NotFoundError: No such file, folder or package.
        InvalidArgumentError: No library there registers operations.
    """
    if os.path.isdir(entry):
        return _libraries_below([Path(entry)], entry)
    if os.sep in entry or entry.endswith(_SUFFIXES) or os.path.exists(entry):
        if not os.path.exists(entry):
            raise NotFoundError(f"custom_ops: there is no library {os.path.abspath(entry)}")
        return [entry]
    name, *inner = entry.split(".")
    folders = package_folders(name)
    if folders is None:
        raise NotFoundError(
            f"custom_ops: {entry!r} is neither a file here nor a package that can be imported; "
            "expected the path of a shared library, or the name of an installed package"
        )
    for folder in folders:
        place = folder.joinpath(*inner)
        for suffix in _SUFFIXES:
            library = place.with_name(place.name + suffix)
            if inner and library.is_file():
                return [str(library)]
    return _libraries_below([folder.joinpath(*inner) for folder in folders], entry)


def package_folders(name: str) -> list[Path] | None:
    """Return the folders of the importable top-level package *name*, None where there is none.

    The package is not imported.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return [Path(location) for location in spec.submodule_search_locations]


def _libraries_below(folders: list[Path], entry: str) -> list[str]:
    libraries = sorted(
        str(file)
        for folder in folders
        for file in _files_below(folder)
        if file.name.endswith(_SUFFIXES) and _registers_operations(file)
    )
    if not libraries:
        raise InvalidArgumentError(
            f"custom_ops: {entry!r} has no library that registers TensorFlow operations; "
            f"looked for *{' and *'.join(_SUFFIXES)} below {', '.join(map(str, folders))}"
        )
    return libraries


def _files_below(folder: Path) -> Iterator[Path]:
    seen = 0
    for place, _, names in os.walk(folder):
        for name in names:
            seen += 1
            if seen > _MAX_FILES:
                return
            yield Path(place, name)


def _registers_operations(file: Path) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return any(content.find(symbol) >= 0 for symbol in _REGISTRATIONS)
    return False
