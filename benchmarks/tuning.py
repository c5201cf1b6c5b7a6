"""What sessions that tune themselves leave to do by hand: the default against the best of a grid.

The grid is executor (calling thread, pool) x intra-op threads (1, all). Each setting runs in a process of
its own, because TensorFlow sizes its pools once per process; the processes take turns. A cost is the
geometric mean of a run's seconds when one thread asks and when several do, in the least disturbed of
many rounds. Models: half-plus-two, a small CNN
and a string lookup from the tests, and MobileNetV2 with random weights, exported into a temporary folder.

usage: python tuning.py [TURNS [MODEL ...]]
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measure import HALF_PLUS_TWO, report

from inserve.protos import messages
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tuning import Alternative, SizeTuning, Tuning
from inserve.saved_model.warmup_inputs import generate_inputs, with_rows
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensorflow_c.usable_cpus import usable_cpus

GOLDEN = HALF_PLUS_TWO.parents[1]
ROWS = (1, 32)
TUNED = "default"
LIMIT = 1.1
ROUNDS = 15
ROUND_S = 0.1

EXPORT_MOBILENET = """
import sys, tensorflow as tf
model = tf.keras.applications.MobileNetV2(weights=None)
spec = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")
model.export(sys.argv[1], verbose=False, input_signature=[spec])
"""


def settings() -> list[str]:
    threads = sorted({1, usable_cpus()})
    return [TUNED] + [f"{executor.name} {number}" for executor in Executor for number in threads]


def load(path: str, setting: str, cache_dir: str) -> SavedModelServable:
    if setting == TUNED:
        loader = SavedModelLoader(
            path, SavedModelOptions(cache_dir=cache_dir, held_twice_bytes=1 << 27), load_saved_model
        )
        loader.load()
        return loader.servable()
    executor, threads = Executor[setting.split()[0]], int(setting.split()[1])
    config = messages.ConfigProto(intra_op_parallelism_threads=threads).SerializeToString()
    loader = SavedModelLoader(path, SavedModelOptions(session_config=config, tune=False), load_saved_model)
    loader.load()
    servable = loader.servable()
    signature = servable.signatures["serving_default"]
    # Whatever a run takes, it stays on this executor.
    forced = Alternative(executor, threads, 1e3, 1e3)
    sizes = tuple(
        SizeTuning(
            signature.key, rows, sum(array.nbytes for array in inputs(servable, rows)), executor, (forced,)
        )
        for rows in ROWS
    )
    servable.apply_tuning(Tuning("explicit", threads, sizes))
    return servable


def inputs(servable: SavedModelServable, rows: int) -> list[np.ndarray]:
    signature = servable.signatures["serving_default"]
    one = generate_inputs(signature)
    assert one is not None
    many = with_rows(signature, one, rows)
    assert many is not None
    return many


def measure_here(path: str, setting: str, cache_dir: str) -> dict[str, Any]:
    """Return the figures of one setting, by rows: seconds of a run in the least disturbed round."""
    servable = load(path, setting, cache_dir)
    run = servable.signature_run(servable.signatures["serving_default"], ())
    callers = min(4, usable_cpus())
    figures: dict[str, Any] = {"tuning": str(servable.tuning)}
    for rows in ROWS:
        arrays = inputs(servable, rows)
        for _ in range(3):
            run.run(arrays)
        started = time.perf_counter()
        run.run(arrays)
        count = max(1, int(ROUND_S / (time.perf_counter() - started)))

        def block(arrays: list[np.ndarray] = arrays, count: int = count) -> None:
            for _ in range(count):
                run.run(arrays)

        alone, together = [], []
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(lambda _: block(), range(callers)))
            for _ in range(ROUNDS if count > 1 else 5):
                started = time.perf_counter()
                block()
                alone.append((time.perf_counter() - started) / count)
                started = time.perf_counter()
                list(threads.map(lambda _: block(), range(callers)))
                together.append((time.perf_counter() - started) / (count * callers))
        figures[str(rows)] = [min(alone), min(together)]
    servable.close()
    return figures


def measure_in_child(path: str, setting: str, cache_dir: str) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, __file__, "--child", path, setting, cache_dir],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def compare_settings(name: str, path: str, turns: int, cache_dir: str) -> None:
    figures: dict[str, list[dict[str, Any]]] = {setting: [] for setting in settings()}
    for _ in range(turns):
        for setting, mine in figures.items():
            mine.append(measure_in_child(path, setting, cache_dir))
    print(f"{name}: {figures[TUNED][0]['tuning']}")
    for rows in map(str, ROWS):
        costs: dict[str, float] = {}
        for setting, mine in figures.items():
            alone = min(one[rows][0] for one in mine)
            together = min(one[rows][1] for one in mine)
            costs[setting] = math.sqrt(alone * together)
            shown = f"{alone * 1e6:10.1f} µs alone {together * 1e6:10.1f} µs together"
            print(f"  {rows:>2} rows  {setting:<18} {shown}")
        best = min((setting for setting in costs if setting != TUNED), key=costs.__getitem__)
        report(f"  {name}, {rows} rows: default / best ({best})", costs[TUNED] / costs[best], LIMIT)


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    wanted = sys.argv[2:]
    print("load average", *os.getloadavg(), "processors", usable_cpus())
    with tempfile.TemporaryDirectory() as folder:
        mobilenet = os.path.join(folder, "mobilenet", "1")
        models = {name: str(GOLDEN / name / "1") for name in ("half_plus_two", "cnn", "lookup")}
        models["mobilenet"] = mobilenet
        for name, path in models.items():
            if wanted and name not in wanted:
                continue
            if path == mobilenet:
                subprocess.run(
                    [sys.executable, "-c", EXPORT_MOBILENET, path], check=True, stderr=subprocess.DEVNULL
                )
            compare_settings(name, path, turns, str(Path(folder) / "cache"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        logging.getLogger("inserve").setLevel(logging.CRITICAL)
        print(json.dumps(measure_here(*sys.argv[2:])))
    else:
        main()
