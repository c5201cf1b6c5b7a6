"""Throughput and latency from 1 to 256 connections, one request in flight on each; half-plus-two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from overview_figures import Figure, figure
from overview_latency import write_requests
from overview_load import Load, h2load, wrk
from overview_models import PREDICT, ModelCase, half_plus_two
from overview_processes import Child, take_turns

CONNECTIONS = (1, 4, 16, 64, 256)
SECTION = "Answers per second"
ECHO_PATH = "/benchmark.Echo/Call"
GRPC, GRPC_ECHO = "gRPC Predict", "echo on the same gRPC transport"
REST, REST_ECHO = "REST Predict", "bare ASGI echo under uvicorn"
LIMITS = {GRPC: 0.33, REST: 0.75}
LIMITED_TO = 64
"""Connections up to which the limits hold; beyond, the load generator is what is measured."""


@dataclass(frozen=True)
class Point:
    """One point of a curve: medians over the rounds."""

    series: str
    connections: int
    per_second: float
    p50_s: float


def ways_of(
    case: ModelCase, ports: dict[str, int], folder: Path, length_s: float
) -> dict[tuple[str, int], Callable[[], Load]]:
    frame, body = write_requests(case, folder)
    ways: dict[tuple[str, int], Callable[[], Load]] = {}
    for number in CONNECTIONS:
        ways[GRPC, number] = lambda n=number: h2load(ports[GRPC], PREDICT, frame, n, length_s)
        ways[GRPC_ECHO, number] = lambda n=number: h2load(ports[GRPC_ECHO], ECHO_PATH, frame, n, length_s)
        ways[REST, number] = lambda n=number: wrk(ports[REST], case.rest_path, body, n, length_s)
        ways[REST_ECHO, number] = lambda n=number: wrk(ports[REST_ECHO], "/", body, n, length_s)
    return ways


def measure_curves(
    folder: Path, rounds: int, length_s: float, progress: Callable[[str], None]
) -> tuple[list[Figure], list[Point]]:
    """Return the rates beside those of the echo servers, and the points of the curves."""
    with Child("neighbours") as server, Child("grpc echo") as grpc_echo, Child("asgi echo") as asgi_echo:
        ports = {
            GRPC: server.ports["grpc"],
            REST: server.ports["rest"],
            GRPC_ECHO: grpc_echo.ports["grpc"],
            REST_ECHO: asgi_echo.ports["rest"],
        }
        ways = ways_of(half_plus_two(), ports, folder, length_s)
        loads = take_turns(ways, rounds, progress)
    rates = {key: [load.per_second for load in figures] for key, figures in loads.items()}
    figures = []
    for series, echo in ((GRPC, GRPC_ECHO), (REST, REST_ECHO)):
        for number in CONNECTIONS:
            p50 = median(load.p50_s for load in loads[series, number])
            figures.append(
                figure(
                    SECTION,
                    f"{series}, {number} connection{'s'[: number > 1]} (p50 {p50 * 1e3:.3g} ms)",
                    "/s",
                    rates[series, number],
                    echo,
                    rates[echo, number],
                    LIMITS[series] if number <= LIMITED_TO else None,
                    at_most=False,
                )
            )
    points = [
        Point(series, number, median(rates[series, number]), median(load.p50_s for load in figures))
        for (series, number), figures in loads.items()
    ]
    return figures, points
