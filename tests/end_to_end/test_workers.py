"""A server of several processes: one port, one state, and no process that matters alone.

Each process has its own ``counter``; which one answers a connection is asked of the system.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tests.fixtures.announcing import request_that_announces, wait_until_begun

import inserve
from inserve.errors import InserveError, NotFoundError, UnavailableError
from inserve.lifecycle.servable_state import ManagerState
from inserve.protos import messages
from inserve.server.model_server import Server
from inserve.server.workers.worker_group import WorkerState
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
HALF_PLUS_TWO = MODELS / "half_plus_two"
LIMIT_S = 120.0
MOST_CONNECTIONS = 100
"""That all of so many connections reach one of two processes will not happen."""
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


def wait_until(is_so: Callable[[], object], what: Callable[[], object] = lambda: None) -> None:
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.02)):
        if is_so():
            return
        pause.wait(0.02)
    pytest.fail(f"after {LIMIT_S} s not so; {what()}")


class Rest:
    """A connection to the REST port *port*, and the process at its other end."""

    def __init__(self, port: int, pids: Sequence[int]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        self._connection.connect()
        self.ask("/v1/models/counter")  # answered, so accepted
        own = self._connection.sock.getsockname()[1]
        (self.pid,) = (
            pid
            for pid in pids
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.laddr.port == port and connection.raddr and connection.raddr.port == own
        )

    def ask(self, path: str, body: object = None) -> Any:
        """Return the JSON of an answer, the text of another one."""
        method = "GET" if body is None else "POST"
        self._connection.request(method, path, None if body is None else json.dumps(body))
        response = self._connection.getresponse()
        text = response.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def count(self, delta: float = 0.0) -> float:
        """Return what the counter of the process stands at after adding *delta*."""
        body = {"signature_name": "incr_by", "inputs": {"delta": delta}}
        count: float = self.ask("/v1/models/counter:predict", body)["outputs"]
        return count

    def close(self) -> None:
        self._connection.close()


class Grpc:
    """A gRPC connection of its own."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, _OWN_CONNECTION)

    def call(self, method: str, request: Any, answer: Any, timeout_s: float = LIMIT_S) -> Any:
        ask = self._channel.unary_unary(
            f"/tensorflow.serving.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return ask(request, timeout=timeout_s, wait_for_ready=True)

    def predict(self, model: str, signature: str = "", **inputs: Any) -> dict[str, Any]:
        request = messages.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tensor_to_message(np.asarray(value, np.float32)))
        response = self.call("PredictionService/Predict", request, messages.PredictResponse)
        return {name: tensor_from_message(value).tolist() for name, value in response.outputs.items()}

    def code(self, model: str) -> grpc.StatusCode:
        """Return how a request to *model* ends."""
        try:
            self.predict(model, x=[2.0])
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    def count(self) -> float:
        count: float = self.predict("counter", "incr_by", delta=0.0)["count"]
        return count

    def state(self, model: str) -> list[tuple[int, int]]:
        """Return version and state of each version, as the server tells."""
        request = messages.GetModelStatusRequest()
        request.model_spec.name = model
        answer = self.call("ModelService/GetModelStatus", request, messages.GetModelStatusResponse)
        return [(version.version, version.state) for version in answer.model_version_status]

    def reload(self, models: dict[str, Path]) -> None:
        request = messages.ReloadConfigRequest()
        for name, path in models.items():
            request.config.model_config_list.config.add(
                name=name, base_path=str(path), model_platform="tensorflow"
            )
        answer = self.call("ModelService/HandleReloadConfigRequest", request, messages.ReloadConfigResponse)
        assert answer.status.error_code == 0, answer.status.error_message

    def close(self) -> None:
        self._channel.close()


