"""Whether ports are free, for a server whose own processes will share them: sharing tells nobody."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from inserve.errors import UnavailableError
from inserve.frontends.grpc_api.listen_address import parse_address

__all__ = ["check_free"]

_EVERY_HOST = "::"


def check_free(addresses: Sequence[str]) -> None:
    """Return if nobody listens on the TCP ports of *addresses*; port 0 and Unix sockets are left out.

    With ``SO_REUSEPORT`` two servers of one user can listen on one port without noticing, and each gets a
    part of the connections. Whatever else is wrong with an address is left to who binds it.

    Raises:
        UnavailableError: Somebody listens.
    """
    for text in addresses:
        address = parse_address(text)
        if address.path is None and address.port and _is_taken(address.host, address.port):
            raise UnavailableError(f"cannot listen on {address}: {os.strerror(errno.EADDRINUSE)}")


def _is_taken(host: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return any(_cannot_bind(family, address, host) for family, _, _, _, address in found)


def _cannot_bind(family: int, address: tuple[object, ...], host: str) -> bool:
    """Return whether *address* is in use; connections that ended a moment ago do not count."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != _EVERY_HOST)
            probe.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
