"""What the whole suite shares: the versions in the header of a run, and a model that tells when it runs."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

import pytest

# The golden answers were recorded with oneDNN's kernels; TensorFlow leaves them off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# The judge of the golden corpus silences TensorFlow where nothing is set; tests of its log lines follow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
# What was measured on another day must not decide how the suite's models are run.
os.environ["INSERVE_CACHE_DIR"] = tempfile.mkdtemp(prefix="inserve-test-cache-")
atexit.register(shutil.rmtree, os.environ["INSERVE_CACHE_DIR"], ignore_errors=True)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _tensorflow_library() -> str:
    """Name the shared library and its folder; TensorFlow itself is not imported."""
    spec = util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        return "not found (pip install 'inserve[cpu]')"
    folder = Path(spec.origin).parent
    libraries = sorted(folder.glob("libtensorflow_cc.*"))
    version = next(
        (found for found in map(_version, ("tensorflow", "tensorflow-cpu")) if found != "not installed"),
        "of unknown version",
    )
    if not libraries:
        return f"{version}, no libtensorflow_cc in {folder}"
    return f"{version}, {libraries[-1]}"


def pytest_report_header() -> list[str]:
    return [
        f"TensorFlow library: {_tensorflow_library()}",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("protobuf", "grpcio", "pygrpc-native", "numpy")),
    ]


@pytest.fixture(scope="session")
def announcing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base path whose model writes the file ``begun``, then works for about ``loops`` ms.

    That two requests were sent one after the other on one gRPC connection does not tell which is received
    first, so the answer to the second is no sign that the first has begun.
    """
    base = tmp_path_factory.mktemp("announcing")
    writer = Path(__file__).parent / "fixtures" / "announcing_model.py"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run(
        [sys.executable, str(writer), str(base / "1")], check=True, env=environment, capture_output=True
    )
    return base
