"""What the whole suite shares: the versions in the header of a run."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path

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
