from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from inserve.cli import predict_call
from inserve.cli.main import main
from inserve.cli.predict_call import Arrays, Predict
from inserve.demo_data.digits import load_held_out_digits

LAST_LINE = re.compile(r"6 of 6 ways agree; (\d+) of 20 digits, none seen in training, were read correctly\.")


@pytest.fixture(scope="module")
def piped() -> subprocess.CompletedProcess[bytes]:
    """What the demo does when its output goes into a pipe."""
    return subprocess.run(
        [sys.executable, "-c", "from inserve.cli.main import main; main()", "demo", "--calls=3"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"},
    )


def test_every_way_gives_the_same_answer(piped: subprocess.CompletedProcess[bytes]) -> None:
    assert piped.returncode == 0, piped.stderr
    found = LAST_LINE.fullmatch(piped.stdout.decode().splitlines()[-1])
    assert found is not None
    assert 18 <= int(found[1]) <= 20


def test_every_digit_is_shown_with_what_was_read(piped: subprocess.CompletedProcess[bytes]) -> None:
    shown = re.findall(r"read (\d)(?:, is (\d))?", piped.stdout.decode())
    labels = [int(true or read) for read, true in shown]
    assert labels == load_held_out_digits().labels.tolist()


def test_each_way_has_a_latency(piped: subprocess.CompletedProcess[bytes]) -> None:
    rows = re.findall(r"^ +(\S.*\S) {2,}([\d,]+) *$", piped.stdout.decode(), re.MULTILINE)
    assert [title for title, _ in rows] == [
        "inserve.load: model(images=...)",
        "server.predict(...)",
        "gRPC stub, no socket: server.channel()",
        "gRPC over a Unix socket",
        "gRPC over TCP",
        "REST, JSON",
    ]
    assert all(int(number.replace(",", "")) > 0 for _, number in rows)


def test_the_output_fits_80_columns_and_has_no_colour_codes(
    piped: subprocess.CompletedProcess[bytes],
) -> None:
    text = piped.stdout.decode()
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_a_way_that_disagrees_is_named_with_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    real = predict_call.predict_over

    def wrong_over_sockets(channel: object, model_name: str, timeout_s: float) -> Predict:
        predict = real(channel, model_name, timeout_s)

        def altered(inputs: Arrays) -> Arrays:
            outputs = predict(inputs)
            return {**outputs, "classes": np.zeros_like(outputs["classes"])}

        return altered

    monkeypatch.setattr(predict_call, "predict_over", wrong_over_sockets)
    result = CliRunner().invoke(main, ["demo", "--calls=1"])
    assert result.exit_code == 1
    assert "3 of 6 ways agree" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("Error: not the same answer as inserve.load")
    assert "gRPC over TCP" in result.stderr
