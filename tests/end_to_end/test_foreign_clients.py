"""Clients that nobody here wrote, and that know nothing of TensorFlow: they learn it by reflection."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inserve
from inserve.frontends.grpc_api.grpc_server import GrpcServer
from inserve.frontends.grpc_api.reflection_service import ReflectionHandler

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
NODE_FOLDER = Path(__file__).with_name("node")
INSTALL_LIMIT_S = 300.0
LIMIT_S = 60.0


@pytest.fixture(scope="module", params=["native", "grpcio"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    model = inserve.ModelConfig(
        "half_plus_two", MODELS / "half_plus_two", version_policy=inserve.Specific([1])
    )
    with inserve.Server(models=[model]) as server:
        listener = GrpcServer(
            server.grpc_methods,
            ["127.0.0.1:0"],
            transport=request.param,
            generic_handlers=[ReflectionHandler.of_methods(server.grpc_methods, 8)],
        )
        listener.start()
        yield f"127.0.0.1:{listener.port}"
        listener.stop()


@pytest.fixture(scope="module")
def node_client() -> Path:
    """The script beside its packages, installed once for each list of them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    sources = sorted(NODE_FOLDER.glob("*.js*"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"inserve-node-{os.getuid()}-{digest}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as made:
            fresh = Path(made) / "node"
            fresh.mkdir()
            for source in sources:
                shutil.copy(source, fresh)
            install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(install, cwd=fresh, check=True, timeout=INSTALL_LIMIT_S)
            try:
                fresh.rename(folder)
            except OSError:
                assert folder.exists()  # another run was faster
    return folder / "reflect_and_predict.js"


@pytest.fixture(params=["v1", "v1alpha"])
def said(request: pytest.FixtureRequest, node_client: Path, address: str) -> dict[str, Any]:
    """What grpc-js got, over each of the two reflection protocols."""
    run = subprocess.run(
        ["node", str(node_client), address, request.param],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said: dict[str, Any] = json.loads(run.stdout)
    return said


def test_node_calls_a_service_that_it_learnt_by_reflection(said: dict[str, Any]) -> None:
    assert "tensorflow.serving.PredictionService" in said["services"]
    assert "tensorflow.serving.ModelService" in said["services"]
    assert sorted(said["methods"]) == [
        "Classify",
        "GetModelMetadata",
        "MultiInference",
        "Predict",
        "Regress",
    ]
    answer = said["answer"]
    (output,) = answer["outputs"]
    assert output["key"] == "y"
    assert output["value"]["float_val"] == [2.5, 3.0, 4.5]
    assert output["value"]["dtype"] == "DT_FLOAT"
    assert output["value"]["tensor_shape"]["dim"] == [{"size": "3", "name": ""}]
    assert answer["model_spec"]["version"] == {"value": "1"}
    assert answer["model_spec"]["name"] == "half_plus_two"
    assert answer["model_spec"]["signature_name"] == "serving_default"
    assert said["refusal"] == {"code": 5, "details": "Servable not found for request: Latest(none)"}