class Scene:
    """The server of all tests here, and connections to each of its processes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._open: list[Rest | Grpc] = []

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.server.workers if worker.pid is not None]

    def rest(self) -> dict[int, Rest]:
        """Return a REST connection to each process, by pid."""
        pids = self.pids()
        found: dict[int, Rest] = {}
        assert self.server.rest_port is not None
        for _ in range(MOST_CONNECTIONS):
            connection = Rest(self.server.rest_port, pids)
            self._open.append(connection)
            found.setdefault(connection.pid, connection)
            if len(found) == len(pids):
                return found
        pytest.fail(f"{MOST_CONNECTIONS} connections have reached {found.keys()} of {pids}")

    def grpc(self) -> dict[int, Grpc]:
        """Return a gRPC connection to each process, by pid; their counters tell them apart."""
        pid_of = {}
        for number, (pid, rest) in enumerate(self.rest().items(), 1):
            pid_of[rest.count(1000.0 * number)] = pid
        assert len(pid_of) == len(self.pids()), "two counters stand at the same number"
        found: dict[int, Grpc] = {}
        for _ in range(MOST_CONNECTIONS):
            connection = Grpc(self.server.grpc_addresses[0])
            self._open.append(connection)
            found.setdefault(pid_of[connection.count()], connection)
            if len(found) == len(pid_of):
                return found
        pytest.fail(f"{MOST_CONNECTIONS} connections have reached {found.keys()} of {pid_of}")

    def wait_until_replaced(self, killed: int) -> None:
        """Return once another process than *killed* serves as worker 1."""

        def is_back() -> bool:
            worker = self.server.workers[1]
            return worker.pid != killed and worker.state is WorkerState.SERVING

        wait_until(is_back, lambda: self.server.workers)

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = inserve.Server(
            {"half_plus_two": HALF_PLUS_TWO, "counter": MODELS / "counter"},
            grpc=["127.0.0.1:0", f"unix:{folder}/grpc"],
            rest="127.0.0.1:0",
            prometheus_path="/metrics",
            allow_remote_reload=True,
            workers=2,
            poll_interval=None,
            cache_dir=str(tmp_path_factory.mktemp("tuning")),
        )
        with server:
            yield server


@pytest.fixture
def scene(server: Server) -> Iterator[Scene]:
    scene = Scene(server)
    yield scene
    scene.close()


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """A base path with version 1 of half_plus_two."""
    base = tmp_path / "swapped"
    base.mkdir()
    (base / "1").symlink_to(HALF_PLUS_TWO / "1")
    return base


def test_every_process_answers_grpc_and_rest_on_the_same_ports(scene: Scene) -> None:
    pids = scene.pids()
    assert len(set(pids)) == 2
    assert os.getpid() in pids
    expected = scene.server.predict("half_plus_two", {"x": [1.0, 2.0]})["y"].tolist()
    for connection in scene.rest().values():
        body = {"instances": [1.0, 2.0]}
        assert connection.ask("/v1/models/half_plus_two:predict", body) == {"predictions": expected}
    for channel in scene.grpc().values():
        assert channel.predict("half_plus_two", x=[1.0, 2.0]) == {"y": expected}


def test_calls_in_the_process_run_on_its_own_copy(scene: Scene) -> None:
    connections = scene.rest()
    before = {pid: connection.count() for pid, connection in connections.items()}
    scene.server.predict("counter", {"delta": np.float32(0.25)}, signature="incr_by")
    moved = {pid: connection.count() - before[pid] for pid, connection in connections.items()}
    assert moved == {pid: 0.25 if pid == os.getpid() else 0.0 for pid in connections}


def test_the_unix_socket_is_that_of_the_first_process(scene: Scene) -> None:
    own = scene.rest()[os.getpid()].count(0.5)
    others = {pid: rest.count() for pid, rest in scene.rest().items() if pid != os.getpid()}
    assert own not in others.values()
    for _ in range(10):
        channel = Grpc(scene.server.grpc_addresses[1])
        assert channel.count() == own
        channel.close()


def requests_counted(page: str) -> int:
    """Return how many REST Predict requests of half_plus_two the Prometheus page *page* has."""
    labels = 'model_name="half_plus_two",API="predict",entrypoint="REST"'
    found = re.findall(
        f"^:tensorflow:serving:request_latency_count{{{labels}}} ([0-9]+)$", page, re.MULTILINE
    )
    return sum(map(int, found))


def test_the_page_of_metrics_counts_all_processes_whoever_is_asked(scene: Scene) -> None:
    connections = list(scene.rest().values())
    before = requests_counted(connections[0].ask("/metrics"))
    for connection in connections:
        for _ in range(3):
            connection.ask("/v1/models/half_plus_two:predict", {"instances": [1.0]})
    for connection in connections:
        assert requests_counted(connection.ask("/metrics")) == before + 6


def test_a_model_added_answers_at_every_process_at_once_and_a_removed_one_soon_not(
    scene: Scene, swapped: Path
) -> None:
    channels = scene.grpc()
    scene.server.models.add("swapped", swapped)
    for channel in channels.values():
        assert channel.predict("swapped", x=[2.0]) == {"y": [3.0]}
    scene.server.models.remove("swapped")

    def is_gone() -> bool:
        codes = [channel.code("swapped") for channel in channels.values()]
        return set(codes) == {grpc.StatusCode.NOT_FOUND}

    wait_until(is_gone)


def test_a_refresh_brings_a_new_version_to_every_process(scene: Scene, swapped: Path) -> None:
    channels, rests = scene.grpc(), scene.rest()
    scene.server.models.add("swapped", swapped)
    (swapped / "2").symlink_to(HALF_PLUS_TWO / "2")
    scene.server.models.refresh(["swapped"])
    wait_until(
        lambda: (2, int(ManagerState.AVAILABLE)) in next(iter(channels.values())).state("swapped"),
        lambda: [channel.state("swapped") for channel in channels.values()],
    )
    for channel in channels.values():  # available means available everywhere
        assert channel.predict("swapped", x=[2.0]) == {"y": [4.0]}
    wait_until(lambda: len(set(map(str, (channel.state("swapped") for channel in channels.values())))) == 1)
    for rest in rests.values():
        versions = rest.ask("/v1/models/swapped")["model_version_status"]
        assert ("2", "AVAILABLE") in [(version["version"], version["state"]) for version in versions]
    scene.server.models.remove("swapped")


def test_a_reload_request_to_any_process_reaches_all(scene: Scene, swapped: Path) -> None:
    kept = {"half_plus_two": HALF_PLUS_TWO, "counter": MODELS / "counter"}
    channels = scene.grpc()
    for number, channel in enumerate(channels.values()):
        name = f"reloaded{number}"
        channel.reload({**kept, name: swapped})
        for each in channels.values():
            assert each.predict(name, x=[2.0]) == {"y": [3.0]}
        assert sorted(config.name for config in scene.server.models.list()) == sorted([*kept, name])
    next(iter(channels.values())).reload(kept)


def test_a_killed_worker_is_replaced_and_only_its_own_connections_end(scene: Scene, tmp_path: Path) -> None:
    scene.server.models.add("never", tmp_path, wait=False)  # what fails must not keep the others down
    connections = scene.rest()
    (killed,) = (pid for pid in connections if pid != os.getpid())
    body = {"instances": [1.0]}
    for connection in connections.values():
        connection.ask("/v1/models/half_plus_two:predict", body)
    counted = requests_counted(connections[killed].ask("/metrics"))
    os.kill(killed, signal.SIGKILL)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connections[killed].ask("/v1/models/half_plus_two:predict", body)
    own = connections[os.getpid()]
    assert own.ask("/v1/models/half_plus_two:predict", body) == {"predictions": [3.5]}
    scene.wait_until_replaced(killed)
    assert [worker.restarts for worker in scene.server.workers] == [0, 1]
    assert requests_counted(own.ask("/metrics")) == counted + 1
    replacement = scene.rest()[scene.pids()[1]]
    assert replacement.ask("/v1/models/half_plus_two:predict", body) == {"predictions": [3.5]}
    scene.server.models.remove("never")


# --- servers that do not start --------------------------------------------------------------------


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_port_that_others_share_is_not_joined_unnoticed() -> None:
    before = children()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for front in ("grpc", "rest"):
            options: Any = {front: address}
            with pytest.raises(UnavailableError, match=f"cannot listen on {address}: Address already in use"):
                inserve.Server({"half_plus_two": HALF_PLUS_TWO}, workers=2, **options).start()
    assert children() == before


def test_a_model_that_fails_fails_the_start_and_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(NotFoundError, match="bad"):
        inserve.Server({"bad": tmp_path}, grpc="127.0.0.1:0", workers=2).start()
    assert children() == before


def test_a_worker_that_ends_at_its_start_fails_the_start_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = children()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    server = inserve.Server({"half_plus_two": HALF_PLUS_TWO}, grpc="127.0.0.1:0", workers=2)
    with pytest.raises(InserveError, match="worker 1 ended with status 1 while it started"):
        server.start()
    assert children() == before


# --- how the command ends -------------------------------------------------------------------------


class Command:
    """``inserve serve --workers=2`` in a process group of its own, ready."""

    def __init__(self, base_path: Path, folder: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{one.getsockname()[1]}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", "from inserve.cli.main import main; main()", "serve",
                "--model_name=slow", f"--model_base_path={base_path}", "--host=127.0.0.1",
                f"--port={self.address.rpartition(':')[2]}", "--workers=2", "--enable_model_warmup=false",
            ],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.log = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line
            if line.startswith("ready"):
                break
        self.children = psutil.Process(self.process.pid).children()

    def end(self) -> int:
        """Return the exit status, once no process is left."""
        assert self.process.stdout is not None
        self.log += self.process.stdout.read()
        status = self.process.wait(LIMIT_S)
        _, alive = psutil.wait_procs(self.children, LIMIT_S)
        assert not alive
        return status

    def close(self) -> None:
        for process in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def command(announcing_model: Path, tmp_path: Path) -> Iterator[Command]:
    command = Command(announcing_model, tmp_path)
    yield command
    command.close()


def slow_requests(address: str, folder: Path, stack: ExitStack) -> list[Any]:
    """Return requests that run, on connections enough for both processes."""
    running = []
    for number in range(8):
        channel = stack.enter_context(grpc.insecure_channel(address, _OWN_CONNECTION))
        ask: Any = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        begun = folder / f"begun_{number}"
        running.append(ask.future(request_that_announces("slow", begun, 500), timeout=LIMIT_S))
        wait_until_begun(begun)
    return running


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_lets_running_requests_finish_at_every_process(
    command: Command, number: signal.Signals, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        running = slow_requests(command.address, tmp_path, stack)
        assert not all(each.done() for each in running)
        if number is signal.SIGINT:  # Ctrl-C goes to all
            os.killpg(command.process.pid, number)
        else:
            command.process.send_signal(number)
        for each in running:
            assert len(each.result(LIMIT_S).outputs) == 1
        assert command.end() == 0, command.log
    assert "Traceback" not in command.log, command.log


def test_workers_end_by_themselves_when_the_first_process_is_killed(command: Command) -> None:
    assert len(command.children) == 2
    command.process.kill()
    _, alive = psutil.wait_procs(command.children, LIMIT_S)
    assert not alive
    assert command.end() == -signal.SIGKILL
    assert "Traceback" not in command.log, command.log


@pytest.mark.nightly
def test_under_load_only_connections_of_killed_workers_fail(scene: Scene) -> None:
    stop = threading.Event()
    pids = scene.pids()

    def ask_on(connection: Rest) -> int:
        """Return the process that failed, 0 if none did."""
        try:
            while not stop.is_set():
                connection.ask("/v1/models/half_plus_two:predict", {"instances": [1.0]})
        except (ConnectionError, http.client.HTTPException):
            return connection.pid
        return 0

    for _ in range(5):
        stop.clear()
        pids = scene.pids()
        port = scene.server.rest_port
        assert port is not None
        connections = [Rest(port, pids) for _ in range(16)]
        with ThreadPoolExecutor(16) as pool:
            asking = [pool.submit(ask_on, connection) for connection in connections]
            os.kill(pids[1], signal.SIGKILL)
            scene.wait_until_replaced(pids[1])
            stop.set()
            failed = {future.result() for future in asking}
        assert failed <= {0, pids[1]}
        for connection in connections:
            connection.close()
