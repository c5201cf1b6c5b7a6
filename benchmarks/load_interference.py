"""What a large model that is loaded, swapped and unloaded does to the latency of a small one beside it.

One thread asks half-plus-two through ``server.predict`` without a pause, while the folder of a model of
300 MB appears, gets a second version and is taken away again. Each cycle has a rest of its own, before the
load; a figure is the ratio of the two medians over the cycles. The load average is printed, because the
figures mean little on a machine that has other things to do.

usage: python load_interference.py [CYCLES [MEGABYTES]]
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import HALF_PLUS_TWO, report

import inserve
from inserve.lifecycle.servable_state import ManagerState

REST_S = 3.0
LOOK_EVERY_S = 0.01
LONGEST_PHASE_S = 120.0
LIMIT = 3.0
STALL_S = 0.01
"""A closed loop counts a stall as one call, so the share of the time spent in those longer is shown, too."""
WRITE_LARGE_MODEL = """
import sys, tensorflow as tf

class Large(tf.Module):
    def __init__(self, megabytes):
        self.parts = [tf.Variable(tf.random.uniform([250, 1000])) for _ in range(megabytes)]

    @tf.function(input_signature=[tf.TensorSpec([None, 250], tf.float32, "x")])
    def serve(self, x):
        return {"y": tf.add_n([tf.linalg.matmul(x, part) for part in self.parts])}

model = Large(int(sys.argv[2]))
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.serve})
"""


@dataclass
class Client:
    """Asks in a closed loop; seconds of each answer go to the list of the phase in force."""

    server: inserve.Server
    is_over: threading.Event = field(default_factory=threading.Event)
    seconds: list[float] = field(default_factory=list)

    def run(self) -> None:
        row = np.array([1.0], np.float32)
        clock = time.perf_counter
        before = clock()
        while not self.is_over.is_set():
            self.server.predict("half_plus_two", {"x": row})
            now = clock()
            self.seconds.append(now - before)
            before = now

    @contextlib.contextmanager
    def phase(self) -> Iterator[list[float]]:
        """Yield a list that is filled with the seconds of the calls until the block ends."""
        self.seconds = seconds = []
        yield seconds
        self.seconds = []


def states(server: inserve.Server) -> dict[int, ManagerState]:
    return {version.version: version.state for version in server.models.status("large").versions}


def wait_for(server: inserve.Server, version: int, state: ManagerState) -> None:
    deadline = time.monotonic() + LONGEST_PHASE_S
    while states(server).get(version) is not state:
        if time.monotonic() > deadline:
            sys.exit(f"after {LONGEST_PHASE_S} s version {version} is not {state.name}: {states(server)}")
        time.sleep(LOOK_EVERY_S)


def quantile(seconds: list[float], share: float) -> float:
    return float(np.quantile(seconds, share))


def main() -> None:
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 320
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "written"
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(
            [sys.executable, "-c", WRITE_LARGE_MODEL, str(written), str(megabytes)],
            check=True,
            env=environment,
            capture_output=True,
        )
        measure(written, Path(folder) / "large", cycles)


def measure(written: Path, base: Path, cycles: int) -> None:
    """Print the latencies of *cycles* rests and of what follows each: load, swap and unload."""
    phases: dict[str, list[list[float]]] = {"rest": [], "load": [], "swap": [], "unload": []}
    base.mkdir()
    with inserve.Server({"half_plus_two": HALF_PLUS_TWO.parent}) as server:
        client = Client(server)
        thread = threading.Thread(target=client.run, name="client")
        thread.start()
        try:
            for cycle in range(cycles):
                version = 2 * cycle + 1
                first, second = base / str(version), base / str(version + 1)
                with client.phase() as seconds:
                    time.sleep(REST_S)
                phases["rest"].append(seconds)
                first.symlink_to(written)
                with client.phase() as seconds:
                    server.models.add("large", base, wait=False)
                    wait_for(server, version, ManagerState.AVAILABLE)
                phases["load"].append(seconds)
                second.symlink_to(written)
                first.unlink()
                with client.phase() as seconds:
                    wait_for(server, version + 1, ManagerState.AVAILABLE)
                    wait_for(server, version, ManagerState.END)
                phases["swap"].append(seconds)
                with client.phase() as seconds:
                    server.models.remove("large")
                    wait_for(server, version + 1, ManagerState.END)
                phases["unload"].append(seconds)
                second.unlink()
        finally:
            client.is_over.set()
            thread.join()
    phases["load, swap, unload"] = [
        load + swap + unload
        for load, swap, unload in zip(phases["load"], phases["swap"], phases["unload"], strict=True)
    ]
    print(f"load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}, {os.cpu_count()} processors")
    for name, lists in phases.items():
        p50, p99, p999, longest = (
            median(quantile(seconds, share) for seconds in lists) * 1e6 for share in (0.5, 0.99, 0.999, 1)
        )
        calls, length_s = median(map(len, lists)), median(map(sum, lists))
        stalled = median(sum(call for call in seconds if call > STALL_S) / sum(seconds) for seconds in lists)
        print(
            f"{name:<20} {length_s:6.2f} s {calls:8.0f} calls   p50 {p50:7.1f} µs   p99 {p99:7.1f} µs   "
            f"p99.9 {p999:8.1f} µs   longest {longest:9.1f} µs   {stalled:4.1%} of the time stalled"
        )
    at_rest = median(quantile(seconds, 0.99) for seconds in phases.pop("rest"))
    for name, lists in phases.items():
        value = median(quantile(seconds, 0.99) for seconds in lists) / at_rest
        report(f"p99 of half_plus_two during {name} / at rest", value, LIMIT)


if __name__ == "__main__":
    main()
