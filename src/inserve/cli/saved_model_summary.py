"""What lies at a path: versions, sizes and signatures, read from files without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from inserve.errors import DataLossError, NotFoundError
from inserve.protos import messages
from inserve.saved_model.signature import Signature, parse_signature
from inserve.sources.version_selection import parse_version

__all__ = ["MetaGraphSummary", "VersionFolder", "choose_meta_graphs", "find_versions", "read_meta_graphs"]

_FILE_NAME = "saved_model.pb"
_RUN_AT_LOAD = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures that TensorFlow writes for itself; source: ``tensorflow/cc/saved_model/constants.h``."""


@dataclass(frozen=True)
class VersionFolder:
    """One SavedModel on disk."""

    path: Path
    version: int | None
    """The number that the folder is named with, or None where the name is no version."""
    size_bytes: int
    """The sum of its files."""


@dataclass(frozen=True)
class MetaGraphSummary:
    """One meta graph of a SavedModel."""

    tags: tuple[str, ...]
    tensorflow_version: str
    """The TensorFlow that wrote it; may be empty."""
    signatures: Mapping[str, Signature]
    """By key, in order of keys, without those that TensorFlow runs by itself at load."""


def find_versions(path: Path) -> list[VersionFolder]:
    """Return the SavedModels at *path*, oldest version first.

    *path* is a SavedModel's own folder, which gives one entry, or a base path with one folder for
    each version.

    Raises:
        NotFoundError: There is none; the text says what was looked for.
    """
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    if not path.is_dir():
        raise NotFoundError(f"{path} is a file; expected the folder of a SavedModel or of its versions")
    if (path / _FILE_NAME).is_file():
        return [VersionFolder(path, parse_version(path.resolve().name), _size_bytes(path))]
    numbered = [
        (version, child)
        for child in path.iterdir()
        if (version := parse_version(child.name)) is not None and child.is_dir()
    ]
    found = [
        VersionFolder(child, version, _size_bytes(child))
        for version, child in sorted(numbered)
        if (child / _FILE_NAME).is_file()
    ]
    if not found:
        empty = ", ".join(child.name for _, child in sorted(numbered))
        seen = f"version folders without {_FILE_NAME}: {empty}" if empty else "no folder named as a version"
        raise NotFoundError(
            f"no SavedModel in {path}: expected {_FILE_NAME} or a folder such as {path / '1'} with it, "
            f"found {seen}"
        )
    return found


def _size_bytes(folder: Path) -> int:
    return sum(
        os.stat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names
    )


def read_meta_graphs(folder: Path) -> list[MetaGraphSummary]:
    """Return the meta graphs of the SavedModel in *folder*, in the order of the file.

    Raises:
        DataLossError: ``saved_model.pb`` is not a SavedModel.
        OSError: The file cannot be read.
    """
    file = folder / _FILE_NAME
    try:
        saved_model = messages.SavedModel.FromString(file.read_bytes())
    except DecodeError:
        raise DataLossError(f"{file} is not a SavedModel: it cannot be decoded") from None
    if not saved_model.meta_graphs:
        raise DataLossError(f"{file} is not a SavedModel: it holds no graph")
    return [
        MetaGraphSummary(
            tuple(meta_graph.meta_info_def.tags),
            meta_graph.meta_info_def.tensorflow_version,
            {
                key: parse_signature(key, meta_graph.signature_def[key])
                for key in sorted(meta_graph.signature_def)
                if key not in _RUN_AT_LOAD
            },
        )
        for meta_graph in saved_model.meta_graphs
    ]


def choose_meta_graphs(
    meta_graphs: Sequence[MetaGraphSummary], tags: Sequence[str] | None, folder: Path
) -> list[MetaGraphSummary]:
    """Return those with exactly *tags*, in any order; all of them for None.

    Raises:
        NotFoundError: None has these tags; the text lists the tags there are.
    """
    if tags is None:
        return list(meta_graphs)
    chosen = [meta_graph for meta_graph in meta_graphs if set(meta_graph.tags) == set(tags)]
    if not chosen:
        known = "; ".join(",".join(meta_graph.tags) or "(none)" for meta_graph in meta_graphs)
        raise NotFoundError(f"no graph with tags {','.join(tags) or '(none)'} in {folder}; it has: {known}")
    return chosen
