"""Who may listen in on gRPC: TLS from PEM texts, or Google's ALTS.

Fields and rules: TensorFlow Serving, ``config/ssl_config.proto`` and ``model_servers/server.cc``.
"""

from __future__ import annotations

import binascii
import os
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from inserve.errors import FailedPreconditionError

__all__ = ["SslOptions", "default_root_certificates", "server_credentials"]

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s*(.*?)-----END \1-----", re.DOTALL)
_PEM_HEADER = re.compile(r"[A-Za-z0-9-]+:.*")


@dataclass(frozen=True)
class SslOptions:
    """TLS for the gRPC addresses. All texts are PEM, not names of files.

    Raises:
        ValueError: A text is missing or is not PEM of its kind.
    """

    server_key: str = field(repr=False)
    """The private key."""
    server_cert: str
    """The certificate, its chain after it."""
    custom_ca: str = ""
    """The authorities that sign clients' certificates; empty: gRPC's default roots."""
    client_verify: bool = False
    """Ask clients for a certificate, and refuse those without a valid one."""

    def __post_init__(self) -> None:
        _check_pem("server_key", self.server_key, "PRIVATE KEY")
        _check_pem("server_cert", self.server_cert, "CERTIFICATE")
        if self.custom_ca:
            _check_pem("custom_ca", self.custom_ca, "CERTIFICATE")


def server_credentials(ssl: SslOptions | None, use_alts: bool) -> grpc.ServerCredentials | None:
    """Return what grpcio listens with; None for plain text.

    Whether key and certificate belong together shows when an address is bound.

    Raises:
        FailedPreconditionError: Clients are to be verified without *custom_ca*, and gRPC's roots are missing.
    """
    if use_alts:
        return grpc.alts_server_credentials()
    if ssl is None:
        return None
    roots = ssl.custom_ca.encode() or None
    if ssl.client_verify and roots is None:
        roots = default_root_certificates()
    return grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())],
        root_certificates=roots,
        require_client_auth=ssl.client_verify,
    )


def default_root_certificates() -> bytes:
    """Return the certificates that gRPC trusts where it is told of no others.

    Those of the file that ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` names, else those inside grpcio.

    Raises:
        FailedPreconditionError: There are none.
    """
    path = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    try:
        roots = (
            Path(path).read_bytes() if path else pkgutil.get_data("grpc", "_cython/_credentials/roots.pem")
        )
    except OSError as error:
        raise FailedPreconditionError(f"gRPC's root certificates cannot be read: {error}") from error
    if not roots:
        raise FailedPreconditionError("gRPC has no root certificates here, expected custom_ca to be set")
    return roots


def _check_pem(name: str, text: str, kind: str) -> None:
    """Check that *text* is PEM and has a block whose label ends in *kind*; the text itself is never shown."""
    blocks = _PEM_BLOCK.findall(text)
    if not any(label.endswith(kind) for label, _ in blocks):
        hint = ", not the name of a file" if text and "\n" not in text and "-----" not in text else ""
        raise ValueError(f"{name} holds no {kind}, expected its PEM text{hint}")
    for label, body in blocks:
        lines = [line for line in body.splitlines() if not _PEM_HEADER.fullmatch(line.strip())]
        try:
            binascii.a2b_base64("".join(lines).encode("ascii", "replace"))
        except binascii.Error as error:
            raise ValueError(f"{name}: the {label} in it is damaged: {error}") from None
