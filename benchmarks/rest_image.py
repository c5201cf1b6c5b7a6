"""REST Predict of one 28x28x1 image on a small CNN, 16 connections, against 16 threads inside the server.

Both run in turn on the same server process, so that one tuning serves both; needs ``wrk`` (Debian: wrk).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from measure import HALF_PLUS_TWO, report
from rest_throughput import requests_per_second

MODEL = "cnn"
PATH = f"/v1/models/{MODEL}:predict"
CALLERS = 16
ROUNDS = 7
SECONDS = 2.0


def serve() -> None:
    """Serve the CNN; for each line that is read, print the calls per second of 16 threads inside."""
    import inserve

    server = inserve.Server(models={MODEL: HALF_PLUS_TWO.parents[1] / MODEL}, rest="127.0.0.1:0")
    server.start()
    print(server.rest_port, flush=True)
    image = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    for _ in sys.stdin:
        print(calls_per_second(lambda: server.predict(MODEL, {"images": image})), flush=True)
    os._exit(0)


def calls_per_second(call: object) -> float:
    assert callable(call)
    counts = [0] * CALLERS
    until = time.perf_counter() + SECONDS

    def run(index: int) -> None:
        while time.perf_counter() < until:
            call()
            counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("this script needs wrk (Debian: apt-get install wrk)")
    image = np.random.default_rng(0).random((28, 28, 1), np.float32).tolist()
    body = f'{{"instances": [{image}]}}'
    script = f"""wrk.method = "POST"
wrk.body = [=[{body}]=]
wrk.headers["Content-Type"] = "application/json"
"""
    rest, inside = [], []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "post.lua").write_text(script)
        server = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            requests_per_second(port, CALLERS, folder, PATH)
            for _ in range(ROUNDS):
                rest.append(requests_per_second(port, CALLERS, folder, PATH))
                server.stdin.write("again\n")
                server.stdin.flush()
                inside.append(float(server.stdout.readline()))
        finally:
            server.kill()
            server.wait()
    print(f"REST {statistics.median(rest):,.0f}/s, inside {statistics.median(inside):,.0f}/s")
    ratio = statistics.median(a / b for a, b in zip(rest, inside, strict=True))
    report("REST Predict of one image / 16 threads inside", ratio, 0.6, at_most=False)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        main()
    else:
        serve()
