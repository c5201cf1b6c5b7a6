"""Every program here runs in a child process; a crash would show as a negative exit status."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

START = """
import gc, os, sys, threading
import numpy as np
from inserve.errors import FailedPreconditionError
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType
def half_plus_two(model):
    return model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
two = np.array([2], np.float32)
"""

ENDINGS = {
    "with a session and arrays alive": """
model = load_saved_model(sys.argv[1])
runner = half_plus_two(model)
answers = runner.run([np.ones(1 << 16, np.float32)]) + runner.run([two])
""",
    "with everything in reference cycles": """
model = load_saved_model(sys.argv[1])
cycle = [model, half_plus_two(model), half_plus_two(model).run([np.ones(1 << 16, np.float32)])]
cycle.append(cycle)
gc.disable()
""",
    "after closing": """
model = load_saved_model(sys.argv[1])
half_plus_two(model).run([two])
model.close()
""",
    "after a failed load": """
try:
    load_saved_model("/nowhere")
except Exception as error:
    failure = error
""",
    "while daemon threads run": """
model = load_saved_model(sys.argv[1])
runner = half_plus_two(model)
running = threading.Barrier(5)
def run(executor):
    runner.run([two])
    running.wait()
    while True:
        runner.run([two], None, executor)
for executor in list(Executor) * 2:
    threading.Thread(target=run, args=(executor,), daemon=True).start()
running.wait()
""",
    "while a daemon thread waits in a run": """
model = load_saved_model(os.path.join(sys.argv[2], "queue"))
runner = model.session.runner([], ["dequeued:0"])
threading.Thread(target=runner.run, args=([],), daemon=True).start()
while not runner.slots.in_progress():
    pass
""",
    "while daemon threads are in long runs": """
model = load_saved_model(os.path.join(sys.argv[3], "slow", "1"))
runner = model.session.runner([("x:0", DataType.DT_FLOAT)], ["y:0"])
for executor in list(Executor) * 2:
    threading.Thread(target=runner.run, args=([two], None, executor), daemon=True).start()
while runner.slots.in_progress() < 4:
    pass
""",
    "while a daemon thread loads": """
started = threading.Event()
def load():
    while True:
        model = load_saved_model(sys.argv[1])
        started.set()
        model.close()
threading.Thread(target=load, daemon=True).start()
started.wait()
""",
    "after sys.exit in a thread": """
model = load_saved_model(sys.argv[1])
def leave():
    half_plus_two(model).run([two])
    sys.exit(5)
thread = threading.Thread(target=leave)
thread.start()
thread.join()
""",
    "with handlers that log at exit": """
import atexit, logging
logging.basicConfig(level=logging.DEBUG, stream=open(os.devnull, "w"))
model = load_saved_model(sys.argv[1])
atexit.register(model.close)
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_in_good_order(
    run_python: RunPython, half_plus_two_path: str, extra_models: Path, golden_models: Path, ending: str
) -> None:
    arguments = (half_plus_two_path, str(extra_models), str(golden_models))
    finished = run_python(START + ENDINGS[ending], *arguments)
    assert (finished.returncode, "Traceback" in finished.stderr) == (0, False), finished.stderr


def test_an_exit_status_is_kept(run_python: RunPython, half_plus_two_path: str) -> None:
    program = START + "model = load_saved_model(sys.argv[1])\nhalf_plus_two(model).run([two])\nsys.exit(7)\n"
    assert run_python(program, half_plus_two_path).returncode == 7


def test_use_after_fork_is_refused_in_the_child_and_works_in_the_parent(
    run_python: RunPython, half_plus_two_path: str
) -> None:
    program = (
        START
        + """
model = load_saved_model(sys.argv[1])
runner = half_plus_two(model)
runner.run([two])
child = os.fork()
if child == 0:
    calls = [
        lambda: runner.run([two]),
        lambda: half_plus_two(model),
        lambda: load_saved_model(sys.argv[1]),
    ]
    refused = 0
    for call in calls:
        try:
            call()
        except FailedPreconditionError as error:
            refused += "Load models in the child process only" in error.message
    model.close()
    del model, runner
    gc.collect()
    sys.exit(40 + refused)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), runner.run([two])[0].tolist())
model.close()
"""
    )
    finished = run_python(program, half_plus_two_path)
    assert (finished.returncode, finished.stdout) == (0, "43 [3.0]\n")


def test_a_child_forked_before_the_first_load_loads_by_itself(
    run_python: RunPython, half_plus_two_path: str
) -> None:
    program = (
        START
        + """
from inserve.tensorflow_c.library import load_library
load_library()
child = os.fork()
if child == 0:
    sys.exit(int(half_plus_two(load_saved_model(sys.argv[1])).run([two])[0][0]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert run_python(program, half_plus_two_path).stdout == "3\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs the sizes of /proc")
def test_loading_takes_a_process_less_memory_than_importing_tensorflow(
    run_python: RunPython, half_plus_two_path: str
) -> None:
    # Not ru_maxrss: a child begins with that of the process that forked it.
    peak = (
        "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    ours = run_python(
        START + "half_plus_two(load_saved_model(sys.argv[1])).run([two])" + peak, half_plus_two_path
    )
    theirs = run_python(
        "import sys, tensorflow as tf\nmodel = tf.saved_model.load(sys.argv[1])\n"
        "model.signatures['serving_default'](x=tf.constant([2.0]))" + peak,
        half_plus_two_path,
    )
    assert int(ours.stdout) <= 0.75 * int(theirs.stdout)
