"""A MobileNetV2 without trained weights, exported once by a child process and kept between runs.

The export needs TensorFlow's Python part, which must not run beside what is measured. The folder is
``inserve-benchmarks`` in the user's cache (``XDG_CACHE_HOME`` or ``~/.cache``).

usage: python mobilenet.py    prints the base path
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGE = (224, 224, 3)
_EXPORT = """
import sys, tensorflow as tf
tf.keras.utils.set_random_seed(1)
model = tf.keras.applications.MobileNetV2(weights=None)
spec = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")
model.export(sys.argv[1], verbose=False, input_signature=[spec])
"""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "inserve-benchmarks"


def runtime_version() -> str:
    """Return the version of the installed TensorFlow, whichever package brought it."""
    for package in importlib.metadata.distributions():
        if package.name in ("tensorflow", "tensorflow-cpu"):
            return package.version
    sys.exit("this script needs tensorflow or tensorflow-cpu")


def mobilenet_base_path() -> Path:
    """Return a base path with version 1 of the model; the first call takes some seconds."""
    base = cache_folder() / f"mobilenet_v2_tensorflow_{runtime_version()}"
    if not (base / "1").is_dir():
        base.mkdir(parents=True, exist_ok=True)
        # Moved in as a whole, so that an export that was cut off is never taken for a model.
        written = Path(tempfile.mkdtemp(dir=cache_folder()))
        try:
            subprocess.run(
                [sys.executable, "-c", _EXPORT, str(written / "1")],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            )
            (written / "1").rename(base / "1")
        finally:
            shutil.rmtree(written, ignore_errors=True)
    return base


if __name__ == "__main__":
    print(mobilenet_base_path())
