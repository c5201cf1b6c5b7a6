"""Outputs and exit statuses that need no server; those of a running one are in ``tests/end_to_end``."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest

import inserve
from inserve.cli.flag_parser import usage
from inserve.cli.flags import flag_table
from inserve.cli.tensorflow_model_server import run

USAGE = usage("server", [info for info in flag_table() if not info.is_extra])
VERSIONS = f"TensorFlow ModelServer: {inserve.__version__}\nTensorFlow Library: {version('tensorflow')}\n"
NO_MODEL = (
    "Failed to start server. Error: INVALID_ARGUMENT: "
    "Both server_options.model_base_path and server_options.model_config_file are empty!\n"
)


@pytest.fixture(autouse=True)
def _log_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inserve.cli.log_lines.log_to_stderr", lambda: None)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "stdout", "status"),
    [
        (["--version"], VERSIONS, 0),
        (["--version=TRUE"], VERSIONS, 0),
        (["--version=false", "--version"], VERSIONS, 0),
        (["--nonsense=1", "--version"], VERSIONS, 0),
        (["--version=false"], NO_MODEL, 255),
        ([], NO_MODEL, 255),
        (["--help"], USAGE, 255),
        (["--help", "--version"], USAGE, 255),
        (["--port=1", "--help"], USAGE, 255),
        (["-h"], f"unknown argument: -h\n{USAGE}{NO_MODEL}", 255),
        (["x", "--help"], f"unknown argument: x\n{USAGE}{NO_MODEL}", 255),
        (["--port", "8500"], f"unknown argument: --port\n{USAGE}{NO_MODEL}", 255),
        (["-version"], f"unknown argument: -version\n{USAGE}{NO_MODEL}", 255),
        (["--", "--version"], f"unknown argument: --\n{USAGE}{NO_MODEL}", 255),
        (["--port=abc", "--version"], USAGE, 255),
    ],
)
def test_the_outcome_is_the_recorded_one(
    arguments: list[str], stdout: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("server", arguments) == status
    assert capsys.readouterr().out == stdout


def test_each_value_that_cannot_be_read_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "inserve"):
        assert run("server", ["--port=abc", "--enable_batching=yes"]) == 255
    assert caplog.messages == [
        "Couldn't interpret value abc for flag port.",
        "Couldn't interpret value yes for flag enable_batching.",
    ]


def test_helpfull_also_lists_the_flags_of_inserve(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("server", ["--helpfull"]) == 255
    text = capsys.readouterr().out
    assert text.startswith(USAGE)
    assert "\t--drain_seconds=30.000000" in text


def test_a_grpc_port_that_is_taken_is_an_error(
    taken_port: int, tmp_path: object, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = f"{tmp_path}/models"
    with open(config, "w") as file:
        file.write("# none\n")
    with caplog.at_level(logging.ERROR, "inserve"):
        status = run("server", [f"--model_config_file={config}", f"--port={taken_port}"])
    assert status == 255
    assert capsys.readouterr().out == (
        "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server\n"
    )
    assert any(str(taken_port) in line for line in caplog.messages)


def test_neither_help_nor_a_failed_check_loads_anything_heavy() -> None:
    program = (
        "import sys\n"
        "from inserve.cli.tensorflow_model_server import run\n"
        "run('server', ['--help'])\n"
        "run('server', ['--version'])\n"
        "run('server', ['--port=0'])\n"
        "heavy = {'tensorflow', 'grpc', 'pygrpc_native', 'cffi', 'numpy', 'google.protobuf', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
