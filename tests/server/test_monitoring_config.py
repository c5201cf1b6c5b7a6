from __future__ import annotations

from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError
from inserve.server.monitoring_config import read_prometheus_path


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("# nothing", None),
        ("prometheus_config { }", None),
        ('prometheus_config { path: "/metrics" }', None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "" }', "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "/metrics" }', "/metrics"),
    ],
)
def test_the_page_is_where_the_file_says_if_it_is_enabled(
    text: str, page: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "monitoring"
    path.write_text(text)
    assert read_prometheus_path(path) == page


def test_a_page_that_no_request_reaches_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "monitoring"
    path.write_text('prometheus_config { enable: true path: "metrics" }')
    with pytest.raises(InvalidArgumentError, match="'metrics', expected it to start with /"):
        read_prometheus_path(path)
