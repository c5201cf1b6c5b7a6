from __future__ import annotations

from pathlib import Path

import pytest

from inserve.errors import NotFoundError
from inserve.tensorflow_c.custom_ops import load_custom_ops
from inserve.tensorflow_c.library import find_library


def test_a_missing_library_is_not_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "libops.so"
    with pytest.raises(NotFoundError, match=f"cannot load the operations in {path}: .*No such file"):
        load_custom_ops(path)


def test_a_file_that_is_no_library_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "libops.so"
    path.write_bytes(b"not a library")
    with pytest.raises(NotFoundError, match=f"cannot load the operations in {path}: "):
        load_custom_ops(path)


def test_a_library_is_loaded_once_by_its_real_path(tmp_path: Path) -> None:
    library = find_library().framework
    link = tmp_path / "libops.so"
    link.symlink_to(library)
    load_custom_ops(library)
    load_custom_ops(str(link))
