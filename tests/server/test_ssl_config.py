from __future__ import annotations

from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.frontends.grpc_api.credentials import SslOptions
from inserve.server.ssl_config import read_ssl_options

KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def escaped(text: str) -> str:
    return text.replace("\n", "\\n")


def test_texts_of_the_file_become_the_options(tmp_path: Path) -> None:
    path = tmp_path / "ssl"
    path.write_text(
        f'server_key: "{escaped(KEY)}" server_cert: "{escaped(CERTIFICATE)}"'
        f' custom_ca: "{escaped(CERTIFICATE)}" client_verify: true'
    )
    assert read_ssl_options(path) == SslOptions(KEY, CERTIFICATE, CERTIFICATE, client_verify=True)


def test_a_file_that_is_missing_or_wrong_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_ssl_options(tmp_path / "missing")
    path = tmp_path / "ssl"
    path.write_text("nonsense\n")
    with pytest.raises(InvalidArgumentError, match="Invalid protobuf file"):
        read_ssl_options(path)


def test_a_file_name_in_place_of_a_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ssl"
    path.write_text(f'server_key: "server.key" server_cert: "{escaped(CERTIFICATE)}"')
    with pytest.raises(InvalidArgumentError, match="not the name of a file"):
        read_ssl_options(path)
