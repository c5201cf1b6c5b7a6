"""Recorded answers of the C++ server while it batches, asked again over sockets, on every transport.

The servers have what the flags of the recorded ones mean to ``tensorflow_model_server``. Requests that
were recorded as one group are sent together, and meet in one batch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc
import pytest

from inserve.cli.flag_parser import parse_flags
from inserve.cli.server_plan import plan_server
from inserve.frontends.grpc_api.grpc_server import TransportName
from inserve.server.model_server import Server

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CONFIGS = json.loads((GOLDEN / "servers.json").read_text())
ServerOf: TypeAlias = Callable[[str, TransportName], Any]
TRANSPORTS: tuple[TransportName, ...] = ("native", "grpcio")

DELIBERATELY_DIFFERENT = {
    "grpc.batching.043": "the request beside it is refused before it is in a batch, so this one is answered",
    "grpc.batching.044": "a wrong dtype is refused by the signature, before there is a batch",
}
"""One that comes to agree fails, too."""


def _load_replay() -> Any:
    spec = importlib.util.spec_from_file_location("golden_batching_replay", GOLDEN / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases(kind: str) -> list[dict[str, Any]]:
    lines = (GOLDEN / f"{kind}.jsonl").read_text().splitlines()
    return [case for case in map(json.loads, lines) if case["server"].startswith("batching")]


def _groups(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the cases that are sent together; one that stands for itself is a group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case.get("group") or case["id"], []).append(case)
    return list(groups.values())


GROUPS = _groups(_cases("grpc"))
REST_CASES = _cases("rest")


@pytest.fixture(scope="module")
def replay() -> Any:
    return _load_replay()


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerOf]:
    """Return the server of a recorded configuration and a transport, as the judge wants to see it."""
    opened: dict[tuple[str, str], Any] = {}
    servers: list[Server] = []

    def open_server(name: str, transport: TransportName) -> Any:
        folder = tmp_path_factory.mktemp(name)
        # No port of these is opened: gRPC and REST get free ones below.
        tokens = {
            "${MODELS}": str(GOLDEN / "models"),
            "${FILES}": str(folder),
            "${PORT}": "1",
            "${REST_PORT}": "2",
        }

        def fill(text: str) -> str:
            for token, value in tokens.items():
                text = text.replace(token, value)
            return text

        for file_name, text in CONFIGS[name]["files"].items():
            (folder / file_name).write_text(fill(text))
        parsed = parse_flags(list(map(fill, CONFIGS[name]["flags"])))
        plan = plan_server(parsed.flags, parsed.given)
        assert plan.options.batching is not None
        options = dataclasses.replace(
            plan.options,
            grpc=("127.0.0.1:0",),
            rest=("127.0.0.1:0",),
            grpc_transport=transport,
            tune=False,
            generate_warmup=False,
        )
        server = Server.of_options(options, plan.models)
        server.start()
        servers.append(server)
        return SimpleNamespace(
            channel=grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"),
            rest_port=server.rest_port,
            fill=fill,
            unfill=lambda text: text.replace(tokens["${MODELS}"], "${MODELS}"),
        )

    def server_of(name: str, transport: TransportName) -> Any:
        if (name, transport) not in opened:
            opened[name, transport] = open_server(name, transport)
        return opened[name, transport]

    try:
        yield server_of
    finally:
        for each in opened.values():
            each.channel.close()
        for server in servers:
            server.stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("group", GROUPS, ids=["+".join(case["id"] for case in group) for group in GROUPS])
def test_requests_are_answered_as_recorded(
    group: list[dict[str, Any]], transport: TransportName, server_of: ServerOf, replay: Any
) -> None:
    server = server_of(group[0]["server"], transport)
    answers = replay.ask_group("grpc", server, group)
    differing = {
        case["id"]: problem
        for case, answer in zip(group, answers, strict=True)
        if (problem := replay.judge("grpc", server, case, answer, died=False)) is not None
    }
    expected = {case["id"] for case in group} & DELIBERATELY_DIFFERENT.keys()
    assert {key: value for key, value in differing.items() if key not in expected} == {}
    assert differing.keys() == expected


def test_a_request_of_a_wrong_type_spoils_no_batch(server_of: ServerOf, replay: Any) -> None:
    group = next(group for group in GROUPS if group[0]["id"] in DELIBERATELY_DIFFERENT)
    answers = replay.ask_group("grpc", server_of(group[0]["server"], "native"), group)
    assert [answer["code"] for answer in answers] == ["OK", "INVALID_ARGUMENT"]


@pytest.mark.parametrize("case", REST_CASES, ids=[case["id"] for case in REST_CASES])
def test_rest_answers_as_recorded(case: dict[str, Any], server_of: ServerOf, replay: Any) -> None:
    server = server_of(case["server"], "native")
    got = replay.ask_rest(server, case)
    assert replay.judge("rest", server, case, got, died=False) is None
