"""The profiler service: TensorFlow's own in a child process, a stand-in for what is ours."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import grpc
import pytest

from inserve.errors import (
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    MissingExtraError,
    UnavailableError,
    UnimplementedError,
)
from inserve.frontends.grpc_api import profiler_service
from inserve.frontends.grpc_api.method import CallContext
from inserve.frontends.grpc_api.profiler_service import TensorFlowProfiler, profiler_service_methods
from inserve.handlers.placement import WouldBlock
from inserve.protos import messages

MODELS = Path(__file__).resolve().parents[2] / "golden" / "models"
LIMIT_S = 60.0
METHODS = (
    "Profile",
    "Monitor",
    "Terminate",
    "StartContinuousProfiling",
    "StopContinuousProfiling",
    "GetSnapshot",
)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks for what sockets can do on Linux")


class StandIn:
    """A gRPC server in the place of TensorFlow's, and the profiler that leads to it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(4))
        handlers = {
            "Profile": grpc.unary_unary_rpc_method_handler(lambda request, _: b"profile of " + request),
            "Monitor": grpc.unary_unary_rpc_method_handler(self._stay),
            "StartContinuousProfiling": grpc.unary_unary_rpc_method_handler(self._refuse),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tensorflow.ProfilerService", handlers),)
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def channel(self, timeout_s: float | None) -> grpc.Channel:
        return self._channel

    def stop(self) -> None:
        self._channel.close()
        self.server.stop(None)

    def _stay(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.left.set)
        self.entered.set()
        self.left.wait(LIMIT_S)
        return request

    def _refuse(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "A profiling session is already running.")


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.left.set()
    made.stop()


@pytest.fixture
def call(stand_in: StandIn) -> Callable[..., bytes]:
    methods = profiler_service_methods(stand_in)

    def call(name: str, request: bytes = b"", context: CallContext | None = None) -> bytes:
        return methods[f"/tensorflow.ProfilerService/{name}"](request, context or CallContext())

    return call


Call = Callable[..., bytes]


def test_the_methods_are_those_of_the_service(stand_in: StandIn) -> None:
    assert [path.rpartition("/")[2] for path in profiler_service_methods(stand_in)] == list(METHODS)


def test_bytes_pass_through_unread(call: Call) -> None:
    assert call("Profile", b"\xff\xff") == b"profile of \xff\xff"


def test_errors_pass_through(call: Call) -> None:
    with pytest.raises(AlreadyExistsError, match=r"^A profiling session is already running\.$"):
        call("StartContinuousProfiling")
    with pytest.raises(UnimplementedError):
        call("GetSnapshot")


@pytest.mark.parametrize("name", METHODS)
def test_no_method_holds_up_the_thread_that_receives(call: Call, name: str) -> None:
    with pytest.raises(WouldBlock):
        call(name, b"", CallContext(may_block=False))


def test_the_deadline_ends_a_capture(call: Call, stand_in: StandIn) -> None:
    with pytest.raises(DeadlineExceededError):
        call("Monitor", b"", CallContext(deadline=time.monotonic() + 0.2))
    assert stand_in.left.wait(LIMIT_S)


def test_a_capture_ends_when_its_caller_has_left(call: Call, stand_in: StandIn) -> None:
    context = CallContext()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, "Monitor", b"", context)
        assert stand_in.entered.wait(LIMIT_S)
        context.cancelled = True
        with pytest.raises(CancelledError):
            answer.result(LIMIT_S)
    assert stand_in.left.wait(LIMIT_S)


class FakePackage(ModuleType):
    """A package ``tensorflow`` whose profiler starts what *start* starts."""

    def __init__(self, start: Callable[[int], None]) -> None:
        super().__init__("fake_tensorflow")
        self.profiler = SimpleNamespace(experimental=SimpleNamespace(server=SimpleNamespace(start=start)))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], TensorFlowProfiler]:
    def install(start: Callable[[int], None]) -> TensorFlowProfiler:
        monkeypatch.setitem(sys.modules, "fake_tensorflow", FakePackage(start))
        return TensorFlowProfiler("fake_tensorflow")

    return install


Install = Callable[[Callable[[int], None]], TensorFlowProfiler]


def test_a_missing_package_is_named_with_what_brings_it() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_package.*pip install 'inserve\[cpu\]'"):
        TensorFlowProfiler("no_such_package").channel(None)


def test_a_package_that_cannot_be_imported_is_a_failed_precondition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('built for another processor')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FailedPreconditionError, match="built for another processor"):
        TensorFlowProfiler("broken_package").channel(None)


def test_a_service_that_does_not_listen_is_unavailable(install: Install) -> None:
    ports: list[int] = []
    with pytest.raises(UnavailableError, match="did not start"):
        install(ports.append).channel(None)
    assert len(set(ports)) > 1


