"""Closed loops that ask and time each answer: functions, ``h2load`` and ``wrk``.

Every caller asks again as soon as it is answered. ``wrk`` corrects its upper percentiles for requests
that such a loop would have sent later, so only its median and rate are used; ``h2load`` logs each
request as it was.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MOST_FOR_A_DURATION = 16
"""With more connections h2load is given a number of requests: a connection that is made only after the
duration is over would be asked for ever."""
_LONGEST_LOOP_S = 60.0

_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('RESULT {{"p50": %f, "requests": %d, "us": %d, "failed": %d}}\\n',
    latency:percentile(50), summary.requests, summary.duration, failed))
end
"""


@dataclass(frozen=True)
class Load:
    """What a loop achieved. Seconds of an answer at the median and the 99th percentile, answers a second."""

    p50_s: float
    p99_s: float
    per_second: float


def summary(seconds: list[float], wall_s: float) -> Load:
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return Load(float(p50), float(p99), len(seconds) / wall_s)


def closed_loop(function: Callable[[], object], length_s: float, callers: int = 1) -> Load:
    """Call *function* for *length_s* and at least three times, on as many threads as *callers*."""
    clock = time.perf_counter
    lists: list[list[float]] = [[] for _ in range(callers)]
    started = clock()

    def ask(seconds: list[float]) -> None:
        before = clock()
        while before - started < length_s or len(seconds) < 3:
            function()
            now = clock()
            seconds.append(now - before)
            before = now

    if callers == 1:
        ask(lists[0])
    else:
        threads = [threading.Thread(target=ask, args=(seconds,)) for seconds in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return summary([second for seconds in lists for second in seconds], clock() - started)


def require_load_generators() -> None:
    for tool, package in (("h2load", "nghttp2-client"), ("wrk", "wrk")):
        if shutil.which(tool) is None:
            sys.exit(f"this script needs {tool} (Debian: apt-get install {package})")


def h2load(port: int, path: str, body: Path, connections: int, length_s: float, http1: bool = False) -> Load:
    """Ask from *connections* connections, one request in flight on each: gRPC, or HTTP/1.1 with *http1*.

    Raises:
        RuntimeError: A request failed, or an answer was not 2xx.
    """
    kind, *more = ("application/json",) if http1 else ("application/grpc", "-H", "te: trailers")
    command = ["h2load", f"-c{connections}", "-m1", "-t1", f"-d{body}", "-H", f"content-type: {kind}", *more]
    command += [*(["--h1"] if http1 else []), f"http://127.0.0.1:{port}{path}"]
    if connections <= _MOST_FOR_A_DURATION:
        return _h2load([*command, f"-D{max(1, round(length_s * 1000))}ms"])
    rate = _h2load([*command, f"-n{8 * connections}"]).per_second
    return _h2load([*command, f"-n{max(8 * connections, round(rate * length_s))}"])


def _h2load(command: list[str]) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        done = subprocess.run(
            [*command, f"--log-file={log}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_LONGEST_LOOP_S,
        )
        lines = [line.split(b"\t") for line in log.read_bytes().splitlines()]
    out = done.stdout
    counted = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out)
    finished = re.search(r"finished in ([\d.]+)([mu]?s)", out)
    if counted is None or finished is None or not lines or counted[2] != "0" or counted[3] != "0":
        raise RuntimeError(f"h2load did not succeed:\n{out}")
    wall_s = float(finished[1]) * {"s": 1.0, "ms": 1e-3, "us": 1e-6}[finished[2]]
    return summary([int(line[2]) * 1e-6 for line in lines], wall_s)


def wrk(port: int, path: str, body: Path, connections: int, length_s: float) -> Load:
    """Ask with HTTP/1.1 from *connections* connections for whole seconds, at least one; no p99.

    Raises:
        RuntimeError: A request failed, or an answer was not 2xx.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(_WRK_SCRIPT.format(body=body))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(length_s))}s", "-s", str(script)]
        command.append(f"http://127.0.0.1:{port}{path}")
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = re.search(r"RESULT (.*)", out)
    if result is None:
        raise RuntimeError(f"wrk did not succeed:\n{out}")
    figures = json.loads(result[1])
    if figures["failed"] or not figures["requests"]:
        raise RuntimeError(f"wrk did not succeed:\n{out}")
    return Load(figures["p50"] * 1e-6, float("nan"), figures["requests"] / (figures["us"] * 1e-6))
