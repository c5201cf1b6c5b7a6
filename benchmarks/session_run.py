"""What one run through ``Runner.run`` costs beside the bare C call.

The reference is ``TF_SessionRun`` through cffi on the calling thread with every pointer prepared: the
input tensor is reused and the output is only deleted. Prints medians in microseconds and the ratio to
the reference, all measured in turns in one process.

usage: python benchmarks/session_run.py MODEL_DIR [--rounds N]

MODEL_DIR is a version directory of half-plus-two: signature ``serving_default`` from ``x`` to ``y``,
variable ``serving_default_x:0``, result ``StatefulPartitionedCall:0``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensorflow_c.run_options import calling_thread_options
from inserve.tensorflow_c.string_tensor import new_string_tensor, read_strings
from inserve.tensors.dtypes import DataType


def prepared_call(runner: Any) -> Callable[[], None]:
    """Return the reference: what cannot be left out of a run."""
    library = load_library()
    ffi, lib = library.ffi, library.lib
    status = ffi.gc(lib.TF_NewStatus(), lib.TF_DeleteStatus)
    options = calling_thread_options(library)
    tensor = lib.TF_AllocateTensor(int(DataType.DT_FLOAT), ffi.new("int64_t[]", [1]), 1, 4)
    ffi.cast("float *", lib.TF_TensorData(tensor))[0] = 3.0
    inputs = ffi.new("TF_Tensor *[]", [tensor])
    outputs = ffi.new("TF_Tensor *[]", 1)
    run, delete, null = lib.TF_SessionRun, lib.TF_DeleteTensor, ffi.NULL
    pointer, feeds, fetches = runner._pointer, runner._inputs, runner._outputs

    def call() -> None:
        run(pointer, options, feeds, inputs, 1, fetches, outputs, 1, null, 0, null, status)
        delete(outputs[0])

    return call


def in_turns(calls: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of one call of each, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    model = load_saved_model(arguments.model_dir)
    runner = model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])
    row = np.array([3.0], np.float32)
    large = np.ones(1 << 20, np.float32)
    calling_thread = Executor.CALLING_THREAD
    reference = prepared_call(runner)
    calls: dict[str, Callable[[], object]] = {
        "prepared call": reference,
        "run, one row, calling thread": lambda: runner.run([row], None, calling_thread),
        "run, one row, pool": lambda: runner.run([row]),
        "run, one row, pool, timeout": lambda: runner.run([row], 5.0),
    }
    medians = in_turns(calls, arguments.rounds, 300)
    for name, seconds in medians.items():
        print(
            f"{name:32s} {seconds * 1e6:9.2f} us  {seconds / medians['prepared call']:6.2f} x prepared call"
        )

    target = np.empty_like(large)
    medians = in_turns(
        {
            "copy, 4 MiB": lambda: np.copyto(target, large),
            "run, 4 MiB in and out": lambda: runner.run([large], None, calling_thread),
        },
        arguments.rounds // 4,
        4,
    )
    for name, seconds in medians.items():
        print(f"{name:32s} {seconds * 1e6:9.2f} us  {seconds / medians['copy, 4 MiB']:6.2f} x memory copy")

    library = load_library()
    one = np.array([b"hello"], object)
    many = np.array([b"%040d" % number for number in range(10_000)], object)
    tensor = new_string_tensor(library, many)
    single = new_string_tensor(library, one)
    data, single_data = library.lib.TF_TensorData(tensor), library.lib.TF_TensorData(single)
    delete = library.lib.TF_DeleteTensor
    string_calls: dict[str, Callable[[], object]] = {
        "10,000 strings of 40 in": lambda: delete(new_string_tensor(library, many)),
        "10,000 strings of 40 out": lambda: read_strings(library, data, many.shape),
        "one string in": lambda: delete(new_string_tensor(library, one)),
        "one string out": lambda: read_strings(library, single_data, one.shape),
    }
    for name, seconds in in_turns(string_calls, arguments.rounds // 4, 4).items():
        print(f"{name:32s} {seconds * 1e6:9.2f} us")
    model.close()


if __name__ == "__main__":
    main()
