"""Addresses a server listens on: ``host:port`` and ``unix:path``."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass

from inserve.errors import UnavailableError

__all__ = ["ListenAddress", "clear_socket_path", "parse_address", "remove_socket", "why_unbindable"]

_UNIX_CONNECT_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class ListenAddress:
    """A TCP *host* (IPv6 without brackets) and *port*, or the *path* of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> ListenAddress:
    """Return the address of ``host:port``, ``[ipv6]:port``, ``unix:path`` or ``unix:///path``.

    Raises:
        ValueError: *text* has none of these forms.
    """
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if path.startswith("//"):
            path = path[2:]
            if not path.startswith("/"):
                raise ValueError(f"address {text!r}: expected an absolute path after 'unix://'")
        if not path or "\0" in path:
            raise ValueError(f"address {text!r}: expected a path after 'unix:'")
        return ListenAddress(path=path)
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r}: an IPv6 host is written in brackets, '[{host}]:{port}'")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(
            f"address {text!r}: expected 'host:port' with a port from 0 to 65535, or 'unix:path'"
        )
    return ListenAddress(host=host, port=int(port))


def clear_socket_path(path: str) -> None:
    """Remove the socket file that an ended server left at *path*, if there is one.

    Raises:
        UnavailableError: something that is no socket lies there, or somebody listens on it.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnavailableError(f"cannot listen on unix:{path}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_UNIX_CONNECT_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise UnavailableError(f"cannot listen on unix:{path}: {error.strerror or error}") from error
    raise UnavailableError(f"cannot listen on unix:{path}: another server listens there")


def remove_socket(path: str, inode: int) -> None:
    """Remove the socket file at *path* if it is still the one with number *inode*."""
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


def why_unbindable(address: ListenAddress) -> str | None:
    """Return the system's reason why *address* cannot be bound, or None where it could be just now."""
    try:
        if address.path is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.bind(address.path)
            os.unlink(address.path)
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return None
