"""What a slow model at full load does to the p99 of half-plus-two on the same server, over gRPC and REST.

The slow model computes for about 200 ms, and as many callers ask it as there are processors and two
more, so that a run of it always waits. half-plus-two is asked from one connection and from four
(``h2load``), with and without it in turn. The processors are busy then: that a process which has nothing
to do with serving computes beside the server is measured too, with a spinning process for each processor,
and says what of a rise is the machine's.

usage: python slow_neighbour.py [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from overview_figures import Figure, figure, machine, markdown
from overview_latency import write_requests
from overview_load import Load, h2load, require_load_generators
from overview_models import PREDICT, half_plus_two
from overview_processes import Child

from inserve.protos import messages
from inserve.tensorflow_c.usable_cpus import usable_cpus
from inserve.tensors.dtypes import DataType

SECTION = "Slow neighbour, half_plus_two"
SLOW_S = 0.2
LIMIT_S = 0.003
CONNECTIONS = (1, 4)
ANSWER_LIMIT_S = 60.0
WITHOUT, SPINNING, SLOW = "without", "beside spinning processes", "beside the slow model"


class SlowModel:
    """The neighbour: a client of the model ``slow`` whose runs take about ``SLOW_S``."""

    def __init__(self, port: int, callers: int) -> None:
        self.callers = callers
        self._address = f"127.0.0.1:{port}"
        self._steps = 100

    def tune(self) -> float:
        """Choose the steps of a run; return its seconds on an idle server."""
        for _ in range(3):
            self._steps = max(1, round(self._steps * SLOW_S / self._seconds_alone()))
        return self._seconds_alone()

    def _seconds_alone(self) -> float:
        with self._call() as call:
            call()
            return min(self._timed(call) for _ in range(3))

    @contextmanager
    def at_full_load(self) -> Iterator[list[float]]:
        """Ask from all callers until the block ends; yields the seconds of the answers so far."""
        is_over, first = threading.Event(), threading.Semaphore(0)
        seconds: list[float] = []
        failures: list[Exception] = []

        def ask() -> None:
            try:
                with self._call() as call:
                    while not is_over.is_set():
                        seconds.append(self._timed(call))
                        first.release()
            except grpc.RpcError as error:
                failures.append(error)
                first.release()

        threads = [threading.Thread(target=ask) for _ in range(self.callers)]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                first.acquire(timeout=ANSWER_LIMIT_S)
            yield seconds
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

    @staticmethod
    def _timed(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    @contextmanager
    def _call(self) -> Iterator[Callable[[], object]]:
        request = messages.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "slow", "times"
        request.inputs["x"].dtype = int(DataType.DT_FLOAT)
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(1.0)
        request.inputs["n"].dtype = int(DataType.DT_INT32)
        request.inputs["n"].int_val.append(self._steps)
        data = request.SerializeToString()
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            method = channel.unary_unary(PREDICT)
            yield lambda: method(data, timeout=ANSWER_LIMIT_S)


@contextmanager
def spinning_processes(number: int) -> Iterator[None]:
    """Keep *number* processors busy with processes that do nothing else."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def ways_of(ports: dict[str, int], folder: Path, length_s: float) -> dict[str, Callable[[], Load]]:
    case = half_plus_two()
    frame, body = write_requests(case, folder)
    ways: dict[str, Callable[[], Load]] = {}
    for number in CONNECTIONS:
        suffix = f"{number} connection{'s'[: number > 1]}"
        ways[f"gRPC, {suffix}"] = lambda n=number: h2load(ports["grpc"], PREDICT, frame, n, length_s)
        ways[f"REST, {suffix}"] = lambda n=number: h2load(
            ports["rest"], case.rest_path, body, n, length_s, http1=True
        )
    return ways


def measure_slow_neighbour(
    folder: Path, rounds: int, length_s: float, progress: Callable[[str], None]
) -> list[Figure]:
    """Return the p50 and p99 with and without the neighbour."""
    processors = usable_cpus()
    with Child("neighbours") as server:
        slow = SlowModel(server.ports["grpc"], processors + 2)
        alone_s = slow.tune()
        ways = ways_of(server.ports, folder, length_s)
        loads: dict[tuple[str, str], list[Load]] = {}
        answers: list[float] = []
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for way, measure in ways.items():
                loads.setdefault((way, WITHOUT), []).append(measure())
            with spinning_processes(processors):
                for way, measure in ways.items():
                    loads.setdefault((way, SPINNING), []).append(measure())
            with slow.at_full_load() as seconds:
                for way, measure in ways.items():
                    loads.setdefault((way, SLOW), []).append(measure())
            answers += seconds
    figures = [
        figure(
            SECTION,
            f"a run of the slow model, {slow.callers} callers",
            "s",
            answers,
            "alone",
            [alone_s] * len(answers),
        )
    ]
    for way in ways:
        p50, p99 = (
            {
                name: [getattr(load, quantile) for load in loads[way, name]]
                for name in (WITHOUT, SPINNING, SLOW)
            }
            for quantile in ("p50_s", "p99_s")
        )
        for name, limit in ((SPINNING, None), (SLOW, LIMIT_S)):
            figures.append(
                figure(
                    SECTION,
                    f"{way}, p99 {name}",
                    "s",
                    p99[name],
                    WITHOUT,
                    p99[WITHOUT],
                    limit,
                    is_difference=True,
                )
            )
        figures.append(
            figure(SECTION, f"{way}, p50 {SLOW}", "s", p50[SLOW], WITHOUT, p50[WITHOUT], is_difference=True)
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    require_load_generators()
    print(machine(), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_slow_neighbour(
            Path(folder), options.rounds, options.seconds, lambda text: print(text, file=sys.stderr)
        )
    print(markdown(figures))


if __name__ == "__main__":
    main()
