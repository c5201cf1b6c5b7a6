from __future__ import annotations

import socket
from pathlib import Path

import pytest

from inserve.errors import UnavailableError
from inserve.frontends.grpc_api.listen_address import (
    ListenAddress,
    clear_socket_path,
    parse_address,
    remove_socket,
    why_unbindable,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8500", ListenAddress("127.0.0.1", 8500)),
        ("localhost:0", ListenAddress("localhost", 0)),
        ("[::1]:80", ListenAddress("::1", 80)),
        ("unix:some/path", ListenAddress(path="some/path")),
        ("unix:///var/run/x", ListenAddress(path="/var/run/x")),
    ],
)
def test_addresses_are_tcp_or_unix(text: str, address: ListenAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "8500", "host", "host:", ":80", "host:x", "host:65536", "::1:80", "unix:", "unix://host/x"]
)
def test_other_forms_are_refused_with_the_text_at_fault(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|brackets") as raised:
        parse_address(text)
    assert repr(text) in str(raised.value)


def test_a_socket_nobody_listens_on_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))
    clear_socket_path(str(path))
    assert not path.exists()


def test_a_socket_somebody_listens_on_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(UnavailableError, match="another server listens"):
            clear_socket_path(str(path))
    assert path.exists()


def test_a_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="not a socket"):
        clear_socket_path(str(path))
    assert path.read_text() == "precious"


def test_only_the_own_socket_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    inode = path.stat().st_ino
    remove_socket(str(path), inode + 1)
    assert path.exists()
    remove_socket(str(path), inode)
    assert not path.exists()
    remove_socket(str(path), inode)


def test_a_taken_port_is_given_as_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        reason = why_unbindable(ListenAddress("127.0.0.1", taken.getsockname()[1]))
    assert reason == "Address already in use"
    assert why_unbindable(ListenAddress("127.0.0.1", 0)) is None
