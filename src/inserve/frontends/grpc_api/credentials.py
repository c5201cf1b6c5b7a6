"""Who may listen in on gRPC: TLS from PEM texts, or Google's ALTS.

Fields and rules: TensorFlow Serving, ``config/ssl_config.proto`` and ``model_servers/server.cc``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

__all__ = ["SslOptions", "server_credentials"]


@dataclass(frozen=True)
class SslOptions:
    """TLS for the gRPC addresses. All texts are PEM, not names of files."""

    server_key: str = field(repr=False)
    """The private key."""
    server_cert: str
    """The certificate, its chain after it."""
    custom_ca: str = ""
    """The authorities that sign clients' certificates; empty: gRPC's default roots."""
    client_verify: bool = False
    """Ask clients for a certificate, and refuse those without a valid one."""


def server_credentials(ssl: SslOptions | None, use_alts: bool) -> grpc.ServerCredentials | None:
    """Return what grpcio listens with; None for plain text."""
    if use_alts:
        return grpc.alts_server_credentials()
    if ssl is None:
        return None
    return grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())],
        root_certificates=ssl.custom_ca.encode() or None,
        require_client_auth=ssl.client_verify,
    )
