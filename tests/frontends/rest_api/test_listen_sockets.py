from __future__ import annotations

import socket

import pytest

from inserve.errors import UnavailableError
from inserve.frontends.rest_api.listen_sockets import bind_address, check_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8501", ("127.0.0.1", 8501)),
        ("[::]:0", ("::", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert check_address(text) == expected


@pytest.mark.parametrize("text", ["8501", ":8501", "host:", "host:65536", "host:-1", "::1:80", "unix:/a"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        check_address(text)


def test_port_0_becomes_a_free_one() -> None:
    sockets = bind_address("127.0.0.1", 0)
    try:
        assert sockets[0].getsockname()[1] > 0
    finally:
        for each in sockets:
            each.close()


def test_a_name_with_several_addresses_gets_one_port() -> None:
    sockets = bind_address("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
    finally:
        for each in sockets:
            each.close()


def test_the_address_of_every_host_takes_ipv4_too() -> None:
    sockets = bind_address("::", 0)
    try:
        socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1]), 10).close()
    finally:
        for each in sockets:
            each.close()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            bind_address("127.0.0.1", port)


def test_a_host_that_is_unknown_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"cannot listen on no\.such\.host\.invalid:1"):
        bind_address("no.such.host.invalid", 1)
