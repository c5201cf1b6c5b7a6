"""Several processes on one port: CPU time per REST request, processors in use, memory, spread, replacement.

References under the same load of keep-alive connections, in turns: the same server with one process, and two
servers of one process each on ports of their own, which share nothing but the processors. CPU time is what
all processes of a server used, system calls included. Needs ``wrk`` or ``h2load`` (Debian: wrk,
nghttp2-client), which takes a good part of one processor with small requests and little with large ones.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from measure import HALF_PLUS_TWO, report
from rest_throughput import BODY, SECONDS, WRK_SCRIPT, ready, requests_per_second

BODIES = {
    "3 numbers": BODY,
    "1000 numbers": json.dumps({"instances": [number * 0.37 for number in range(1000)]}),
}

CONNECTIONS = 64
ROUNDS = 7
SPREAD_CONNECTIONS = (2, 4, 8, 16, 64)
SPREAD_ROUNDS = 25
MEBIBYTE = 1 << 20


def serve(workers: int) -> None:
    import inserve

    server = inserve.Server(
        models={"half_plus_two": HALF_PLUS_TWO.parent}, rest="127.0.0.1:0", workers=workers
    )
    server.start()
    ready(server.rest_port)


class Served:
    """A server in processes of its own; *workers* of them answer, the last child waits in reserve."""

    def __init__(self, workers: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.wait_until_idle()

    def processes(self) -> Sequence[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children()]

    def wait_until_idle(self) -> None:
        """Return once no process is busy: the one in reserve gets ready after the start."""
        while True:
            before = self.cpu_seconds()
            time.sleep(0.5)
            if sum(self.cpu_seconds()) - sum(before) < 0.03:
                return

    def cpu_seconds(self) -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in self.processes()]

    def connections_by_process(self, count: int) -> list[int]:
        """Open *count* connections; return how many each process got, most first."""
        clients = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]
        try:
            for client in clients:  # answered, so accepted
                client.sendall(b"GET /v1/models/half_plus_two HTTP/1.1\r\nHost: x\r\n\r\n")
            for client in clients:
                client.recv(1 << 16)
            counts: Counter[int] = Counter()
            for process in self.processes():
                for connection in process.net_connections("tcp"):
                    is_ours = connection.laddr and connection.laddr.port == self.port
                    if is_ours and connection.status == psutil.CONN_ESTABLISHED:
                        counts[process.pid] += 1
            return sorted(counts.values(), reverse=True)
        finally:
            for client in clients:
                client.close()

    def seconds_to_replace(self) -> float:
        """Kill the worker; return how long it takes until another process listens."""
        worker, reserve = self.processes()[1:]
        started = time.perf_counter()
        worker.kill()
        while not any(
            connection.status == psutil.CONN_LISTEN for connection in reserve.net_connections("tcp")
        ):
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        self.wait_until_idle()
        return seconds

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def print_memory(one: Served, two: Served) -> None:
    print("memory in MiB; USS is a process's own, PSS adds its part of what is shared")
    for workers, server in ((1, one), (2, two)):
        for index, process in enumerate(server.processes()):
            memory = process.memory_full_info()
            name = f"process {index}" if index < workers else "in reserve"
            print(
                f"  workers={workers} {name}: USS {memory.uss / MEBIBYTE:6.1f}   "
                f"PSS {memory.pss / MEBIBYTE:6.1f}   RSS {memory.rss / MEBIBYTE:6.1f}"
            )


def print_spread(server: Served) -> None:
    print(f"share of the connections that the busier of 2 processes got, {SPREAD_ROUNDS} times")
    for connections in SPREAD_CONNECTIONS:
        counts = [server.connections_by_process(connections) for _ in range(SPREAD_ROUNDS)]
        shares = sorted(count[0] / sum(count) for count in counts)
        all_at_one = sum(len(count) == 1 for count in counts)
        print(
            f"  {connections:3} connections: median {statistics.median(shares):4.0%}   "
            f"highest {shares[-1]:4.0%}   all at one process {all_at_one} times"
        )


class Load:
    """Figures of one way to serve: *servers* take the connections in equal parts, at the same time."""

    def __init__(self, servers: Sequence[Served]) -> None:
        self._servers = servers
        self.cpu_s: list[float] = []
        """CPU seconds per request, one figure a round."""
        self.rates: list[float] = []
        self.in_use: list[list[float]] = []
        """Processors that each process used, round by round."""

    def run(self, folder: Path) -> None:
        before = [server.cpu_seconds() for server in self._servers]
        with ThreadPoolExecutor(len(self._servers)) as pool:
            share = CONNECTIONS // len(self._servers)
            rates = pool.map(lambda server: requests_per_second(server.port, share, folder), self._servers)
            rate = sum(rates)
        used = [
            now - then
            for server, thens in zip(self._servers, before, strict=True)
            for now, then in zip(server.cpu_seconds(), thens, strict=True)
        ]
        self.rates.append(rate)
        self.cpu_s.append(sum(used) / (rate * SECONDS))
        self.in_use.append([seconds / SECONDS for seconds in used])

    def text(self) -> str:
        parts = [statistics.median(column) for column in zip(*self.in_use, strict=True)]
        return (
            f"{statistics.median(self.rates):8,.0f} requests/s   "
            f"{statistics.median(self.cpu_s) * 1e6:6.1f} µs of CPU a request   "
            f"processors in use, by process: {', '.join(f'{part:.2f}' for part in parts)}"
        )

    def ratio(self, reference: Load) -> float:
        return statistics.median(a / b for a, b in zip(self.cpu_s, reference.cpu_s, strict=True))


def compare_loads(body_name: str, one: Served, other: Served, two: Served) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        body = BODIES[body_name]
        (folder / "post.lua").write_text(WRK_SCRIPT.replace(BODY, body))
        (folder / "body").write_text(body)
        for server in (one, other, two):
            requests_per_second(server.port, CONNECTIONS, folder)
        alone, apart, together = Load([one]), Load([one, other]), Load([two])
        for _ in range(ROUNDS):
            for load in (alone, apart, together):
                load.run(folder)
    print(f"REST Predict of {body_name}, {CONNECTIONS} connections, {os.cpu_count()} processors")
    print(f"  1 process:             {alone.text()}")
    print(f"  2 servers of 1:        {apart.text()}")
    print(f"  2 processes, 1 spare:  {together.text()}")
    report(f"CPU time per request ({body_name}), 2 processes to 1", together.ratio(alone), 1.15)
    report(f"CPU time per request ({body_name}), 2 processes to 2 servers", together.ratio(apart), 1.15)


def main() -> None:
    if shutil.which("wrk") is None and shutil.which("h2load") is None:
        sys.exit("this script needs wrk or h2load (Debian: apt-get install wrk nghttp2-client)")
    servers: list[Served] = []
    try:
        for workers in (1, 1, 2):
            servers.append(Served(workers))  # noqa: PERF401 - those started are closed when one fails
        one, other, two = servers
        for body_name in BODIES:
            compare_loads(body_name, one, other, two)
        print_memory(one, two)
        print_spread(two)
        seconds = [two.seconds_to_replace() for _ in range(3)]
        report("seconds until a killed worker is replaced, longest of 3", max(seconds), 2.0)
    finally:
        for server in servers:
            server.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]))
    else:
        main()
