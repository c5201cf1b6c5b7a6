from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InternalError
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tuned_load import MAX_SECOND_LOAD_BYTES, TunedLoad, names_threads
from inserve.saved_model.tuner import MeasuredInput
from inserve.saved_model.tuning import Tuning
from inserve.saved_model.tuning_cache import TuningCache
from inserve.tensorflow_c.interface import Executor, Runner
from inserve.tensors.dtypes import DataType
from inserve.testing import ManualClock

POOL, CALLING = Executor.POOL, Executor.CALLING_THREAD
DEFAULT, ONE_THREAD = 0, 1
"""The number of intra-op threads that the config of a load names."""


def meta_graph_def() -> bytes:
    signatures = messages.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    for tensors, alias in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[alias].name = f"{alias}:0"
        tensors[alias].dtype = DataType.DT_FLOAT
        tensors[alias].tensor_shape.dim.add(size=-1)
    # Field 5 of MetaGraphDef is a map of the same form as field 1 of SignatureDefMap.
    serialized = signatures.SerializeToString()
    return b"\x2a" + serialized[1:]


class FakeModel:
    """Runs take the seconds of their executor on a manual clock."""

    def __init__(self, bench: Bench, threads: int) -> None:
        self._bench = bench
        self._threads = threads
        self.meta_graph_def = meta_graph_def()
        self.is_open = True

    @property
    def session(self) -> FakeModel:
        return self

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        assert (list(feeds), list(fetches)) == ([("x:0", DataType.DT_FLOAT)], ["y:0"])
        return self

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        del timeout_s
        assert self.is_open
        self._bench.ran.append((self._threads, executor))
        self._bench.clock.advance(self._bench.run_s[self._threads, executor])
        return list(arrays)

    def close(self) -> None:
        self.is_open = False


class BatchedModel(FakeModel):
    """Its own session must not be measured."""

    def __init__(self, bench: Bench, threads: int) -> None:
        super().__init__(bench, threads)
        self.tunable_session = FakeModel(bench, threads)

    def runner(self, feeds: Sequence[tuple[str, DataType]], fetches: Sequence[str]) -> Runner:
        raise AssertionError("the wrapped session is to be measured")


class NoGraphModel(FakeModel):
    tunable_session = None


