"""Is a version directory all there? What is missing, in words.

A directory that is still being copied is not aspired to: TensorFlow Serving takes it at the next poll, fails,
and after its retries never tries that number again. What is checked is what TensorFlow itself needs to load:
a ``saved_model`` file that does not end in the middle, the assets it names, ``variables/variables.index``
when there are data shards or when the graph restores variables, and shards as long as the index says.
A ``.pbtxt`` or ``.cpb`` model and a compressed index cannot be looked into; their presence has to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import BinaryIO

from inserve.errors import DataLossError, UnimplementedError
from inserve.sources.checkpoint_index import read_checkpoint_index
from inserve.sources.proto_fields import Field, iter_fields, read_bytes
from inserve.sources.version_selection import SAVED_MODEL_FILES

__all__ = ["content_problem", "listing_problem"]

# A version may also hold a TFLite model alone, and an old SessionBundle is the loader's to refuse.
_MODEL_FILES = (*SAVED_MODEL_FILES, "model.tflite", "export.meta")
_INDEX = "variables/variables.index"
_SHARD = re.compile(r"variables/variables\.data-([0-9]{5})-of-([0-9]{5})")
_VARIABLE_OPS = frozenset({b"VarHandleOp", b"VariableV2", b"Variable"})
_LONGEST_NAME_BYTES = 1 << 16

# Field numbers of saved_model.proto, meta_graph.proto, saver.proto and graph.proto.
_META_GRAPHS = 2
_GRAPH_DEF, _SAVER_DEF, _ASSET_FILES = 2, 3, 6
_RESTORE_OP_NAME = 3
_ASSET_FILE_NAME = 2
_NODES = 1
_NODE_OP = 2


def listing_problem(files: Mapping[str, int]) -> str | None:
    """Return what the version with these *files* waits for, as far as names and sizes show it, or None.

    *files* maps each path, relative to the version directory and with ``/``, to its size in bytes.
    """
    if not any(files.get(name, 0) > 0 for name in _MODEL_FILES):
        return "waiting for saved_model.pb"
    if _INDEX not in files and any(_SHARD.fullmatch(name) for name in files):
        return f"waiting for {_INDEX}"
    return None


def content_problem(directory: str | os.PathLike[str], files: Mapping[str, int]) -> str | None:
    """Return what the version in *directory* with these *files* waits for, or None when it is complete.

    Reads the model file and the checkpoint index; *files* is as in ``listing_problem``. A file that cannot be
    read counts as one that is waited for.
    """
    problem = listing_problem(files)
    if problem is not None:
        return problem
    needs_variables = False
    if "saved_model.pb" in files:
        try:
            with open(os.path.join(directory, "saved_model.pb"), "rb") as file:
                assets = _asset_names(file, files["saved_model.pb"])
                needs_variables = _INDEX not in files and _restores_variables(file, files["saved_model.pb"])
        except (DataLossError, OSError) as error:
            return f"waiting for the rest of saved_model.pb: {_text(error)}"
        for name in assets:
            if f"assets/{name}" not in files:
                return f"waiting for assets/{name}"
    if needs_variables:
        return f"waiting for {_INDEX}: the graph restores variables"
    return _variables_problem(directory, files) if _INDEX in files else None


def _variables_problem(directory: str | os.PathLike[str], files: Mapping[str, int]) -> str | None:
    try:
        index = read_checkpoint_index(os.path.join(directory, _INDEX))
    except UnimplementedError:
        return _shard_names_problem(files)
    except (DataLossError, OSError) as error:
        return f"waiting for the rest of {_INDEX}: {_text(error)}"
    for shard, size in sorted(index.shard_bytes.items()):
        name = f"variables/variables.data-{shard:05d}-of-{index.num_shards:05d}"
        if name not in files:
            if size:
                return f"waiting for {name}"
        elif files[name] < size:
            return f"waiting for the rest of {name}: {size} bytes expected"
    return None


def _shard_names_problem(files: Mapping[str, int]) -> str | None:
    """Return which shard is missing going by the names ``…-of-NNNNN`` alone."""
    matches = [match for match in map(_SHARD.fullmatch, sorted(files)) if match is not None]
    if not matches:
        return "waiting for variables/variables.data-00000-of-?????"
    present = {(int(match[1]), int(match[2])) for match in matches}
    total = max(of for _, of in present)
    for shard in range(total):
        if (shard, total) not in present:
            return f"waiting for variables/variables.data-{shard:05d}-of-{total:05d}"
    return None


def _asset_names(file: BinaryIO, size: int) -> list[str]:
    """Return the asset files that the meta-graphs name; every field of every meta-graph is walked.

    Raises:
        DataLossError: the file ends in the middle, or holds no meta-graph.
    """
    names: list[str] = []
    meta_graphs = 0
    for meta_graph in iter_fields(file, 0, size):
        if meta_graph.number != _META_GRAPHS:
            continue
        meta_graphs += 1
        for part in iter_fields(file, meta_graph.start, meta_graph.end):
            if part.number == _ASSET_FILES:
                names.extend(
                    read_bytes(file, field, _LONGEST_NAME_BYTES).decode("utf-8", "replace")
                    for field in iter_fields(file, part.start, part.end)
                    if field.number == _ASSET_FILE_NAME
                )
    if not meta_graphs:
        raise DataLossError(f"no meta-graph in {size} bytes")
    return names


def _restores_variables(file: BinaryIO, size: int) -> bool:
    """Return whether some meta-graph has variables as well as an operation that restores them."""
    for meta_graph in iter_fields(file, 0, size):
        if meta_graph.number != _META_GRAPHS:
            continue
        parts = list(iter_fields(file, meta_graph.start, meta_graph.end))
        restores = any(
            field.number == _RESTORE_OP_NAME and field.end > field.start
            for part in parts
            if part.number == _SAVER_DEF
            for field in iter_fields(file, part.start, part.end)
        )
        graphs = (part for part in parts if part.number == _GRAPH_DEF)
        if restores and any(_has_variable(file, graph) for graph in graphs):
            return True
    return False


def _has_variable(file: BinaryIO, graph: Field) -> bool:
    for node in iter_fields(file, graph.start, graph.end):
        if node.number != _NODES:
            continue
        for field in iter_fields(file, node.start, node.end):
            if field.number == _NODE_OP:
                if field.end - field.start <= 16 and read_bytes(file, field, 16) in _VARIABLE_OPS:
                    return True
                break
    return False


def _text(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
