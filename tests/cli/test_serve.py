from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.fixtures.announcing import request_that_announces, wait_until_begun

from inserve.cli.flags import Flags, flag_table
from inserve.cli.main import main
from inserve.cli.predict_call import predict_over
from inserve.cli.tensorflow_model_server import version_text
from inserve.demo_data.digits import digits_base_path, load_held_out_digits
from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

MODELS = Path(__file__).parent.parent / "golden" / "models"
LIMIT_S = 120.0
LOOPS = 1000
"""About a second of work for the model that announces itself."""
COMMAND = [sys.executable, "-c", "from inserve.cli.main import main; main()", "serve"]


def predict_request(model: str, signature: str, **inputs: Any) -> messages.PredictRequest:
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tensor_to_message(np.asarray(value)))
    return request


class Serving:
    """The command in a process of its own; ``lines`` is what it printed up to ``ready``."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._limit = threading.Timer(LIMIT_S, self.process.kill)
        self._limit.start()
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready"):
                break

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; return exit status, the rest of stdout, and stderr."""
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout, stderr

    def close(self) -> None:
        self._limit.cancel()
        self._limit.join()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path that is short enough for a socket, which ``tmp_path`` need not be."""
    folder = tempfile.mkdtemp(prefix="inserve-")
    yield Path(folder) / "grpc"
    shutil.rmtree(folder)


@pytest.fixture
def start() -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start_serving(*arguments: object) -> Serving:
        started.append(Serving([str(argument) for argument in arguments]))
        return started[-1]

    yield start_serving
    for serving in started:
        serving.close()


def serve(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["serve", *map(str, arguments)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_serves_and_a_signal_ends_it_with_0(
    number: signal.Signals, start: Callable[..., Serving], socket_path: Path
) -> None:
    serving = start(
        "--model_name=digits",
        f"--model_base_path={digits_base_path()}",
        "--port=0",
        f"--grpc_socket_path={socket_path}",
    )
    assert serving.lines[0] == f"model digits: version 1 of {digits_base_path()}"
    assert serving.lines[1].endswith(f"on unix:{socket_path}")
    digits = load_held_out_digits()
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        outputs = predict_over(channel, "digits", LIMIT_S)({"images": digits.images})
    assert (outputs["classes"] == digits.labels).sum() >= 18
    status, stdout, stderr = serving.end(number)
    assert (status, stdout) == (0, "stopping\nstopped\n")
    assert "Traceback" not in stderr
    assert not socket_path.exists()


def test_rest_is_served_beside_grpc(start: Callable[..., Serving], socket_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = start(
        f"--model_base_path={digits_base_path()}", "--port=0", f"--grpc_socket_path={socket_path}",
        f"--rest_api_port={port}",
    )  # fmt: skip
    assert serving.lines[2] == f"REST on 127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/v1/models/default", timeout=LIMIT_S) as response:
        assert json.load(response)["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_the_chosen_transport_serves_tcp(transport: str, start: Callable[..., Serving]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = start(
        "--model_name", "digits", "--model_base_path", digits_base_path(), "--port", port,
        "--grpc_transport", transport,
    )  # fmt: skip
    assert serving.lines[1] == f"gRPC ({transport}) on 127.0.0.1:{port}"
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        outputs = predict_over(channel, "digits", LIMIT_S)({"images": np.zeros((1, 8, 8, 1), np.float32)})
    assert outputs["probabilities"].shape == (1, 10)


def test_a_running_request_is_answered_before_the_process_ends(
    start: Callable[..., Serving], socket_path: Path, announcing_model: Path, tmp_path: Path
) -> None:
    serving = start(
        "--model_name=slow", f"--model_base_path={announcing_model}", "--port=0",
        f"--grpc_socket_path={socket_path}",
    )  # fmt: skip
    begun = tmp_path / "begun"
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        ask = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        slow = ask.future(request_that_announces("slow", begun, LOOPS), timeout=LIMIT_S)
        wait_until_begun(begun)
        status, stdout, _ = serving.end(signal.SIGTERM)
        answer = slow.result(timeout=LIMIT_S)
    assert (status, stdout) == (0, "stopping\nstopped\n")
    assert tensor_from_message(answer.outputs["y"]).shape == ()


def test_models_of_a_config_file_are_served(
    start: Callable[..., Serving], socket_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "models.txt"
    config.write_text(
        "model_config_list {"
        f' config {{ name: "digits" base_path: "{digits_base_path()}" model_platform: "tensorflow" }}'
        f' config {{ name: "half" base_path: "{MODELS / "half_plus_two"}" model_platform: "tensorflow" }} }}'
    )
    serving = start(f"--model_config_file={config}", "--port=0", f"--grpc_socket_path={socket_path}")
    assert [line.split()[1] for line in serving.lines[:2]] == ["digits:", "half:"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "expected either --model_base_path or --model_config_file"),
        (["--model_base_path=m", "--model_config_file=f"], "expected either --model_base_path"),
        (["--model_base_path=m", "--port=0"], "expected a --port above 0 or --grpc_socket_path"),
        (["--model_base_path=m", "--port=70000"], "70000 is above 65535"),
        (["--model_base_path=m", "--port=x"], "'x' is not int32"),
        (["--model_base_path=m", "--num_load_threads=-1"], "-1 is below 0"),
        (["--model_base_path=m", "--rest_api_port=8500"], "expected --rest_api_port to differ"),
        (["--model_base_path=m", "--host="], "expected an address after --host"),
        (["--model_base_path=m", "--check_input_shapes", "--nocheck_input_shapes"], "expected either"),
        (["--model_base_path=m", "--nonsense=1"], "No such option"),
        (["--model_base_path=m", "--model_name="], "a model needs a name"),
        (["--model_base_path=m", "--grpc_transport=pigeon"], "'pigeon' is not auto or native or grpcio"),
    ],
)
def test_wrong_usage_is_said_with_exit_status_2(arguments: list[str], text: str) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert text in result.stderr


def test_a_folder_without_a_model_is_one_line_on_stderr_with_exit_status_1(
    tmp_path: Path, socket_path: Path
) -> None:
    done = subprocess.run(
        [*COMMAND, f"--model_base_path={tmp_path}", "--port=0", f"--grpc_socket_path={socket_path}"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(tmp_path) in errors[0]
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_an_error(start: Callable[..., Serving], socket_path: Path) -> None:
    arguments = (f"--model_base_path={digits_base_path()}", "--port=0", f"--grpc_socket_path={socket_path}")
    start(*arguments)
    second = start(*arguments)
    assert second.lines == []
    assert second.process.wait() == 1


def test_the_signal_handlers_are_given_back(tmp_path: Path, socket_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert (
        serve(f"--model_base_path={tmp_path}", "--port=0", f"--grpc_socket_path={socket_path}").exit_code == 1
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_while_it_waits_for_a_model_ends_it_with_0(tmp_path: Path, socket_path: Path) -> None:
    (tmp_path / "1").mkdir()
    process = subprocess.Popen(
        [*COMMAND, f"--model_base_path={tmp_path}", "--port=0", f"--grpc_socket_path={socket_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(LIMIT_S, process.kill)
    limit.start()
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting for saved_model.pb" in line:
            process.send_signal(signal.SIGTERM)
            break
    stdout, stderr = process.communicate()
    limit.cancel()
    limit.join()
    assert (process.returncode, stdout) == (0, "stopping\nstopped\n")
    assert "Traceback" not in stderr


def test_help_shows_every_flag_by_group() -> None:
    result = serve("--help")
    assert result.exit_code == 0
    for info in flag_table():
        assert re.search(rf"\n  --{info.name} ", result.stdout), info.name
    groups = re.findall(r"(?m)^(\w.*):$", result.stdout)
    assert groups == [
        "Models", "Network", "Loading", "Batching", "Runtime", "Diagnostics", "Accepted without effect",
        "Other",
    ]  # fmt: skip


@pytest.mark.parametrize("separator", ["=", " "])
def test_the_defaults_are_the_careful_ones_and_flags_change_them(
    separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Flags, frozenset[str]]] = []

    def plan(flags: Flags, given: frozenset[str]) -> None:
        seen.append((flags, given))
        raise InvalidArgumentError("seen")

    monkeypatch.setattr("inserve.cli.server_plan.plan_server", plan)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    assert serve("--model_base_path=/m").exit_code == 1
    assert seen[0][0] == Flags(
        model_base_path="/m",
        host="127.0.0.1",
        allow_version_labels_for_unavailable_models=True,
        num_load_threads=2,
        num_unload_threads=1,
        max_num_load_retries=0,
        grpc_max_threads=max(32, Flags.grpc_max_threads),
        enable_profiler=False,
        enable_reflection=False,
        allow_remote_reload=False,
        check_input_shapes=True,
        strict_batching=False,
        gpu_memory_growth=True,
        check_complete=True,
        initial_wait="available",
        reload_failed_after_seconds=30.0,
    )
    assert seen[0][1] == {"model_base_path"}
    assert (
        serve(
            "--model_base_path=/m", *f"--rest_api_port{separator}85".split(" "), "--enable_batching",
            *f"--drain_seconds{separator}1.5".split(" "), "--nocheck_input_shapes", "--custom_ops=a,b",
            "--custom_ops=c",
        ).exit_code
        == 1
    )  # fmt: skip
    flags, given = seen[1]
    assert (flags.rest_api_port, flags.enable_batching, flags.drain_seconds) == (85, True, 1.5)
    assert (flags.check_input_shapes, flags.custom_ops) == (False, "a,b,c")
    assert given == {
        "model_base_path", "rest_api_port", "enable_batching", "drain_seconds", "check_input_shapes",
        "custom_ops",
    }  # fmt: skip


def test_version_is_that_of_the_model_server() -> None:
    result = serve("--version")
    assert (result.exit_code, result.stdout) == (0, version_text())


def test_a_config_file_that_does_not_parse_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("x")
    result = serve(f"--model_config_file={tmp_path / 'bad'}")
    assert result.exit_code == 1
    assert f"Error: Invalid protobuf file: '{tmp_path / 'bad'}'" in result.stderr


@pytest.mark.parametrize("flag", ["--check_complete", "--allow_remote_reload", "--enable_model_warmup"])
@pytest.mark.parametrize("value", ["", "=true", "=FALSE", "=1", "=0"])
def test_a_switch_is_given_as_tensorflow_serving_takes_it(
    flag: str, value: str, tmp_path: Path, socket_path: Path
) -> None:
    result = serve(
        f"--model_base_path={tmp_path}", "--port=0", f"--grpc_socket_path={socket_path}", flag + value
    )
    assert result.exit_code == 1
    assert "No versions of servable default found" in result.stderr


def test_flags_of_the_lifecycle_reach_the_server(start: Callable[..., Serving], socket_path: Path) -> None:
    serving = start(
        "--model_name=digits", f"--model_base_path={digits_base_path()}", "--port=0",
        f"--grpc_socket_path={socket_path}", "--check_complete=false", "--initial_wait=settled",
        "--num_load_threads=0", "--num_unload_threads=0", "--max_num_load_retries=1",
        "--load_retry_interval_micros=-1", "--reload_failed_after_seconds=0", "--allow_remote_reload=true",
        "--allow_version_labels_for_unavailable_models=false",
    )  # fmt: skip
    assert serving.lines[0] == f"model digits: version 1 of {digits_base_path()}"
    request = messages.ReloadConfigRequest()
    request.config.model_config_list.config.add(
        name="digits", base_path=str(digits_base_path()), model_platform="tensorflow"
    ).version_labels["canary"] = 9
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        reload: Any = channel.unary_unary(
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest", None, None
        )
        with pytest.raises(grpc.RpcError) as error:
            reload(request.SerializeToString(), timeout=LIMIT_S)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "assign label to version 9 of model digits" in (error.value.details() or "")
