"""Process start to the first correct answer: time and peak memory, inserve against TensorFlow.

Each way runs in processes of its own, in turn; half-plus-two, one row.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from measure import HALF_PLUS_TWO, report

ROUNDS = 7

INSERVE = """
import sys, resource
import inserve
answer = inserve.load(sys.argv[1])(x=[1.0])["y"]
assert answer.tolist() == [2.5], answer
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
TENSORFLOW = """
import sys, resource
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
answer = model.signatures["serving_default"](tf.constant([1.0]))["y"].numpy()
assert answer.tolist() == [2.5], answer
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def start(code: str) -> tuple[float, int]:
    """Return wall seconds and peak resident kilobytes of one fresh process."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(HALF_PLUS_TWO)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return time.perf_counter() - started, int(done.stdout.split()[-1])


def main() -> None:
    start(INSERVE)
    start(TENSORFLOW)
    rounds = [(start(INSERVE), start(TENSORFLOW)) for _ in range(ROUNDS)]
    for name, index in (("inserve", 0), ("import tensorflow + load + call", 1)):
        seconds = statistics.median(pair[index][0] for pair in rounds)
        megabytes = statistics.median(pair[index][1] for pair in rounds) / 1024
        print(f"{name:<34} {seconds:6.2f} s  {megabytes:6.0f} MB")
    report(
        "start to first answer, inserve / TensorFlow",
        statistics.median(a[0] / b[0] for a, b in rounds),
        0.45,
    )
    report("peak memory, inserve / TensorFlow", statistics.median(a[1] / b[1] for a, b in rounds), 0.75)


if __name__ == "__main__":
    main()
