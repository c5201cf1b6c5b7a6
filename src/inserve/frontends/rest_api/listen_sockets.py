"""Listening sockets for addresses ``host:port``."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from inserve.errors import UnavailableError

__all__ = ["BACKLOG", "bind_address", "check_address"]

BACKLOG = 2048
_EVERY_HOST = "::"


def check_address(text: str) -> tuple[str, int]:
    """Return host (IPv6 without brackets) and port of ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: *text* has another form.
    """
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r}: an IPv6 host is written in brackets, '[{host}]:{port}'")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"address {text!r}: expected 'host:port' with a port from 0 to 65535")
    return host, int(port)


def bind_address(host: str, port: int, reuse_port: bool = False) -> Sequence[socket.socket]:
    """Return a listening socket for each address of *host*, all on one port; port 0 takes a free one.

    ``::`` takes IPv4 too, and means ``0.0.0.0`` on a machine without IPv6. With *reuse_port* other
    processes may listen on the port as well.

    Raises:
        UnavailableError: The host is unknown, or the port is taken.
    """
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if host == _EVERY_HOST and not socket.has_ipv6:
        host = "0.0.0.0"
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            bound = sockets[0].getsockname()[1] if sockets and not port else port
            full = (address[0], bound, *address[2:])
            sockets.append(_listen(family, full, host == _EVERY_HOST, reuse_port))
    except OSError as error:
        for each in sockets:
            each.close()
        if host == _EVERY_HOST and _has_no_ipv6(error):
            return bind_address("0.0.0.0", port, reuse_port)
        raise UnavailableError(f"cannot listen on {name}: {error.strerror or error}") from error
    return sockets


def _listen(family: int, address: tuple[object, ...], takes_ipv4: bool, reuse_port: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if takes_ipv4 else 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _has_no_ipv6(error: OSError) -> bool:
    return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) or isinstance(error, socket.gaierror)
