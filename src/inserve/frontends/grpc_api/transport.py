"""What carries gRPC calls between sockets and methods, and its options."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from inserve.frontends.grpc_api.listen_address import ListenAddress

__all__ = ["SHUTTING_DOWN", "STOP_LIMIT_S", "Transport", "TransportOptions"]

SHUTTING_DOWN = "server is shutting down"

STOP_LIMIT_S = 5.0
"""How long, after the grace period, stopping waits for threads that do not come back."""


def _default_workers() -> int:
    return max(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class TransportOptions:
    """Options of every transport.

    *max_workers* threads run calls that block, and *max_queued* more of these may wait for one; what
    does not fit gets RESOURCE_EXHAUSTED at once. *credentials* switch TLS on. *channel_arguments* are
    gRPC's (``grpc.max_concurrent_streams``, ...). *reuse_port* lets other processes listen on the same
    TCP ports, between which the system then spreads connections.
    """

    max_workers: int = field(default_factory=_default_workers)
    max_queued: int = 1024
    credentials: grpc.ServerCredentials | None = None
    channel_arguments: tuple[tuple[str, int | str], ...] = ()
    reuse_port: bool = False

    def __post_init__(self) -> None:
        if self.max_workers < 1:
            raise ValueError(f"max_workers is {self.max_workers}, expected at least 1")
        if self.max_queued < 0:
            raise ValueError(f"max_queued is {self.max_queued}, expected at least 0")


class Transport(Protocol):
    """Serves a ``MethodTable`` on some addresses. Started once, stopped once."""

    name: str
    """``native`` or ``grpcio``."""

    def start(self) -> tuple[ListenAddress, ...]:
        """Bind every address, serve, and return the addresses with the ports that 0 became.

        Raises:
            UnavailableError: an address cannot be bound; none is then.
        """
        ...

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish for *grace_s* seconds, cancel the rest and release all.

        Returns after at most about *grace_s* plus ``STOP_LIMIT_S`` seconds.
        """
        ...
