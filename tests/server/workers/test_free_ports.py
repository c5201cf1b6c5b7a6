from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from inserve.errors import UnavailableError
from inserve.server.workers.free_ports import check_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on and would share."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "[::]"])
def test_a_port_that_somebody_would_share_is_taken(taken_port: int, host: str) -> None:
    address = f"{host}:{taken_port}"
    with pytest.raises(UnavailableError) as caught:
        check_free(["127.0.0.1:0", address])
    assert str(caught.value) == f"cannot listen on {address}: Address already in use"


def test_a_port_that_was_given_back_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # the system remembers it for a minute
            client.recv(1)
    check_free([f"127.0.0.1:{port}"])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "unix:/tmp/socket", "no-such-host.invalid:80", "192.0.2.1:80"]
)
def test_what_else_is_wrong_with_an_address_is_not_looked_at(address: str) -> None:
    check_free([address])
