"""What the host's choices change: batching on and off, and a million live objects beside the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from overview_figures import Figure, figure
from overview_latency import write_requests
from overview_load import h2load
from overview_models import half_plus_two, mobilenet
from overview_processes import Child, take_turns

CALLERS = 16
BATCHING = "Batching, MobileNetV2 in-process"
OBJECTS = "Garbage collector, REST, one connection"
P99_LIMIT = 5.0


def measure_batching(rounds: int, length_s: float, progress: Callable[[str], None]) -> list[Figure]:
    """Return what batching costs one caller and what it brings several."""
    name = mobilenet().name
    with Child("batching") as child:
        for way in ("off", "on"):
            child.measure(way, name, length_s, CALLERS)
        ways = {
            (way, callers): lambda way=way, callers=callers: child.measure(way, name, length_s, callers)
            for callers in (1, CALLERS)
            for way in ("off", "on")
        }
        loads = take_turns(ways, rounds, progress)
    alone = {way: [load.p50_s for load in loads[way, 1]] for way in ("off", "on")}
    many = {way: [load.per_second for load in loads[way, CALLERS]] for way in ("off", "on")}
    waiting = {way: [load.p50_s for load in loads[way, CALLERS]] for way in ("off", "on")}
    several = f"{CALLERS} callers"
    return [
        figure(BATCHING, "one caller, batching on", "s", alone["on"], "one caller, off", alone["off"], 1.05),
        figure(
            BATCHING,
            f"{several}, batching on, latency",
            "s",
            waiting["on"],
            f"{several}, off",
            waiting["off"],
        ),
        figure(BATCHING, f"{several}, batching on, rows", "/s", many["on"], f"{several}, off", many["off"]),
    ]


def measure_objects(
    folder: Path, rounds: int, length_s: float, progress: Callable[[str], None]
) -> list[Figure]:
    """Return the p99 in a host with a million live objects, beside its p50, and beside a host with none."""
    case = half_plus_two()
    _, body = write_requests(case, folder)
    with Child("few objects") as few, Child("many objects") as many:
        ways = {
            child.kind: lambda port=child.ports["rest"]: h2load(
                port, case.rest_path, body, 1, length_s, http1=True
            )
            for child in (few, many)
        }
        loads = take_turns(ways, rounds, progress)
    p99 = {kind: [load.p99_s for load in figures] for kind, figures in loads.items()}
    p50 = {kind: [load.p50_s for load in figures] for kind, figures in loads.items()}
    what = "p99, a million live objects in the host"
    return [
        figure(OBJECTS, what, "s", p99["many objects"], "its p50", p50["many objects"], P99_LIMIT),
        figure(OBJECTS, what, "s", p99["many objects"], "p99, none", p99["few objects"]),
    ]
