"""``inserve.load``: one SavedModel, called like a function, without a server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME
from inserve.handlers.prediction_log import prediction_log_replay
from inserve.handlers.run_signature import run_signature
from inserve.resources.memory_limit import memory_limit_bytes
from inserve.saved_model.input_value import array_from_value
from inserve.saved_model.saved_model_loader import (
    SavedModelLoader,
    SavedModelOptions,
    has_usual_kernels,
    held_twice_bytes,
)
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import Signature
from inserve.sources.version_selection import parse_version, version_children
from inserve.tensorflow_c.custom_ops import with_custom_ops
from inserve.tensorflow_c.devices import list_devices, with_gpu_memory
from inserve.tensorflow_c.load_saved_model import load_saved_model

__all__ = ["Model", "load"]

_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
"""Any one of these makes a folder a SavedModel (``tensorflow/cc/saved_model/constants.h``)."""


class Model:
    """A loaded SavedModel; call it with the inputs of its signature, by name or as one mapping.

    Any number of threads may call it at once. ``close`` (or the end of a ``with`` block) frees its
    memory; arrays it has returned stay valid.
    """

    def __init__(
        self, servable: SavedModelServable, path: str, version: int | None, signature: Signature
    ) -> None:
        self._servable = servable
        self.path = path
        """The SavedModel's own folder."""
        self.version = version
        """The number of the version folder, or None for a SavedModel that lies in none."""
        self.signature = signature
        """The signature that calls use."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature of the SavedModel, by key."""
        return self._servable.signatures

    def __repr__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return f"<Model {self.path}{version} {self.signature!r}>"

    def __call__(
        self, inputs: Mapping[str, Any] | None = None, /, **named_inputs: Any
    ) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; ``model(x=[1.0])`` and ``model({"x": [1.0]})`` are the same.

        Raises:
            TypeError: Both a mapping and named inputs were given.
            InserveError: As ``predict``.
        """
        if inputs is None:
            inputs = named_inputs
        elif named_inputs:
            raise TypeError("pass the inputs as one mapping or as named arguments, not both")
        return self.predict(inputs)

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str | None = None,
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run a signature on *inputs* and return its outputs (those of *output_filter*, if any).

        An input may be an array, a number or string, or a nested sequence of them; arrays of the
        signature's dtype are used as they are. *timeout* is in seconds.

        Raises:
            FailedPreconditionError: No such signature, or the model is closed.
            InvalidArgumentError: The inputs do not fit the signature.
            DeadlineExceededError: *timeout* has passed.
            InserveError: What TensorFlow said.
        """
        aliases, arrays = run_signature(
            self._servable,
            self.signature.key if signature is None else signature,
            inputs,
            array_from_value,
            output_filter,
            timeout,
        )
        return dict(zip(aliases, arrays, strict=True))

    def close(self) -> None:
        """Free the model once no call is in progress; more calls do nothing."""
        self._servable.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | os.PathLike[str],
    version: int | None = None,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    check_shapes: bool = True,
    session_config: bytes = b"",
    custom_ops: Sequence[str] = (),
    warm_up: bool = True,
) -> Model:
    """Load one SavedModel and return it as a callable.

    *path* is a SavedModel's folder, or a folder of versions (``path/1``, ``path/2``), of which
    *version* is taken, by default the newest. *signature* is the one that calls use; by default
    ``serving_default``, or the only one there is. *check_shapes* refuses inputs whose rank or sizes
    differ from the signature; without it some graphs accept other shapes, and graphs whose kernels
    would end the process over one are checked all the same. *session_config* is a serialized
    ``tensorflow.ConfigProto``; memory of GPUs is taken as it is needed unless it has ``gpu_options``.
    *custom_ops* are libraries of operations, paths or packages that contain them. *warm_up* runs the
    model before it is returned, on its recorded requests or on made-up inputs, and the first time also
    measures how its graphs run fastest; without it, the first calls are slow.

    Raises:
        NotFoundError: No SavedModel, or no such version, at *path*.
        InvalidArgumentError: No such signature.
        MissingExtraError: TensorFlow is not installed.
        InserveError: What TensorFlow said.
    """
    folder, found_version = _locate(Path(path), version)
    config = with_gpu_memory(session_config)
    options = SavedModelOptions(
        tuple(tags),
        config,
        check_shapes,
        enable_model_warmup=warm_up,
        tune=warm_up,
        held_twice_bytes=0 if custom_ops else held_twice_bytes(memory_limit_bytes()),
        merge_row_wise=has_usual_kernels(config),
    )
    if warm_up:
        options = options.on_devices([device.short_name for device in list_devices(config)])
    opener = with_custom_ops(load_saved_model, custom_ops)
    loader = SavedModelLoader(os.fspath(folder), options, opener, prediction_log_replay())
    loader.load()
    try:
        servable = loader.servable()
        chosen = _choose_signature(servable.signatures, signature, folder)
    except BaseException:  # whatever ends the call, nobody else could unload it
        loader.unload()
        raise
    return Model(servable, os.fspath(folder), found_version, chosen)


def _locate(path: Path, version: int | None) -> tuple[Path, int | None]:
    if any((path / name).is_file() for name in _SAVED_MODEL_FILES):
        own_version = parse_version(path.name)
        if version is not None and version != own_version:
            raise NotFoundError(f"{path} is a SavedModel itself, not a folder that holds version {version}")
        return path, own_version
    if not path.is_dir():
        raise NotFoundError(f"no folder {path}")
    folders = {child.version: path / child.name for child in version_children(os.listdir(path))}
    if not folders:
        raise NotFoundError(
            f"{path} holds neither saved_model.pb nor a folder named as a version, such as {path / '1'}"
        )
    wanted = max(folders) if version is None else version
    if wanted not in folders:
        known = ", ".join(map(str, sorted(folders)))
        raise NotFoundError(f"{path} has no version {wanted}; it has {known}")
    return folders[wanted], wanted


def _choose_signature(signatures: Mapping[str, Signature], wanted: str | None, folder: Path) -> Signature:
    callable_keys = sorted(key for key, signature in signatures.items() if signature.outputs)
    if wanted is None:
        usable = [key for key in callable_keys if not key.startswith("__")]
        wanted = usable[0] if len(usable) == 1 else DEFAULT_SIGNATURE_NAME
    if wanted not in signatures:
        known = ", ".join(callable_keys) or "none"
        raise InvalidArgumentError(f"the SavedModel {folder} has no signature {wanted!r}; it has {known}")
    return signatures[wanted]
