"""What batching costs a lone caller, and what it brings many: rows per second of a MobileNetV2.

References of the same run: the same requests without batching, and the raw session at the batch size
that serves it best. The model (width 0.5, images of 96 x 96, no trained weights) is written by a child
process, because TensorFlow's Python part must not run beside what is measured.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import HALF_PLUS_TWO, compare, microseconds, report
from session_run import half_plus_two_runner

from inserve.batching.batch_scheduler import BatchScheduler
from inserve.batching.batching_session import batch_models
from inserve.batching.explain import explain_batching
from inserve.batching.options import BatchingOptions
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.tensorflow_c.interface import Executor, LoadSavedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model

CALLERS = 16
IMAGE = (96, 96, 3)
ROUNDS = 7
SECONDS = 1.0

WRITE_MODEL = """
import sys
import tensorflow as tf
model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), alpha=0.5)
archive = tf.keras.export.ExportArchive()
archive.track(model)
signature = [tf.TensorSpec((None, 96, 96, 3), tf.float32, name="x")]
archive.add_endpoint("serve", lambda x: {"y": model(x, training=False)}, input_signature=signature)
archive.write_out(sys.argv[1], verbose=False)
"""


def run_of(load: LoadSavedModel, path: str) -> SignatureRun:
    servable = SavedModelServable(load(path))
    key = "serving_default" if "serving_default" in servable.signatures else "serve"
    return servable.signature_run(servable.signatures[key], ())


def batched(path: str, options: BatchingOptions) -> tuple[SignatureRun, BatchScheduler]:
    scheduler = BatchScheduler(options)
    return run_of(batch_models(load_saved_model, scheduler, options), path), scheduler


def quiet(figures: list[float]) -> float:
    """Return the lower tenth: a difference of 5 % is less than what other work on the machine adds."""
    return sorted(figures)[len(figures) // 10]


def rows_per_second(call: Callable[[], object], rows: int) -> float:
    calls = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS / 2:
        call()
        calls += 1
    return calls * rows / passed


def rows_per_second_of_callers(run: SignatureRun, image: Any) -> float:
    """Return what ``CALLERS`` threads achieve that ask again as soon as they are answered."""
    counts = [0] * CALLERS
    until = time.perf_counter() + SECONDS

    def ask(caller: int) -> None:
        while time.perf_counter() < until:
            run.run([image])
            counts[caller] += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(CALLERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def lone_caller() -> None:
    row = [np.array([3.0], np.float32)]
    plain = half_plus_two_runner(load_saved_model(str(HALF_PLUS_TWO)))

    def runner(options: BatchingOptions) -> Any:
        load = batch_models(load_saved_model, BatchScheduler(options), options)
        return half_plus_two_runner(load(str(HALF_PLUS_TWO)))

    with_batching, measured = runner(BatchingOptions()), runner(BatchingOptions.auto())
    figures = compare(
        {
            "one row, no batching": lambda: plain.run(row, None, Executor.CALLING_THREAD),
            "one row, batching": lambda: with_batching.run(row, None, Executor.CALLING_THREAD),
            "one row, batching auto": lambda: measured.run(row, None, Executor.CALLING_THREAD),
        },
        rounds=101,
        seconds_per_round=0.02,
    )
    for name, seconds in figures.items():
        print(f"{name:<32} {microseconds(seconds)}")
    off = quiet(figures["one row, no batching"])
    report("a lone caller: on / off", quiet(figures["one row, batching"]) / off, 1.05)
    report("a lone caller: auto / off", quiet(figures["one row, batching auto"]) / off, 1.05)


def many_callers(path: str) -> None:
    random = np.random.default_rng(0)
    sizes = (1, 2, 4, 8, 16)
    images = {size: random.random((size, *IMAGE), np.float32) for size in sizes}
    plain = run_of(load_saved_model, path)
    ways: dict[str, tuple[SignatureRun, BatchScheduler | None, BatchingOptions]] = {}
    for name, options in (
        ("batching", BatchingOptions()),
        ("batching auto", BatchingOptions.auto()),
        ("strict, 2 ms", BatchingOptions(strict=True, batch_timeout_micros=2000, max_batch_size=16)),
    ):
        ways[name] = (*batched(path, options), options)
    ways["no batching"] = (plain, None, BatchingOptions())
    for size in sizes:
        rows_per_second(lambda size=size: plain.run([images[size]]), size)
    for run, _, _ in ways.values():
        rows_per_second_of_callers(run, images[1])
        rows_per_second_of_callers(run, images[1])
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        best = {size: rows_per_second(lambda size=size: plain.run([images[size]]), size) for size in sizes}
        size = max(best, key=lambda size: best[size])
        line = ", ".join(f"{number}: {rate:.0f}" for number, rate in best.items())
        print(f"raw session, rows/s by batch size: {line}")
        for name, (run, _, _) in ways.items():
            ratios[name].append(rows_per_second_of_callers(run, images[1]) / best[size])
    for name, values in ratios.items():
        print(f"{CALLERS} callers, {name:<16} {statistics.median(values):6.3f} of the best fixed batch")
    report(
        f"{CALLERS} callers / best fixed batch", statistics.median(ratios["batching"]), 0.95, at_most=False
    )
    report(
        f"{CALLERS} callers, auto / best fixed batch",
        statistics.median(ratios["batching auto"]),
        0.95,
        at_most=False,
    )
    for _, scheduler, options in ways.values():
        if scheduler is not None:
            print()
            print(explain_batching(scheduler.statistics(path), options))


def main() -> None:
    lone_caller()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "mobilenet")
        subprocess.run([sys.executable, "-c", WRITE_MODEL, path], check=True, capture_output=True)
        many_callers(path)


if __name__ == "__main__":
    main()
