"""Latency of every way to ask a model, one caller that waits for each answer."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from overview_figures import Figure, figure
from overview_load import Load, closed_loop, h2load, wrk
from overview_models import PREDICT, ModelCase
from overview_processes import Child, take_turns

from inserve.protos import messages

SECTION = "Latency, one caller"


@dataclass(frozen=True)
class Way:
    key: str
    name: str
    reference: str
    limits: tuple[tuple[str, float], ...] = ()
    """By model, what this way may take in units of its reference."""


WAYS = (
    Way("prepared", "TF_SessionRun, prepared", ""),
    Way("tensorflow", "tf.saved_model.load, signature", "prepared"),
    Way("predict", "server.predict", "tensorflow", (("half_plus_two", 1 / 12),)),
    Way("stub", "stub on server.channel()", "predict", (("half_plus_two", 3.0),)),
    Way("native, h2load", "gRPC native, h2load", "predict"),
    Way("native, grpcio", "gRPC native, grpcio client", "predict"),
    Way("grpcio, h2load", "gRPC grpcio, h2load", "predict"),
    Way("grpcio, grpcio", "gRPC grpcio, grpcio client", "predict"),
    Way("rest, wrk", "REST, wrk", "predict"),
    Way("rest, http.client", "REST, http.client", "predict"),
)
NAMES = {way.key: way.name for way in WAYS}


@contextmanager
def grpc_client(port: int, case: ModelCase) -> Iterator[Callable[[], object]]:
    """Yield a call of the grpcio client on a connection of its own; messages in, messages out."""
    # Without its own pool of connections, a second client of the process would share the first one's.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call = channel.unary_unary(
            PREDICT,
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        request = case.request()
        yield lambda: call(request)


@contextmanager
def rest_client(port: int, case: ModelCase) -> Iterator[Callable[[], object]]:
    """Yield a call of ``http.client`` on one keep-alive connection; bytes in, bytes out."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body, headers = case.json_body(), {"Content-Type": "application/json"}

    def call() -> bytes:
        connection.request("POST", case.rest_path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"REST answered {response.status}: {answer[:200]!r}")
        return answer

    yield call
    connection.close()


def write_requests(case: ModelCase, folder: Path) -> tuple[Path, Path]:
    """Write what the load generators send and return the files: a gRPC message, a JSON body."""
    frame, body = folder / f"{case.name}.grpc", folder / f"{case.name}.json"
    frame.write_bytes(case.grpc_frame())
    body.write_bytes(case.json_body())
    return frame, body


def ways_of(
    case: ModelCase, server: Child, tensorflow: Child, folder: Path, length_s: float
) -> dict[str, Callable[[], Load]]:
    frame, body = write_requests(case, folder)
    ports = server.ports

    def inside(child: Child, way: str) -> Callable[[], Load]:
        return lambda: child.measure(way, case.name, length_s)

    def python_client(client: Callable[..., object], port: int) -> Callable[[], Load]:
        def measure() -> Load:
            with client(port, case) as call:  # type: ignore[attr-defined]
                call()
                return closed_loop(call, length_s)

        return measure

    return {
        "prepared": inside(server, "prepared"),
        "tensorflow": inside(tensorflow, "tensorflow"),
        "predict": inside(server, "predict"),
        "stub": inside(server, "stub"),
        "native, h2load": lambda: h2load(ports["native"], PREDICT, frame, 1, length_s),
        "native, grpcio": python_client(grpc_client, ports["native"]),
        "grpcio, h2load": lambda: h2load(ports["grpcio"], PREDICT, frame, 1, length_s),
        "grpcio, grpcio": python_client(grpc_client, ports["grpcio"]),
        "rest, wrk": lambda: wrk(ports["rest"], case.rest_path, body, 1, length_s),
        "rest, http.client": python_client(rest_client, ports["rest"]),
    }


def measure_latency(
    models: dict[str, ModelCase], folder: Path, rounds: int, length_s: float, progress: Callable[[str], None]
) -> list[Figure]:
    """Return the median of each way for each model, beside what it is to be compared with."""
    with Child("inserve") as server, Child("tensorflow") as tensorflow:
        ways = {
            (model, way): measure
            for model, case in models.items()
            for way, measure in ways_of(case, server, tensorflow, folder, length_s).items()
        }
        for model in models:
            for way in ("prepared", "predict", "stub"):
                server.measure(way, model, length_s / 2)
            tensorflow.measure("tensorflow", model, length_s / 2)
        loads = take_turns(ways, rounds, progress)
    seconds = {key: [load.p50_s for load in figures] for key, figures in loads.items()}
    figures = []
    for model in models:
        for way in WAYS:
            reference = [seconds[model, way.reference]] if way.reference else [[]]
            figures.append(
                figure(
                    f"{SECTION}: {model}",
                    way.name,
                    "s",
                    seconds[model, way.key],
                    NAMES.get(way.reference, ""),
                    reference[0],
                    dict(way.limits).get(model),
                )
            )
        if model == "half_plus_two":
            figures.append(
                figure(
                    f"{SECTION}: {model}",
                    NAMES["predict"],
                    "s",
                    seconds[model, "predict"],
                    NAMES["prepared"],
                    seconds[model, "prepared"],
                    3.5,
                )
            )
    return figures
