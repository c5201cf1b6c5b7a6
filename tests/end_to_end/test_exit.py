"""A process may end at any moment, in any way: with the status it should have, and in silence.

Each program ends in a child process. A crash shows as another status, or as words on stderr.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "golden" / "models"

START = """
import faulthandler, os, signal, sys, threading
faulthandler.enable()
import numpy as np
import inserve
models = sys.argv[1]
def crowd(call, size=4):
    "Call from daemon threads without end; return when each has got an answer."
    answered = threading.Barrier(size + 1)
    def work():
        call()
        answered.wait()
        while True:
            try:
                call()
            except Exception:
                return
    for _ in range(size):
        threading.Thread(target=work, daemon=True).start()
    answered.wait()
"""

SITUATIONS = {
    "during a load": """
started = threading.Event()
def load():
    while True:
        started.set()
        inserve.load(models + "/cnn").close()
threading.Thread(target=load, daemon=True).start()
started.wait()
""",
    "while a server starts": """
from inserve.tensorflow_c.library import load_library
load_library()  # while it opens, stderr is the library's
server = inserve.Server({name: models + "/" + name for name in ("cnn", "types", "multi")}, grpc="127.0.0.1:0")
threading.Thread(target=server.start, daemon=True).start()
""",
    "during runs of a model": """
model = inserve.load(models + "/cnn")
image = np.zeros((8, 28, 28, 1), np.float32)
crowd(lambda: model(images=image))
""",
    "during calls of a server": """
server = inserve.Server({"h": models + "/half_plus_two", "slow": models + "/slow"}, grpc="127.0.0.1:0")
server.start()
crowd(lambda: server.predict("h", {"x": [1.0]}))
pending = [server.submit("slow", {"x": [1.0]}) for _ in range(8)]
""",
    "with calls over gRPC": """
import grpc
from inserve.protos import messages
server = inserve.Server({"h": models + "/half_plus_two"}, grpc="127.0.0.1:0").start()
request = messages.PredictRequest()
request.model_spec.name = "h"
request.inputs["x"].dtype = 1
request.inputs["x"].tensor_shape.dim.add(size=1)
request.inputs["x"].float_val.append(1.0)
channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
ask = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
crowd(lambda: ask(request.SerializeToString(), timeout=30))
""",
    "with arrays of closed models": """
with inserve.load(models + "/half_plus_two") as model:
    answers = [model(x=np.ones(1 << 16, np.float32)) for _ in range(10)]
""",
}

ENDINGS = {
    "the end of the program": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "an exception": ("raise SystemError('planned')", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(60)", -signal.SIGTERM),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(60)", -signal.SIGINT),
}

ALARMING = (
    "Fatal",
    "Segmentation",
    "Aborted",
    "core dumped",
    "terminate called",
    "Check failed",
    "Exception in thread",
)


def end(situation: str, ending: str) -> subprocess.CompletedProcess[str]:
    program = f"{START}{SITUATIONS[situation]}\n{ENDINGS[ending][0]}\n"
    return subprocess.run(
        [sys.executable, "-c", program, str(MODELS)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path]),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_ended_well(situation: str, ending: str) -> None:
    finished = end(situation, ending)
    assert finished.returncode == ENDINGS[ending][1], finished.stderr
    assert not [word for word in ALARMING if word in finished.stderr], finished.stderr
    expected = {"an exception": "SystemError: planned", "Ctrl-C": "KeyboardInterrupt"}.get(ending)
    if expected is None:
        assert "Traceback" not in finished.stderr, finished.stderr
    else:
        assert finished.stderr.count("Traceback") == 1
        assert f"\n{expected}\n" in finished.stderr, finished.stderr


@pytest.mark.parametrize("ending", ["sys.exit", "SIGTERM"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_process_that_ends_anywhere_ends_well(situation: str, ending: str) -> None:
    assert_ended_well(situation, ending)


@pytest.mark.nightly
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_process_that_ends_anywhere_ends_well_every_time(situation: str, ending: str) -> None:
    for _ in range(50):
        assert_ended_well(situation, ending)
