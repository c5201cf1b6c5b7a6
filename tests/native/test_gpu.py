"""What needs a GPU runs only where TensorFlow sees one, each in a process of its own, because the memory
of a GPU is taken once per process; what needs none runs everywhere."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inserve.protos import messages
from inserve.tensorflow_c.devices import short_device_name, with_gpu_memory

SOURCE = Path(__file__).parent.parent.parent / "src"
GOLDEN = Path(__file__).parent.parent / "golden" / "models"

LIST = """
import json
from inserve.tensorflow_c.devices import list_devices, with_gpu_memory
print(json.dumps([[device.short_name, device.memory_bytes] for device in list_devices(with_gpu_memory(b""))]))
"""


def child(program: str, *arguments: str) -> Any:
    """Return what the last line of *program* says as JSON; unlike elsewhere it may see GPUs."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def gpus() -> dict[str, int]:
    """Return the bytes that TensorFlow may take of each GPU."""
    return {name: size for name, size in child(LIST) if name.startswith("GPU:")}


@pytest.fixture
def gpu() -> str:
    if not gpus():
        pytest.skip("needs a GPU, and TensorFlow sees none")
    return next(iter(gpus()))


@pytest.fixture
def two_gpus() -> list[str]:
    if len(gpus()) < 2:
        pytest.skip(f"needs two GPUs, and TensorFlow sees {len(gpus())}")
    return list(gpus())[:2]


@pytest.fixture
def nvidia_smi() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        pytest.skip("needs nvidia-smi, which says how much memory of a GPU is used")
    return command


def gpu_options(config: bytes) -> messages.GPUOptions:
    return messages.ConfigProto.FromString(config).gpu_options


# --- without a GPU --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "GPU:1", "gpu:1", "/GPU:1", "/gpu:1", "/device:GPU:1", "device:gpu:01",
        "/job:localhost/replica:0/task:0/device:GPU:1", "/job:localhost/device:GPU:1",
    ],
)  # fmt: skip
def test_a_device_has_one_short_name(name: str) -> None:
    assert short_device_name(name) == "GPU:1"


def test_a_type_alone_means_its_first_device() -> None:
    assert short_device_name("GPU") == "GPU:0"
    assert short_device_name("xla_cpu") == "XLA_CPU:0"


def test_memory_grows_unless_something_else_is_said() -> None:
    assert gpu_options(with_gpu_memory(b"")).allow_growth
    threads = messages.ConfigProto(intra_op_parallelism_threads=3).SerializeToString()
    changed = messages.ConfigProto.FromString(with_gpu_memory(threads))
    assert changed.gpu_options.allow_growth
    assert changed.intra_op_parallelism_threads == 3


def test_growth_that_is_not_wanted_is_not_asked_for() -> None:
    assert with_gpu_memory(b"", growth=False) == b""


def test_a_config_that_says_something_of_gpus_is_the_last_word_on_growth() -> None:
    config = messages.ConfigProto(gpu_options=messages.GPUOptions(visible_device_list="0"))
    assert with_gpu_memory(config.SerializeToString()) == config.SerializeToString()


def test_a_share_goes_beside_growth_and_over_the_config() -> None:
    options = gpu_options(with_gpu_memory(b"", fraction=0.25))
    assert (options.allow_growth, options.per_process_gpu_memory_fraction) == (True, 0.25)
    config = messages.ConfigProto(gpu_options=messages.GPUOptions(per_process_gpu_memory_fraction=0.9))
    options = gpu_options(with_gpu_memory(config.SerializeToString(), fraction=0.25))
    assert (options.allow_growth, options.per_process_gpu_memory_fraction) == (False, 0.25)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="the share of a GPU's memory is"):
        with_gpu_memory(b"", fraction=fraction)


def test_what_is_no_config_is_left_to_tensorflow() -> None:
    assert with_gpu_memory(b"\xff") == b"\xff"


# --- with a GPU -----------------------------------------------------------------------------------

RUN = """
import json, logging, os, subprocess, sys
import numpy as np
from inserve.protos import messages
from inserve.replicas.replicated_session import replicate
from inserve.tensorflow_c.device_placement import place_on
from inserve.tensorflow_c.devices import list_devices, with_gpu_memory
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("inserve.tensorflow").addHandler(Lines())
logging.getLogger("inserve.tensorflow").setLevel(logging.INFO)

path, fraction, *devices = sys.argv[1:]
config = messages.ConfigProto.FromString(with_gpu_memory(b"", fraction=float(fraction) or None))
config.log_device_placement = True
config = config.SerializeToString()
load = replicate([(device, place_on(load_saved_model, device)) for device in devices])
model = load(path, ("serve",), config)
runner = model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
answers = [runner.run([np.array([1, 2], np.float32)])[0].tolist() for _ in range(4)]
used = {}
if "nvidia-smi" in os.environ.get("WITH", ""):
    text = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True).stdout
    used = [[int(number) for number in line.split(",")] for line in text.splitlines()]
print(json.dumps({
    "answers": answers,
    "variables": sorted({line.rpartition("device:")[2] for line in lines if "(VarHandleOp)" in line}),
    "memory": {device.short_name: device.memory_bytes for device in list_devices(config)},
    "used": used,
}))
"""
HALF_PLUS_TWO = str(GOLDEN / "half_plus_two" / "1")


def test_a_model_is_placed_on_a_gpu_and_answers(gpu: str) -> None:
    found = child(RUN, HALF_PLUS_TWO, "0", gpu)
    assert found["answers"] == [[2.5, 3.0]] * 4
    assert found["variables"] == [gpu]


def test_replicas_are_on_both_gpus_and_answer_alike(two_gpus: list[str]) -> None:
    found = child(RUN, HALF_PLUS_TWO, "0", *two_gpus)
    assert found["answers"] == [[2.5, 3.0]] * 4
    assert found["variables"] == two_gpus


def test_a_replica_on_the_cpu_stands_in_beside_one_on_the_gpu(gpu: str) -> None:
    found = child(RUN, HALF_PLUS_TWO, "0", gpu, "CPU:0")
    assert found["answers"] == [[2.5, 3.0]] * 4
    assert found["variables"] == ["CPU:0", gpu]


def test_a_small_model_takes_a_small_part_of_the_memory(
    gpu: str, nvidia_smi: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _used_mib(nvidia_smi)
    monkeypatch.setenv("WITH", "nvidia-smi")
    found = child(RUN, HALF_PLUS_TWO, "0", gpu)
    taken = [used - was for (used, _), was in zip(found["used"], before, strict=True)]
    assert max(taken) < min(total for _, total in found["used"]) / 4


def test_a_share_limits_what_tensorflow_may_take(gpu: str) -> None:
    found = child(RUN, HALF_PLUS_TWO, "0.25", gpu)
    assert found["memory"][gpu] < gpus()[gpu] / 2


def _used_mib(nvidia_smi: str) -> list[int]:
    query = [nvidia_smi, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    text = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return [int(line) for line in text.splitlines()]
