"""What one run through ``Runner.run`` costs beside the bare C call, and how strings cross.

The reference is ``TF_SessionRun`` through cffi on the calling thread with every pointer prepared: the
input tensor is reused and the output is only deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import HALF_PLUS_TWO, compare, microseconds, ratio, report

from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensorflow_c.run_options import calling_thread_options
from inserve.tensorflow_c.string_tensor import new_string_tensor, read_strings
from inserve.tensors.dtypes import DataType

PREPARED = "prepared TF_SessionRun"


def half_plus_two_runner(model: Any) -> Any:
    return model.session.runner([("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"])


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


def main() -> None:
    model = load_saved_model(str(HALF_PLUS_TWO))
    runner = half_plus_two_runner(model)
    row = np.array([3.0], np.float32)
    large = np.ones(1 << 20, np.float32)
    target = np.empty_like(large)
    library = load_library()
    one = np.array([b"hello"], object)
    many = np.array([b"%040d" % number for number in range(10_000)], object)
    tensor = new_string_tensor(library, many)
    single = new_string_tensor(library, one)
    data, single_data = library.lib.TF_TensorData(tensor), library.lib.TF_TensorData(single)
    delete = library.lib.TF_DeleteTensor
    calls: dict[str, Callable[[], object]] = {
        PREPARED: prepared_call(runner),
        "run, one row, calling thread": lambda: runner.run([row], None, Executor.CALLING_THREAD),
        "run, one row, pool": lambda: runner.run([row]),
        "run, one row, pool, timeout": lambda: runner.run([row], 5.0),
        "copy, 4 MiB": lambda: np.copyto(target, large),
        "run, 4 MiB in and out": lambda: runner.run([large], None, Executor.CALLING_THREAD),
        "10,000 strings of 40 in": lambda: delete(new_string_tensor(library, many)),
        "10,000 strings of 40 out": lambda: read_strings(library, data, many.shape),
        "one string in": lambda: delete(new_string_tensor(library, one)),
        "one string out": lambda: read_strings(library, single_data, one.shape),
    }
    figures = compare(calls)
    for name, seconds in figures.items():
        print(f"{name:<32} {microseconds(seconds)}")
    report("run / prepared", ratio(figures, "run, one row, calling thread", PREPARED), 2.2)
    model.close()


if __name__ == "__main__":
    main()
