"""What happens around a load, without TensorFlow's library; ``tests/native`` has it with real operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from inserve.errors import InserveError, InvalidArgumentError, NotFoundError
from inserve.tensorflow_c.custom_ops import with_custom_ops
from inserve.tensorflow_c.interface import LoadedModel

UNKNOWN = (
    "Op type not registered '{}' in binary running on host. Make sure the Op and Kernel are registered in "
    "the binary running in this process."
)


class Load:
    """Raises the *errors* one after the other, then returns a model."""

    def __init__(self, *errors: InserveError) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[str, tuple[str, ...], bytes]] = []
        self.model = cast(LoadedModel, object())

    def __call__(self, path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> LoadedModel:
        self.calls.append((path, tuple(tags), config))
        if self.errors:
            raise self.errors.pop(0)
        return self.model


def test_a_model_that_loads_is_loaded_once_with_what_was_asked() -> None:
    load = Load()
    assert with_custom_ops(load)("path", ("a", "b"), b"config") is load.model
    assert load.calls == [("path", ("a", "b"), b"config")]


def test_any_other_error_passes_unchanged() -> None:
    error = InvalidArgumentError("something else")
    with pytest.raises(InvalidArgumentError) as raised:
        with_custom_ops(Load(error))("path")
    assert raised.value is error


def test_an_unknown_operation_keeps_its_code_and_is_named_with_what_to_do() -> None:
    with pytest.raises(NotFoundError) as raised:
        with_custom_ops(Load(NotFoundError(UNKNOWN.format("ZeroOut"))))("path")
    assert raised.value.message == (
        "the model uses the operation ZeroOut, which TensorFlow does not have. Name the library that has it, "
        "or the installed package with that library, in custom_ops (--custom_ops). TensorFlow says: "
        + UNKNOWN.format("ZeroOut")
    )


def test_an_operation_of_a_known_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    load = Load(NotFoundError(UNKNOWN.format("TFRA>CuckooHashTableFind")))
    with pytest.raises(NotFoundError, match="pip install --no-deps tensorflow-recommenders-addons"):
        with_custom_ops(load)("path")
    assert len(load.calls) == 1


def test_an_installed_package_without_usable_libraries_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struct2tensor").mkdir()
    (tmp_path / "struct2tensor" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    load = Load(NotFoundError(UNKNOWN.format("EquiJoinIndices")))
    with pytest.raises(NotFoundError, match="struct2tensor is installed, but its libraries cannot be loaded"):
        with_custom_ops(load)("path")
    assert len(load.calls) == 1


def test_an_entry_that_is_not_there_fails_the_load_before_it_begins() -> None:
    load = Load()
    with pytest.raises(NotFoundError, match="'never_installed' is neither a file here nor a package"):
        with_custom_ops(load, ["never_installed"])("path")
    assert load.calls == []


def _nothing(name: str, package: Any = None) -> None:
    return None
