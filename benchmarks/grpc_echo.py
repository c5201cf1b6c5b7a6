"""Echo rate of the native gRPC transport against a bare ``NativeGrpcFront`` echo loop in the same run.

    python benchmarks/grpc_echo.py [--rounds 7] [--requests 60000] [--connections 1] [--streams 32]

Needs ``h2load`` (nghttp2). Prints the median rate of each and the ratio of the medians; the two are
measured in turn, so that a noisy machine disturbs both.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pygrpc_native import NativeGrpcFront

from inserve.frontends.grpc_api.grpc_server import GrpcServer, TransportName
from inserve.frontends.grpc_api.method import CallContext

PATH = "/benchmark.Echo/Call"
PAYLOAD = b"x" * 100


@contextmanager
def bare_front() -> Iterator[int]:
    """Serve an echo with nothing around it; yields the port."""
    front = NativeGrpcFront("127.0.0.1:0", [(PATH, False)])
    front.start()

    def echo() -> None:
        while (events := front.recv_batch(64)) is not None:
            for _, call_id, _, payload, _ in events:
                if payload is not None:
                    front.respond(call_id, payload)

    thread = threading.Thread(target=echo, name="bare-echo", daemon=True)
    thread.start()
    yield front.bound_port
    front.close()
    thread.join()


@contextmanager
def our_server(transport: TransportName) -> Iterator[int]:
    """Serve an echo method; yields the port."""

    def echo(request: bytes, context: CallContext) -> bytes:
        del context
        return request

    server = GrpcServer({PATH: echo}, ["127.0.0.1:0"], transport=transport)
    server.start()
    assert server.port is not None
    yield server.port
    server.stop()


def calls_per_second(port: int, body: Path, options: argparse.Namespace) -> float:
    command = [
        "h2load",
        "-n",
        str(options.requests),
        "-c",
        str(options.connections),
        "-m",
        str(options.streams),
    ]
    command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True
    ).stdout
    if f"{options.requests} succeeded" not in output:
        raise SystemExit(f"h2load: not every call succeeded\n{output}")
    rate = re.search(r"([\d.]+) req/s", output)
    if rate is None:
        raise SystemExit(f"h2load printed no rate\n{output}")
    return float(rate[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--grpcio", action="store_true", help="measure the grpcio transport as well")
    options = parser.parse_args()
    servers: dict[str, Callable[[], AbstractContextManager[int]]] = {
        "bare": bare_front,
        "native": lambda: our_server("native"),
    }
    if options.grpcio:
        servers["grpcio"] = lambda: our_server("grpcio")
    rates: dict[str, list[float]] = {name: [] for name in servers}
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "body")
        body.write_bytes(b"\0" + len(PAYLOAD).to_bytes(4, "big") + PAYLOAD)
        for _ in range(options.rounds):
            for name, server in servers.items():
                with server() as port:
                    rates[name].append(calls_per_second(port, body, options))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:10,.0f} calls/s, {median / medians['bare']:.2f} of bare")


if __name__ == "__main__":
    main()
