from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.tensorflow_c.custom_op_libraries import find_op_libraries, package_folders

OPERATIONS = b"\x7fELF ... _ZN10tensorflow12OpDefBuilderC1 ..."
KERNELS = b"\x7fELF ... _ZN10tensorflow14kernel_factory17OpKernelRegistrar12InitInternalE ..."
OTHER = b"\x7fELF ... PyInit_fast ..."


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with the packages ``some_ops`` and ``no_ops``."""
    ops = tmp_path / "some_ops" / "python" / "ops"
    ops.mkdir(parents=True)
    (tmp_path / "some_ops" / "__init__.py").write_text("raise AssertionError('imported')")
    (ops / "_b.so").write_bytes(OPERATIONS)
    (ops / "_a.so").write_bytes(KERNELS)
    (ops / "fast.cpython-311.so").write_bytes(OTHER)
    (ops / "empty.so").write_bytes(b"")
    (ops / "notes.txt").write_bytes(OPERATIONS)
    (tmp_path / "no_ops").mkdir()
    (tmp_path / "no_ops" / "__init__.py").touch()
    (tmp_path / "one_file.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_means_its_libraries_that_register_operations_or_kernels(packages: Path) -> None:
    ops = packages / "some_ops" / "python" / "ops"
    assert find_op_libraries("some_ops") == [str(ops / "_a.so"), str(ops / "_b.so")]


def test_a_package_is_not_imported(packages: Path) -> None:
    find_op_libraries("some_ops")
    assert "some_ops" not in sys.modules


def test_a_dotted_name_means_a_folder_or_a_library_within(packages: Path) -> None:
    ops = packages / "some_ops" / "python" / "ops"
    assert find_op_libraries("some_ops.python.ops") == [str(ops / "_a.so"), str(ops / "_b.so")]
    assert find_op_libraries("some_ops.python.ops._b") == [str(ops / "_b.so")]


def test_a_file_is_taken_as_it_is(packages: Path) -> None:
    library = str(packages / "some_ops" / "python" / "ops" / "fast.cpython-311.so")
    assert find_op_libraries(library) == [library]


def test_a_folder_means_the_libraries_below(packages: Path) -> None:
    ops = packages / "some_ops" / "python" / "ops"
    assert find_op_libraries(str(packages)) == [str(ops / "_a.so"), str(ops / "_b.so")]


@pytest.mark.parametrize("entry", ["missing/libops.so", "libops.so", "/nowhere/ops"])
def test_a_path_to_nothing_is_not_found_by_its_full_path(entry: str) -> None:
    with pytest.raises(NotFoundError, match=f"there is no library {Path(entry).absolute()}"):
        find_op_libraries(entry)


@pytest.mark.parametrize("name", ["never_installed", "never.installed", "one_file", ""])
def test_a_name_that_is_no_package_is_not_found(packages: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"custom_ops: {name!r} is neither a file here nor a package"):
        find_op_libraries(name)


def test_a_package_without_operations_is_invalid_and_the_text_says_where_was_looked(packages: Path) -> None:
    expected = rf"'no_ops' has no library that registers TensorFlow operations; .* below {packages}/no_ops"
    with pytest.raises(InvalidArgumentError, match=expected):
        find_op_libraries("no_ops")


def test_a_folder_of_a_package_that_is_not_there_has_no_operations(packages: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"'some_ops\.java' has no library"):
        find_op_libraries("some_ops.java")


def test_only_packages_have_folders(packages: Path) -> None:
    assert package_folders("some_ops") == [packages / "some_ops"]
    assert package_folders("one_file") is None
    assert package_folders("never_installed") is None
