"""The recorded Prometheus pages: the same requests in the same order give the same counts."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import inserve

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RECORDED = json.loads((GOLDEN / "text" / "prometheus_requests.json").read_text())
PATH = "/monitoring/prometheus/metrics"
MODELS = ("half_plus_two", "tf1_examples", "error")

SERVING = ":tensorflow:serving:"
LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
BATCH_OPERATION = SERVING + "batching:"
"""Metrics of TensorFlow's own batch operation, which are out of reach."""


def recorded_page(name: str) -> str:
    text = (GOLDEN / "text" / f"prometheus_{name}.txt").read_text()
    return text.replace("${MODELS}", str(GOLDEN / "models"))


def contractual(page: str) -> list[str]:
    """Return the lines of TensorFlow Serving's metrics, and of loads, without what times decide."""
    lines = []
    for line in page.splitlines():
        name = line.removeprefix("# TYPE ")
        if not name.startswith((SERVING, LOADS)) or name.startswith(BATCH_OPERATION):
            continue
        if re.match(f"{SERVING}(request|runtime)_latency_(bucket|sum)", line):
            line = line.rpartition(" ")[0]
        lines.append(line)
    return lines


class Asked:
    """What was asked of a server: its page before, the statuses, its page after."""

    def __init__(self, server: inserve.Server, channel: grpc.Channel) -> None:
        self._server = server
        self._channel = channel
        self.before = self.ask_rest("GET", PATH)
        self.statuses = [self._ask(request) for request in RECORDED["requests"]]
        self.after = self.ask_rest("GET", PATH)

    def ask_rest(self, method: str, target: str, body: str | None = None) -> tuple[int, str | None, str]:
        """Return status, content type and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.rest_port, timeout=60)
        try:
            connection.request(method, target, body, {"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type"), response.read().decode()
        finally:
            connection.close()

    def _ask(self, request: dict[str, Any]) -> int | str:
        if request["kind"] == "rest":
            return self.ask_rest(request["method"], request["target"], request["body"])[0]
        try:
            call: Any = self._channel.unary_unary(request["method"], None, None)
            call(base64.b64decode(request["request_b64"]), timeout=60)
        except grpc.RpcError as error:
            status: Any = error
            return str(status.code().name)
        return "OK"


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    models = {name: GOLDEN / "models" / name for name in MODELS}
    with (
        inserve.Server(
            models=models,
            grpc="127.0.0.1:0",
            rest="127.0.0.1:0",
            prometheus_path=PATH,
            check_shapes=False,
            poll_interval=None,
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield Asked(server, channel)


def test_the_page_of_a_server_that_was_asked_nothing_is_the_recorded_one(asked: Asked) -> None:
    assert contractual(asked.before[2]) == contractual(recorded_page("before"))


def test_the_page_comes_as_plain_text(asked: Asked) -> None:
    assert asked.after[:2] == (RECORDED["status"], RECORDED["content_type"])
    assert asked.after[2].endswith("\n")


def test_the_requests_get_the_recorded_statuses(asked: Asked) -> None:
    assert asked.statuses == [request["status"] for request in RECORDED["requests"]]


def test_the_page_after_the_requests_counts_what_the_recorded_one_counts(asked: Asked) -> None:
    assert contractual(asked.after[2]) == contractual(recorded_page("after"))


def test_the_page_cannot_be_asked_with_a_query(asked: Asked) -> None:
    assert asked.ask_rest("GET", f"{PATH}?x=1") == (
        400,
        "text/plain",
        f"Unexpected path: {PATH}?x=1. Should be {PATH}",
    )
