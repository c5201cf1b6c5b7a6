"""A signal ends a serving command whichever of its threads the system delivers it on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest

MODELS = Path(__file__).parent.parent / "golden" / "models"
LIMIT_S = 120.0
COMMANDS = {
    "inserve serve": ["-c", "from inserve.cli.main import main; main()", "serve"],
    "tensorflow_model_server": ["-m", "inserve.cli.tensorflow_model_server"],
}


def send_to_thread(process: int, thread: int, number: signal.Signals) -> None:
    """Deliver a signal on one thread of another process; its first thread has the number of the process."""
    tgkill = getattr(ctypes.CDLL(None, use_errno=True), "tgkill", None)
    if tgkill is None:
        pytest.skip("this C library has no tgkill()")
    assert tgkill(process, thread, number) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the threads of a process are read in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_on_any_thread_ends_the_command(command: str, number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="inserve-") as folder:
        process = subprocess.Popen(
            [
                sys.executable, *COMMANDS[command], "--model_name=half_plus_two",
                f"--model_base_path={MODELS / 'half_plus_two'}", "--port=0",
                f"--grpc_socket_path={folder}/grpc", "--enable_model_warmup=false",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with grpc.insecure_channel(f"unix:{folder}/grpc") as channel:
                grpc.channel_ready_future(channel).result(LIMIT_S)
            main_thread_state = Path(f"/proc/{process.pid}/task/{process.pid}/stat")
            while main_thread_state.read_text().rpartition(")")[2].split()[0] != "S":
                assert process.poll() is None
            newest = max(int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir())
            assert newest != process.pid
            send_to_thread(process.pid, newest, number)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.wait()