class Bench:
    """An ``OpenVersion`` and everything around a ``TunedLoad``."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.run_s = {
            (DEFAULT, POOL): 4e-3,
            (DEFAULT, CALLING): 3e-3,
            (ONE_THREAD, POOL): 2e-3,
            (ONE_THREAD, CALLING): 1e-3,
        }
        self.load_s = 0.1
        self.version_bytes = 1000
        self.kind: type[FakeModel] = FakeModel
        self.second_load_error: InternalError | None = None
        self.inputs: Sequence[MeasuredInput] = (
            MeasuredInput("serving_default", ("y",), (np.zeros(1, np.float32),)),
        )
        self.folder = folder
        self.opened: list[int] = []
        self.warmed_up: list[int] = []
        self.ran: list[tuple[int, Executor]] = []
        self.models: list[FakeModel] = []
        self.servable: SavedModelServable | None = None

    def open(self, config: bytes) -> SavedModelServable:
        threads = messages.ConfigProto.FromString(config).intra_op_parallelism_threads
        if self.opened and self.second_load_error is not None:
            raise self.second_load_error
        self.clock.advance(self.load_s)
        self.opened.append(threads)
        self.models.append(self.kind(self, threads))
        return SavedModelServable(self.models[-1])

    def warm_up(self, servable: SavedModelServable) -> Sequence[MeasuredInput]:
        self.warmed_up.append(self.opened[[m is servable.model for m in self.models].index(True)])
        return self.inputs

    def load(self, config: bytes = b"", num_cpus: int = 2, measure_anew: bool = False) -> Tuning:
        servable = TunedLoad(
            str(self.folder),
            self,
            config=config,
            tags=("serve",),
            budget_s=1.0,
            cache=TuningCache(str(self.folder / "cache")),
            version_bytes=lambda: self.version_bytes,
            measure_anew=measure_anew,
            num_cpus=num_cpus,
            now=self.clock.now,
        ).load()
        assert [model for model in self.models if model.is_open] == [servable.model]
        self.servable = servable
        return servable.tuning


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_faster_of_two_sessions_is_kept_and_warmed_up(bench: Bench) -> None:
    tuning = bench.load()
    assert bench.opened == [DEFAULT, ONE_THREAD]
    assert bench.warmed_up == [DEFAULT, ONE_THREAD]
    assert (tuning.source, tuning.intra_op_threads, tuning.sizes[0].executor) == ("measured", 1, CALLING)


def test_the_first_session_is_kept_where_one_thread_gains_nothing(bench: Bench) -> None:
    bench.run_s[ONE_THREAD, CALLING] = 2.9e-3
    bench.run_s[ONE_THREAD, POOL] = 4e-3
    assert bench.load().intra_op_threads == 2
    assert bench.opened == [DEFAULT, ONE_THREAD]
    assert bench.warmed_up == [DEFAULT]


def test_the_next_load_measures_nothing(bench: Bench) -> None:
    first = bench.load()
    bench.opened.clear()
    bench.models.clear()
    bench.ran.clear()
    second = bench.load()
    assert (bench.opened, bench.ran) == ([ONE_THREAD], [])
    assert (second.source, second.sizes) == ("cached", first.sizes)


def test_another_number_of_processors_is_measured_anew(bench: Bench) -> None:
    bench.load()
    bench.models.clear()
    assert bench.load(num_cpus=4).source == "measured"


def test_a_load_may_be_told_to_measure_anew(bench: Bench) -> None:
    bench.load()
    bench.models.clear()
    assert bench.load(measure_anew=True).source == "measured"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"load_s": 5.5}, "too slow for a second load"),
        ({"version_bytes": MAX_SECOND_LOAD_BYTES + 1}, "too large for a second load"),
    ],
)
def test_a_slow_or_large_version_is_loaded_once(bench: Bench, change: dict[str, Any], reason: str) -> None:
    for name, value in change.items():
        setattr(bench, name, value)
    tuning = bench.load()
    assert bench.opened == [DEFAULT]
    assert (tuning.source, tuning.intra_op_threads, tuning.reason) == ("measured", 2, reason)
    assert tuning.sizes[0].executor is CALLING


def test_one_processor_has_one_choice_of_threads(bench: Bench) -> None:
    tuning = bench.load(num_cpus=1)
    assert bench.opened == [DEFAULT]
    assert (tuning.intra_op_threads, tuning.reason) == (1, "one processor")


def test_short_runs_are_no_reason_for_a_second_load(bench: Bench) -> None:
    bench.run_s[DEFAULT, CALLING] = 1e-5
    assert bench.load().reason == "runs are too short to be shared out"
    assert bench.opened == [DEFAULT]


def test_a_second_load_that_fails_leaves_the_first(bench: Bench) -> None:
    bench.second_load_error = InternalError("no memory")
    tuning = bench.load()
    assert (tuning.source, tuning.intra_op_threads) == ("measured", 2)


def test_runs_that_take_too_long_are_not_measured(bench: Bench) -> None:
    bench.inputs = [MeasuredInput("serving_default", ("y",), (np.zeros(1, np.float32),), seconds=0.5)]
    tuning = bench.load()
    assert (tuning.source, bench.opened, bench.ran) == ("default", [DEFAULT], [])


def test_without_inputs_everything_stays_as_it_is(bench: Bench) -> None:
    bench.inputs = ()
    tuning = bench.load()
    assert (tuning.source, tuning.reason, bench.ran) == ("default", "no inputs to measure with", [])


def test_what_could_not_be_measured_is_tried_again(bench: Bench) -> None:
    inputs, bench.inputs = bench.inputs, ()
    bench.load()
    bench.models.clear()
    bench.inputs = inputs
    assert bench.load().source == "measured"


def test_a_config_that_names_threads_wins_over_the_cache(bench: Bench) -> None:
    bench.load()
    bench.models.clear()
    bench.ran.clear()
    tuning = bench.load(messages.ConfigProto(intra_op_parallelism_threads=2).SerializeToString())
    assert (tuning.source, tuning.intra_op_threads, bench.ran) == ("explicit", 2, [])


def test_where_a_model_names_the_session_to_tune_that_one_is_measured(bench: Bench) -> None:
    bench.kind = BatchedModel
    assert bench.load().source == "measured"


def test_a_model_without_such_a_session_is_not_measured(bench: Bench) -> None:
    bench.kind = NoGraphModel
    tuning = bench.load()
    assert (tuning.source, tuning.reason, bench.ran) == ("default", "not a TensorFlow session", [])


def test_runs_are_placed_as_measured(bench: Bench) -> None:
    bench.run_s[ONE_THREAD, CALLING] = 4e-3
    bench.run_s[ONE_THREAD, POOL] = 1e-3
    bench.load()
    bench.ran.clear()
    assert bench.servable is not None
    run = bench.servable.signature_run(bench.servable.signatures["serving_default"], ())
    for _ in range(3):
        run.run([np.zeros(1, np.float32)])
    assert bench.ran == [(ONE_THREAD, POOL)] * 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (messages.ConfigProto(), False),
        (messages.ConfigProto(allow_soft_placement=True), False),
        (messages.ConfigProto(intra_op_parallelism_threads=1), True),
        (messages.ConfigProto(inter_op_parallelism_threads=1), True),
        (messages.ConfigProto(use_per_session_threads=True), True),
    ],
)
def test_it_is_known_which_configs_name_threads(config: messages.ConfigProto, expected: bool) -> None:
    assert names_threads(config.SerializeToString()) is expected


def test_a_config_that_cannot_be_read_is_left_to_the_load() -> None:
    assert names_threads(b"\xff")
