"""Models for the tests with the real library."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inserve.tensorflow_c.load_saved_model import LoadedSavedModel, load_saved_model

GOLDEN = Path(__file__).parent.parent / "golden" / "models"
SOURCE = Path(__file__).parent.parent.parent / "src"


@pytest.fixture(scope="session")
def half_plus_two_path() -> str:
    return str(GOLDEN / "half_plus_two" / "1")


@pytest.fixture(scope="session")
def golden_models() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def extra_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SavedModels written by ``extra_models.py``: ``identities``, ``memory``, ``queue``."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("extra_models.py")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run(
        [sys.executable, str(script), str(folder)], check=True, env=environment, capture_output=True
    )
    return folder


@pytest.fixture
def load() -> Iterator[Callable[[Path | str], LoadedSavedModel]]:
    """Load SavedModels that are closed after the test."""
    models: list[LoadedSavedModel] = []

    def load_and_remember(path: Path | str) -> LoadedSavedModel:
        models.append(load_saved_model(str(path)))
        return models[-1]

    yield load_and_remember
    for model in models:
        model.close()


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Python program in a child process, with arguments; it is killed after two minutes."""

    def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": str(SOURCE), "CUDA_VISIBLE_DEVICES": "", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def resident_bytes() -> Callable[[], int]:
    """Return the size of this process in memory, after a garbage collection."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("needs /proc/self/statm")

    def measure() -> int:
        gc.collect()
        return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    return measure
