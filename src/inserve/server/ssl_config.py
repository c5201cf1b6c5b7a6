"""The SSL config file: key and certificate of the gRPC addresses, as texts.

Rules: TensorFlow Serving, ``config/ssl_config.proto`` and ``model_servers/server.cc``.
"""

from __future__ import annotations

import os

from inserve.errors import InvalidArgumentError
from inserve.frontends.grpc_api.credentials import SslOptions
from inserve.protos import messages
from inserve.server.config_files import read_text_proto

__all__ = ["read_ssl_options"]


def read_ssl_options(path: str | os.PathLike[str]) -> SslOptions:
    """Return what the ``SSLConfig`` text file *path* says.

    Raises:
        InvalidArgumentError: a text is not PEM, or key or certificate is missing.
        InserveError: what ``read_text_proto`` raises.
    """
    config = read_text_proto(path, messages.SSLConfig)
    try:
        return SslOptions(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    except ValueError as error:
        raise InvalidArgumentError(f"Invalid SSL config file '{os.fspath(path)}': {error}") from error
