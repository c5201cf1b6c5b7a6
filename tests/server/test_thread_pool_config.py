from __future__ import annotations

from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.server.thread_pool_config import check_thread_pool_factory_config


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", InvalidArgumentError),
        ('thread_pool_factory_config { type_url: "type.googleapis.com/my.Factory" }', NotFoundError),
        ("thread_pool_factory_config { }", NotFoundError),
    ],
)
def test_a_wrong_file_and_a_factory_are_errors(text: str, error: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "pools"
    path.write_text(text)
    with pytest.raises(error):
        check_thread_pool_factory_config(path)


def test_a_file_without_a_factory_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "pools"
    path.write_text("# none\n")
    check_thread_pool_factory_config(path)
