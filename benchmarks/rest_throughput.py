"""REST Predict over TCP with 1 to 256 connections, driven by wrk or h2load.

References of the same run, each server in a process of its own: a bare ASGI application under uvicorn that
reads the body and sends JSON of the same size, and an echo on this library's own HTTP server. Needs ``wrk``
or ``h2load`` (Debian: wrk, nghttp2-client).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import HALF_PLUS_TWO, report, require_packages

PATH = "/v1/models/half_plus_two:predict"
BODY = '{"instances": [1.0, 2.0, 5.0]}'
ANSWER = b'{"predictions": [2.5,3.0,4.5]}'
CONNECTIONS = (1, 4, 16, 64, 256)
ROUNDS = 5
SECONDS = 2

WRK_SCRIPT = f"""
wrk.method = "POST"
wrk.body = [[{BODY}]]
wrk.headers["Content-Type"] = "application/json"
"""


def serve_inserve() -> None:
    import inserve

    server = inserve.Server(models={"half_plus_two": HALF_PLUS_TWO.parent}, rest="127.0.0.1:0")
    server.start()
    ready(server.rest_port)


def serve_echo() -> None:
    from inserve.frontends.rest_api.app import RestApp
    from inserve.frontends.rest_api.response import Response, json_response
    from inserve.frontends.rest_api.rest_server import RestServer
    from inserve.frontends.rest_api.route import RequestKey

    class Echo:
        is_rest = False
        model_name = api = ""

        def answer(self, body: bytes, record: Any) -> Response:
            return json_response(ANSWER)

    class EchoApp(RestApp):
        def route(self, key: RequestKey, root_path: str = "") -> Echo:
            return Echo()

    nothing: Any = None
    server = RestServer(EchoApp(nothing, nothing), ["127.0.0.1:0"])
    server.start()
    ready(server.port)


def serve_uvicorn() -> None:
    import uvicorn

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none")
        uvicorn.Server(config).run([listener])


def ready(port: int | None) -> None:
    print(port, flush=True)
    sys.stdin.read()
    os._exit(0)


def requests_per_second(port: int, connections: int, folder: Path, path: str = PATH) -> float:
    """Return the rate that the load generator reports; every answer must be 200."""
    url = f"http://127.0.0.1:{port}{path}"
    if shutil.which("wrk") is not None:
        script = str(folder / "post.lua")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", script, url]
    else:
        body = str(folder / "body")
        command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{SECONDS}", "-d", body, url]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec: +([\d.]+)", out) or re.search(r"([\d.]+) req/s", out)
    failed = re.search(r"Non-2xx or 3xx|Socket errors|[1-9]\d* (failed|errored)|[1-9]\d* [45]xx", out)
    if rate is None or failed is not None:
        raise RuntimeError(f"the load generator did not succeed:\n{out}")
    return float(rate[1])


def main() -> None:
    if shutil.which("wrk") is None and shutil.which("h2load") is None:
        sys.exit("this script needs wrk or h2load (Debian: apt-get install wrk nghttp2-client)")
    require_packages("uvicorn")
    names = ("inserve", "echo", "uvicorn")
    servers = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "post.lua").write_text(WRK_SCRIPT)
        (folder / "body").write_text(BODY)
        try:
            ports = {}
            for name in names:
                servers[name] = subprocess.Popen(
                    [sys.executable, __file__, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                )
                stdout = servers[name].stdout
                assert stdout is not None
                ports[name] = int(stdout.readline())
                requests_per_second(ports[name], 1, folder)
            rates: dict[tuple[str, int], list[float]] = {}
            for _ in range(ROUNDS):
                for connections in CONNECTIONS:
                    for name in names:
                        rate = requests_per_second(ports[name], connections, folder)
                        rates.setdefault((name, connections), []).append(rate)
                        time.sleep(0.1)
        finally:
            for process in servers.values():
                process.kill()
                process.wait()
    for connections in CONNECTIONS:
        figures = "".join(f"{name} {statistics.median(rates[name, connections]):10,.0f}   " for name in names)
        print(f"{connections:3} connections, requests/s: {figures}")

    def median_ratio(name: str, reference: str, connections: int) -> float:
        pairs = zip(rates[name, connections], rates[reference, connections], strict=True)
        return statistics.median(a / b for a, b in pairs)

    for connections in CONNECTIONS:
        what = f"Predict / bare ASGI echo under uvicorn, {connections} connections"
        report(what, median_ratio("inserve", "uvicorn", connections), 0.75, at_most=False)
    for connections in CONNECTIONS:
        ratio = median_ratio("inserve", "echo", connections)
        print(f"Predict / echo on the same HTTP server, {connections} connections: {ratio:.2f}")


if __name__ == "__main__":
    servers = {"inserve": serve_inserve, "echo": serve_echo, "uvicorn": serve_uvicorn}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", nargs="?", choices=servers, help="only serve, as the child process does")
    server = parser.parse_args().server
    (servers[server] if server else main)()
