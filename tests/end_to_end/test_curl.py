"""The REST API as curl sees it: the commands that people type."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inserve

MODEL = Path(__file__).resolve().parents[1] / "golden" / "models" / "half_plus_two"
CURL = shutil.which("curl")
LIMIT_S = 60

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with inserve.Server({"half_plus_two": MODEL}, rest="127.0.0.1:0", rest_cors=True, tune=False) as server:
        yield f"http://127.0.0.1:{server.rest_port}/v1/models/half_plus_two"


def curl(*arguments: str) -> bytes:
    """Return what curl prints; a failure of curl, or a status of 400 and more, fails the test."""
    command = [str(CURL), "--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]
    done = subprocess.run(
        [*command, "--max-time", str(LIMIT_S), *arguments],
        capture_output=True,
        check=False,
        timeout=2 * LIMIT_S,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def curl_json(*arguments: str) -> Any:
    return json.loads(curl(*arguments))


def test_curl_predicts(url: str) -> None:
    body = '{"instances": [1.0, 2.0, 5.0]}'
    assert curl_json("-d", body, f"{url}:predict") == {"predictions": [3.5, 4.0, 5.5]}


def test_curl_predicts_again_on_the_same_connection(url: str) -> None:
    body = '{"inputs": [1.0]}'
    printed = curl("-w", "connects: %{num_connects}\n", "-d", body, *[f"{url}:predict"] * 3).decode()
    assert printed.count("3.5") == 3
    connects = [line.rpartition(" ")[2] for line in printed.splitlines() if "connects" in line]
    assert connects == ["1", "0", "0"]


def test_curl_sends_a_large_body_after_100_continue(url: str, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text(json.dumps({"inputs": [1.0] * 500_000}))
    arguments = ["--data-binary", f"@{tmp_path}/body.json", "-H", "Expect: 100-continue"]
    assert curl_json(*arguments, f"{url}:predict") == {"outputs": [3.5] * 500_000}


def test_curl_sends_a_body_in_chunks(url: str, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"inputs": [1.0, 2.0]}')
    arguments = ["-X", "POST", "-T", f"{tmp_path}/body.json", "-H", "Transfer-Encoding: chunked"]
    assert curl_json(*arguments, f"{url}:predict") == {"outputs": [3.5, 4.0]}


def test_curl_asks_for_the_status(url: str) -> None:
    status = {"error_code": "OK", "error_message": ""}
    assert curl_json(url) == {
        "model_version_status": [{"version": "2", "state": "AVAILABLE", "status": status}]
    }


def test_curl_asks_for_the_metadata(url: str) -> None:
    metadata = curl_json(f"{url}/metadata")
    assert metadata["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "2"}
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]


def test_curl_sends_a_compressed_body(url: str, tmp_path: Path) -> None:
    (tmp_path / "body.gz").write_bytes(gzip.compress(b'{"instances": [1.0]}'))
    arguments = ["-H", "Content-Encoding: gzip", "--data-binary", f"@{tmp_path}/body.gz"]
    assert curl_json(*arguments, f"{url}:predict") == {"predictions": [3.5]}


def test_curl_uploads_an_array_and_gets_one(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1, 2, 5], np.float32))
    kind = "application/x-npy"
    arguments = [
        "-H",
        f"Content-Type: {kind}",
        "-H",
        f"Accept: {kind}",
        "--data-binary",
        f"@{tmp_path}/x.npy",
    ]
    array = np.load(io.BytesIO(curl(*arguments, f"{url}:predict")), allow_pickle=False)
    assert (array.dtype, array.tolist()) == (np.float32, [3.5, 4.0, 5.5])


def test_curl_asks_as_a_browser_does_before_it_posts_from_elsewhere(url: str) -> None:
    headers = ["Origin: http://example.com", "Access-Control-Request-Method: POST"]
    arguments = [part for header in headers for part in ("-H", header)]
    answer = curl("-i", "-X", "OPTIONS", *arguments, f"{url}:predict").decode()
    lines = answer.splitlines()
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Access-Control-Allow-Origin: *" in lines
    assert "Access-Control-Allow-Methods: POST, GET" in lines
    assert "Access-Control-Allow-Headers: Content-Type" in lines


def test_curl_fails_where_the_request_is_wrong(url: str) -> None:
    done = subprocess.run(
        [str(CURL), "-s", "--fail-with-body", "--noproxy", "*", "-d", "{", f"{url}:predict"],
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 22
    assert list(json.loads(done.stdout)) == ["error"]
