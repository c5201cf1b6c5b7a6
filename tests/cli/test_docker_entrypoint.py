"""The image's interface, as far as it shows without Docker: what the entrypoint starts, and how."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "docker" / "tf_serving_entrypoint.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def fake_server(tmp_path: Path) -> Path:
    """Return a folder with a server that prints its process id and its arguments, a line each."""
    server = tmp_path / "tensorflow_model_server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$$" "$@"\n')
    server.chmod(0o755)
    return tmp_path


def started_with(folder: Path, arguments: list[str], **environment: str) -> tuple[int, list[str]]:
    """Return the process id of the entrypoint, and what the server that it starts prints."""
    process = subprocess.Popen(
        [ENTRYPOINT, *arguments],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    stdout, _ = process.communicate()
    return process.pid, stdout.splitlines()


def test_it_passes_the_model_of_the_environment_and_then_the_container_s_arguments(fake_server: Path) -> None:
    _, lines = started_with(
        fake_server, ["--port=9", "--model_config_file=/a b"], MODEL_NAME="prices", MODEL_BASE_PATH="/models"
    )
    assert lines[1:] == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=prices",
        "--model_base_path=/models/prices",
        "--port=9",
        "--model_config_file=/a b",
    ]


def test_names_with_blanks_stay_one_argument(fake_server: Path) -> None:
    _, lines = started_with(fake_server, [], MODEL_NAME="a b", MODEL_BASE_PATH="/my models")
    assert lines[-2:] == ["--model_name=a b", "--model_base_path=/my models/a b"]


def test_the_server_takes_the_place_of_the_entrypoint_so_that_signals_reach_it(fake_server: Path) -> None:
    pid, lines = started_with(fake_server, [], MODEL_NAME="m", MODEL_BASE_PATH="/models")
    assert int(lines[0]) == pid


@pytest.mark.parametrize(
    "line",
    [
        r"ENV MODEL_BASE_PATH=/models MODEL_NAME=model",
        r"EXPOSE 8500 8501",
        r'ENTRYPOINT \["/usr/bin/tf_serving_entrypoint.sh"\]',
        r"RUN mkdir -p \$\{MODEL_BASE_PATH\}",
        r"COPY docker/tf_serving_entrypoint.sh /usr/bin/tf_serving_entrypoint.sh",
    ],
)
def test_the_image_has_the_interface_of_tensorflow_serving_s(line: str) -> None:
    assert re.search(f"(?m)^{line}$", DOCKERFILE)


def test_the_server_is_where_the_image_of_tensorflow_serving_has_it() -> None:
    assert " /usr/bin/tensorflow_model_server" in DOCKERFILE
