"""``tensorflow_model_server`` as a process of its own, with command lines of TensorFlow Serving's guides."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.fixtures.announcing import request_that_announces, wait_until_begun

from inserve.protos import messages
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
LIMIT_S = 120.0
NO_PROXY = [("grpc.enable_http_proxy", 0)]
HALF_PLUS_TWO = ("--model_name=half_plus_two", f"--model_base_path={MODELS / 'half_plus_two'}")


class Command:
    """The process, and the log that it writes to stderr."""

    def __init__(self, arguments: Sequence[object], environment: dict[str, str]) -> None:
        self._lines: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inserve.cli.tensorflow_model_server", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grew:
                self._lines.append(line.rstrip("\n"))
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()

    def wait_for(self, text: str) -> None:
        """Return once a line of the log contains *text*."""

        def is_there() -> bool:
            return self._ended or any(text in line for line in self._lines)

        with self._grew:
            self._grew.wait_for(is_there, LIMIT_S)
            log = "\n".join(self._lines)
        assert text in log, log

    def messages(self) -> list[str]:
        """Return the log so far, without what comes before the message of each line."""
        with self._grew:
            return [line.split("] ", 1)[-1] for line in self._lines]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return exit status and stdout."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        status = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return status, stdout

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[..., Command]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Command] = []

    def start_command(*arguments: object, **environment: str) -> Command:
        started.append(Command(arguments, environment))
        return started[-1]

    yield start_command
    for command in started:
        command.close()


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def predict(
    target: str,
    model: str = "half_plus_two",
    x: Sequence[float] = (1.0, 2.0, 5.0),
    credentials: grpc.ChannelCredentials | None = None,
) -> list[float]:
    """Ask over gRPC."""
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tensor_to_message(np.array(x, np.float32)))
    options = [*NO_PROXY, ("grpc.ssl_target_name_override", "localhost")]
    opened = (
        grpc.insecure_channel(target, NO_PROXY)
        if credentials is None
        else grpc.secure_channel(target, credentials, options)
    )
    with opened as channel:
        ask: Any = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        response: messages.PredictResponse = ask(request, timeout=LIMIT_S)
    values: list[float] = tensor_from_message(response.outputs["y"]).tolist()
    return values


def rest(port: int, path: str, body: object = None) -> str:
    """Return what REST answers, as text."""
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", data, timeout=LIMIT_S) as response:
        text: str = response.read().decode()
    return text


HALVES = [3.5, 4.0, 5.5]
"""Half of 1, 2 and 5, plus 3: what the recorded version 2 adds."""


def test_one_model_is_served_over_grpc_and_rest_with_the_recorded_log_lines(
    start: Start, ports: tuple[int, int]
) -> None:
    port, rest_port = ports
    command = start(*HALF_PLUS_TWO, f"--port={port}", f"--rest_api_port={rest_port}")
    command.wait_for("Exporting HTTP/REST API")
    assert predict(f"127.0.0.1:{port}") == HALVES
    answer = rest(rest_port, "/v1/models/half_plus_two:predict", {"instances": [1.0, 2.0, 5.0]})
    assert json.loads(answer) == {"predictions": HALVES}
    base_path = MODELS / "half_plus_two"
    in_order = [
        "Building single TensorFlow model file config:  model_name: half_plus_two "
        f"model_base_path: {base_path}",
        "Adding/updating models.",
        " (Re-)adding model: half_plus_two",
        "Successfully reserved resources to load servable {name: half_plus_two version: 2}",
        "Loading servable version {name: half_plus_two version: 2}",
        f"Reading SavedModel from: {base_path}/2",
        "Restoring SavedModel bundle.",
        "Successfully loaded servable version {name: half_plus_two version: 2}",
        "Finished adding/updating models",
        "Using InsecureServerCredentials",
        "Profiler service is enabled",
        f"Running gRPC ModelServer at 0.0.0.0:{port} ...",
        f"Exporting HTTP/REST API at:localhost:{rest_port} ...",
    ]
    said = command.messages()
    # Once each: where the tuner tries another number of threads, TensorFlow reads the model a second time.
    assert list(dict.fromkeys(line for line in said if line in in_order)) == in_order
    assert command.end() == (0, "")


def test_a_changed_config_file_is_applied(start: Start, ports: tuple[int, int], tmp_path: Path) -> None:
    def config(*names: str) -> str:
        rest_of_it = f'base_path: "{MODELS / "half_plus_two"}" model_platform: "tensorflow"'
        models = " ".join(f'config {{ name: "{name}" {rest_of_it} }}' for name in names)
        return f"model_config_list {{ {models} }}"

    file = tmp_path / "models.config"
    file.write_text(config("first"))
    command = start(
        f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1", f"--port={ports[0]}"
    )
    command.wait_for("Running gRPC ModelServer")
    new = tmp_path / "new"
    new.write_text(config("first", "second"))
    new.replace(file)
    command.wait_for("Successfully loaded servable version {name: second version: 2}")
    assert predict(f"127.0.0.1:{ports[0]}", "second") == HALVES
    assert predict(f"127.0.0.1:{ports[0]}", "first") == HALVES


def test_a_unix_socket_may_be_the_only_address(start: Start) -> None:
    with tempfile.TemporaryDirectory(prefix="inserve-") as folder:
        path = f"{folder}/grpc"
        command = start(*HALF_PLUS_TWO, "--port=0", f"--grpc_socket_path={path}")
        command.wait_for(f"Running gRPC ModelServer at UNIX socket {path} ...")
        assert predict(f"unix:{path}") == HALVES
        assert not any("0.0.0.0" in line for line in command.messages())
        assert command.end(signal.SIGINT) == (0, "")
        assert not os.path.exists(path)


def test_the_metrics_page_is_where_the_monitoring_file_says(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    command = start(
        *HALF_PLUS_TWO,
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        f"--monitoring_config_file={file}",
    )
    command.wait_for("Exporting HTTP/REST API")
    predict(f"127.0.0.1:{ports[0]}")
    page = rest(ports[1], "/metrics")
    line = ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} 1'
    assert line in page.splitlines()
    with pytest.raises(urllib.error.HTTPError) as error:
        rest(ports[1], "/monitoring/prometheus/metrics")
    error.value.close()


def test_concurrent_requests_are_answered_in_batches(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 2 } batch_timeout_micros { value: 60000000 } num_batch_threads { value: 2 }"
    )
    command = start(
        *HALF_PLUS_TWO, f"--port={ports[0]}", "--enable_batching", f"--batching_parameters_file={file}",
        "--generate_warmup=false", "--grpc_max_threads=8",
    )  # fmt: skip
    command.wait_for("Running gRPC ModelServer")
    # A batch of one row would wait a minute for the second.
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(predict, f"127.0.0.1:{ports[0]}", x=[x]) for x in (1.0, 2.0)]
        assert [each.result(LIMIT_S / 4) for each in asked] == [[3.5], [4.0]]
    with pytest.raises(grpc.RpcError) as error:
        predict(f"127.0.0.1:{ports[0]}", x=[1.0, 2.0, 3.0])
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_channel_arguments_reach_grpc(start: Start, ports: tuple[int, int]) -> None:
    command = start(
        *HALF_PLUS_TWO, f"--port={ports[0]}", "--grpc_channel_arguments=grpc.max_receive_message_length=64"
    )
    command.wait_for("Running gRPC ModelServer")
    with pytest.raises(grpc.RpcError) as error:
        predict(f"127.0.0.1:{ports[0]}", x=[0.0] * 100)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_key_and_a_certificate_make_it_tls(start: Start, ports: tuple[int, int], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    escaped = {each: each.read_text().replace("\n", "\\n") for each in (key, certificate)}
    file = tmp_path / "ssl.config"
    file.write_text(
        f'server_key: "{escaped[key]}" server_cert: "{escaped[certificate]}"'
        f' custom_ca: "{escaped[certificate]}" client_verify: true'
    )
    command = start(*HALF_PLUS_TWO, f"--port={ports[0]}", f"--ssl_config_file={file}")
    command.wait_for("Using SSL credentials")
    target = f"127.0.0.1:{ports[0]}"
    pem = certificate.read_bytes()
    known = grpc.ssl_channel_credentials(pem, key.read_bytes(), pem)
    assert predict(target, credentials=known) == HALVES
    for credentials in (grpc.ssl_channel_credentials(pem), None):
        with pytest.raises(grpc.RpcError):
            predict(target, credentials=credentials)


def test_a_second_signal_ends_it_at_once(start: Start, announcing_model: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="inserve-") as folder:
        target = f"unix:{folder}/grpc"
        command = start(
            "--model_name=slow", f"--model_base_path={announcing_model}", "--port=0",
            f"--grpc_socket_path={folder}/grpc", "--grpc_transport=grpcio",
        )  # fmt: skip
        command.wait_for("Running gRPC ModelServer")
        begun = tmp_path / "begun"
        with grpc.insecure_channel(target, NO_PROXY) as channel:
            ask: Any = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                request_serializer=messages.PredictRequest.SerializeToString,
                response_deserializer=messages.PredictResponse.FromString,
            )
            unending = ask.future(request_that_announces("slow", begun, 1_000_000))
            wait_until_begun(begun)
            command.process.send_signal(signal.SIGTERM)
            command.wait_for("A signal came")
            status, _ = command.end()
            assert unending.exception(LIMIT_S) is not None
        assert status == -signal.SIGTERM


def test_every_address_of_the_machine_is_listened_on(start: Start, ports: tuple[int, int]) -> None:
    command = start(*HALF_PLUS_TWO, f"--port={ports[0]}", "--allow_remote_reload=false")
    command.wait_for("Running gRPC ModelServer")
    assert predict(f"127.0.0.2:{ports[0]}") == HALVES
    assert not any("may replace the models" in line for line in command.messages())


def test_a_rest_port_that_is_taken_leaves_grpc(start: Start, ports: tuple[int, int]) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", ports[1]))
        other.listen()
        command = start(*HALF_PLUS_TWO, f"--port={ports[0]}", f"--rest_api_port={ports[1]}")
        command.wait_for(f"Failed to start HTTP Server at localhost:{ports[1]}")
        assert predict(f"127.0.0.1:{ports[0]}") == HALVES


def test_the_log_keeps_to_the_level_of_the_environment(start: Start, ports: tuple[int, int]) -> None:
    command = start(
        *HALF_PLUS_TWO, f"--port={ports[0]}", f"--rest_api_port={ports[0]}", TF_CPP_MIN_LOG_LEVEL="2"
    )
    command.wait_for("server_options.http_port cannot be same as grpc_port.")
    assert not any(line.startswith("Running gRPC") or "may replace" in line for line in command.messages())


def test_what_is_unknown_is_said_with_the_usage_and_the_server_starts(
    start: Start, ports: tuple[int, int]
) -> None:
    command = start(*HALF_PLUS_TWO, "--nonsense=1", f"--port={ports[0]}", "more")
    command.wait_for("Running gRPC ModelServer")
    assert predict(f"127.0.0.1:{ports[0]}") == HALVES
    status, stdout = command.end()
    assert status == 0
    assert stdout.startswith("unknown argument: --nonsense=1\nusage: ")


@pytest.mark.nightly
def test_a_tflite_version_is_preferred(start: Start, ports: tuple[int, int], tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    program = (
        "import sys, tensorflow as tf\n"
        "f = tf.function(lambda x: {'y': x * 3}, [tf.TensorSpec([None], tf.float32, name='x')])\n"
        "module = tf.Module()\n"
        "module.f = f\n"
        "signatures = [f.get_concrete_function()]\n"
        "flatbuffer = tf.lite.TFLiteConverter.from_concrete_functions(signatures, module).convert()\n"
        "open(sys.argv[1], 'wb').write(flatbuffer)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(folder / "model.tflite")], check=True, capture_output=True
    )
    command = start(
        "--model_name=m", f"--model_base_path={folder.parent}", f"--port={ports[0]}",
        "--prefer_tflite_model", "--num_tflite_pools=1",
    )  # fmt: skip
    command.wait_for("Running gRPC ModelServer")
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    with grpc.insecure_channel(f"127.0.0.1:{ports[0]}", NO_PROXY) as channel:
        ask: Any = channel.unary_unary(
            "/tensorflow.serving.PredictionService/GetModelMetadata",
            request_serializer=messages.GetModelMetadataRequest.SerializeToString,
            response_deserializer=messages.GetModelMetadataResponse.FromString,
        )
        assert ask(request, timeout=LIMIT_S).model_spec.version.value == 1
    assert predict(f"127.0.0.1:{ports[0]}", "m", [1.0, 2.0]) == [3.0, 6.0]


@pytest.mark.parametrize(
    ("flag", "stdout"),
    [
        ("--model_config_file=FILE", "INVALID_ARGUMENT: Invalid protobuf file: 'FILE'"),
        ("--ssl_config_file=FILE", "INVALID_ARGUMENT: Invalid protobuf file: 'FILE'"),
        ("--monitoring_config_file=FILE.missing", "NOT_FOUND: FILE.missing; No such file or directory"),
    ],
)
def test_a_bad_file_is_said_on_stdout_with_status_255(
    flag: str, stdout: str, start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / "bad"
    file.write_text("nonsense\n")
    command = start(
        *HALF_PLUS_TWO, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", flag.replace("FILE", str(file))
    )
    expected = f"Failed to start server. Error: {stdout}\n".replace("FILE", str(file))
    assert command.wait() == (255, expected)
