"""Models for the tests of TFLite versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inserve.tflite.load_tflite import load_tflite
from inserve.tflite.tflite_session import LoadedTfliteModel

SCRIPT = Path(__file__).with_name("tflite_models.py")

LoadModel = Callable[..., LoadedTfliteModel]


@pytest.fixture(scope="session")
def tflite_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that ``tflite_models.py`` writes."""
    folder = tmp_path_factory.mktemp("models") / "tflite"
    folder.mkdir()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def load(tflite_models: Path) -> Iterator[LoadModel]:
    """Load models by name; they are closed after the test."""
    models: list[LoadedTfliteModel] = []

    def load_by_name(name: str, num_pools: int = 1, num_interpreters_per_pool: int = 1) -> LoadedTfliteModel:
        path = str(tflite_models / name / "model.tflite")
        models.append(load_tflite(path, num_pools, num_interpreters_per_pool))
        return models[-1]

    yield load_by_name
    for model in models:
        model.close()