def test_concurrent_first_calls_start_the_service_once(install: Install) -> None:
    listeners = []
    together = threading.Barrier(4)

    def start(port: int) -> None:
        listeners.append(socket.create_server(("", port)))

    profiler = install(start)

    def first_call(_: int) -> grpc.Channel:
        together.wait(LIMIT_S)
        return profiler.channel(LIMIT_S)

    with ThreadPoolExecutor(4) as pool:
        channels = list(pool.map(first_call, range(4)))
    assert len(listeners) == 1
    assert len(set(map(id, channels))) == 1
    channels[0].close()
    listeners[0].close()


def test_a_call_waits_for_the_start_of_another_no_longer_than_its_deadline(install: Install) -> None:
    starting, release = threading.Event(), threading.Event()

    def start(port: int) -> None:
        starting.set()
        release.wait(LIMIT_S)

    profiler = install(start)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(profiler.channel, None)
        assert starting.wait(LIMIT_S)
        with pytest.raises(DeadlineExceededError):
            profiler.channel(0.01)
        release.set()
        assert isinstance(first.exception(LIMIT_S), UnavailableError)


@on_linux
def test_a_port_that_cannot_be_kept_to_this_machine_is_shut_and_not_tried_again(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = []

    def start(port: int) -> None:
        listeners.append(socket.create_server(("", port)))

    def refuse(listener: socket.socket) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(profiler_service, "_bind_to_loopback_interface", refuse)
    profiler = install(start)
    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match=r"every interface .* Operation not permitted"):
            profiler.channel(None)
    (listener,) = listeners
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 5)
    listener.close()


SERVE = """
import json, os, socket, sys, threading
import numpy as np
from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.profiler_service import TENSORFLOW_PROFILER, profiler_service_methods
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.load_saved_model import load_saved_model

servable = SavedModelServable(load_saved_model(sys.argv[1]))
run = servable.signature_run(servable.signatures["serving_default"], ())
server = GrpcServer(profiler_service_methods(TENSORFLOW_PROFILER), ["127.0.0.1:0"])
server.start()
over = threading.Event()

def predict():
    while not over.is_set():
        run.run([np.ones((64, 28, 28, 1), np.float32)])
        over.wait(0.002)

thread = threading.Thread(target=predict)
thread.start()
print(json.dumps({"port": server.port, "imported": "tensorflow" in sys.modules}), flush=True)
sys.stdin.readline()
listeners = []
for descriptor in map(int, os.listdir("/dev/fd")):
    try:
        one = socket.socket(fileno=os.dup(descriptor))
        if one.family != socket.AF_UNIX and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            device = one.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\\0").decode()
            listeners.append((one.getsockname()[0], device))
    except OSError:
        continue
over.set()
thread.join()
server.stop()
servable.close()
print(json.dumps({"imported": "tensorflow" in sys.modules, "listeners": listeners}), flush=True)
"""

TRACE = """
import sys
from tensorflow.python.profiler import profiler_client
profiler_client.trace(f"grpc://localhost:{sys.argv[1]}", sys.argv[2], 500)
"""


class Captured(NamedTuple):
    logs: Path
    imported_before: bool
    after: dict[str, Any]
    returncode: int


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """What TensorFlow's own client writes of a server that runs a model; what the server says then.

    A capture has only operations that TensorFlow found to be expensive, as convolutions of a batch are.
    """
    logs = tmp_path_factory.mktemp("logs")
    model = str(MODELS / "cnn" / "1")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        before = json.loads(server.stdout.readline())
        traced = subprocess.run(
            [sys.executable, "-c", TRACE, str(before["port"]), str(logs)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        out, _ = server.communicate("\n", timeout=LIMIT_S)
    assert traced.returncode == 0, traced.stderr
    return Captured(logs, before["imported"], json.loads(out), server.returncode)


def test_tensorflow_is_imported_at_the_first_call(captured: Captured) -> None:
    assert (captured.imported_before, captured.after["imported"]) == (False, True)


def test_a_server_that_was_profiled_ends_cleanly(captured: Captured) -> None:
    assert captured.returncode == 0


def test_a_capture_of_tensorflows_client_has_the_operations_of_the_runs(captured: Captured) -> None:
    (file,) = captured.logs.glob("plugins/profile/*/*.xplane.pb")
    space = messages.XSpace.FromString(file.read_bytes())
    names = {event.name for plane in space.planes for event in plane.event_metadata.values()}
    assert "SessionRun" in names
    assert [name for name in names if name.endswith("Conv2D")] != []


@on_linux
def test_no_socket_listens_beyond_this_machine(captured: Captured) -> None:
    listeners = captured.after["listeners"]
    assert ["::", "lo"] in listeners or ["0.0.0.0", "lo"] in listeners
    assert [one for one in listeners if one not in (["::", "lo"], ["0.0.0.0", "lo"], ["127.0.0.1", ""])] == []
