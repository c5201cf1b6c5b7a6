"""The monitoring config file: whether, and where, metrics are shown to Prometheus.

Rules: TensorFlow Serving, ``config/monitoring_config.proto`` and ``model_servers/http_server.cc``.
"""

from __future__ import annotations

import os

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.server.config_files import read_text_proto

__all__ = ["DEFAULT_PROMETHEUS_PATH", "read_prometheus_path"]

DEFAULT_PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


def read_prometheus_path(path: str | os.PathLike[str]) -> str | None:
    """Return the path of the metrics page that the ``MonitoringConfig`` file *path* asks for, None if none.

    Raises:
        InvalidArgumentError: the page's path does not start with a slash, so no request could reach it.
        InserveError: what ``read_text_proto`` raises.
    """
    prometheus = read_text_proto(path, messages.MonitoringConfig).prometheus_config
    if not prometheus.enable:
        return None
    page = prometheus.path or DEFAULT_PROMETHEUS_PATH
    if not page.startswith("/"):
        raise InvalidArgumentError(
            f"prometheus_config.path of '{os.fspath(path)}' is {page!r}, expected it to start with /"
        )
    return page
