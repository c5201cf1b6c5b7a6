"""TLS with certificates made by ``openssl``, over a real connection of grpcio."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from inserve.errors import FailedPreconditionError
from inserve.frontends.grpc_api.credentials import (
    SslOptions,
    default_root_certificates,
    server_credentials,
)

LIMIT_S = 30.0


@dataclass(frozen=True)
class Pair:
    key: str
    certificate: str


def make_pair(folder: Path, name: str) -> Pair:
    """Return a key and a certificate for localhost that it signed itself."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return Pair(key.read_text(), certificate.read_text())


@pytest.fixture(scope="module")
def server_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module")
def client_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "client")


@contextmanager
def serving(ssl: SslOptions) -> Iterator[int]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        echo: Any = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"Echo": echo}),))
        credentials = server_credentials(ssl, use_alts=False)
        assert credentials is not None
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield port
        server.stop(None).wait(LIMIT_S)


def ask(port: int, trusted: str, client: Pair | None = None) -> bytes:
    credentials = grpc.ssl_channel_credentials(
        trusted.encode(),
        None if client is None else client.key.encode(),
        None if client is None else client.certificate.encode(),
    )
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        answer: bytes = channel.unary_unary("/echo/Echo", None, None)(b"hello", timeout=LIMIT_S)
        return answer


def test_a_client_that_trusts_the_certificate_is_answered(server_pair: Pair) -> None:
    with serving(SslOptions(server_pair.key, server_pair.certificate)) as port:
        assert ask(port, server_pair.certificate) == b"hello"


def test_a_client_that_does_not_trust_the_certificate_is_not(server_pair: Pair, client_pair: Pair) -> None:
    with serving(SslOptions(server_pair.key, server_pair.certificate)) as port:
        with pytest.raises(grpc.RpcError) as error:
            ask(port, client_pair.certificate)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_with_client_verify_only_a_certified_client_is_answered(server_pair: Pair, client_pair: Pair) -> None:
    ssl = SslOptions(
        server_pair.key, server_pair.certificate, custom_ca=client_pair.certificate, client_verify=True
    )
    with serving(ssl) as port:
        assert ask(port, server_pair.certificate, client_pair) == b"hello"
        for stranger in (None, server_pair):
            with pytest.raises(grpc.RpcError) as error:
                ask(port, server_pair.certificate, stranger)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_client_verify_authorities_ask_for_nothing(server_pair: Pair, client_pair: Pair) -> None:
    ssl = SslOptions(server_pair.key, server_pair.certificate, custom_ca=client_pair.certificate)
    with serving(ssl) as port:
        assert ask(port, server_pair.certificate) == b"hello"


def test_client_verify_without_authorities_takes_grpc_s(
    server_pair: Pair, client_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text(client_pair.certificate)
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(roots))
    ssl = SslOptions(server_pair.key, server_pair.certificate, client_verify=True)
    with serving(ssl) as port:
        assert ask(port, server_pair.certificate, client_pair) == b"hello"
        with pytest.raises(grpc.RpcError):
            ask(port, server_pair.certificate)


def test_grpcio_brings_root_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    assert b"-----BEGIN CERTIFICATE-----" in default_root_certificates()


def test_missing_root_certificates_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "missing"))
    with pytest.raises(FailedPreconditionError, match="root certificates cannot be read"):
        default_root_certificates()


def test_plain_text_needs_no_credentials_and_alts_has_its_own() -> None:
    assert server_credentials(None, use_alts=False) is None
    assert isinstance(server_credentials(None, use_alts=True), grpc.ServerCredentials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server_key": ""}, "server_key holds no PRIVATE KEY, expected its PEM text"),
        ({"server_key": "not a key"}, "server_key holds no PRIVATE KEY"),
        ({"server_key": "/etc/tls/server.key"}, "expected its PEM text, not the name of a file"),
        ({"server_cert": ""}, "server_cert holds no CERTIFICATE"),
        ({"server_cert": "-----BEGIN CERTIFICATE-----\nMIIB"}, "server_cert holds no CERTIFICATE"),
        (
            {"server_cert": "-----BEGIN CERTIFICATE-----\nMIIBx\n-----END CERTIFICATE-----"},
            "the CERTIFICATE in it is damaged",
        ),
        ({"custom_ca": "roots.pem"}, "custom_ca holds no CERTIFICATE"),
    ],
)
def test_a_text_that_is_not_pem_is_an_error(changes: dict[str, Any], message: str, server_pair: Pair) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SslOptions(server_pair.key, server_pair.certificate), **changes)


def test_a_key_is_never_shown(server_pair: Pair) -> None:
    assert server_pair.key not in repr(SslOptions(server_pair.key, server_pair.certificate))
    with pytest.raises(ValueError, match="server_cert") as error:
        SslOptions(server_pair.key, server_pair.key)
    assert server_pair.key not in str(error.value)
