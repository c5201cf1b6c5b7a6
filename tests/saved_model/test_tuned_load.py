from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import InternalError
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tuned_load import MAX_SECOND_LOAD_BYTES, TunedLoad, names_threads
from inserve.saved_model.tuner import MeasuredInput, Tuner
from inserve.saved_model.tuning import Alternative, Setting, SizeTuning, Tuning
from inserve.saved_model.tuning_cache import TuningCache
from inserve.tensorflow_c.interface import Executor, Runner
from inserve.tensors.dtypes import DataType
from inserve.testing import ManualClock

POOL, CALLING = Executor.POOL, Executor.CALLING_THREAD
DEFAULT, ONE_THREAD = 0, 1
"""The number of intra-op threads that the config of a load names."""

BOTH = 2
"""Noted where a version is warmed up that is held twice."""

CROWDED = Tuning(
    "measured",
    2,
    (
        SizeTuning(
            "serving_default",
            1,
            4,
            POOL,
            (Alternative(POOL, 2, 14e-3, 11e-3), Alternative(CALLING, 1, 16e-3, 8e-3)),
            Setting(CALLING, 1),
        ),
    ),
    callers=2,
)


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
        during, self._bench.during_run = self._bench.during_run, None
        if during is not None:
            during()
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
        self.held_twice_bytes = 0
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
        self.runs_at_warm_up = False
        self.merges_rows = False
        self.during_run: Callable[[], object] | None = None

    def open(self, config: bytes) -> SavedModelServable:
        threads = messages.ConfigProto.FromString(config).intra_op_parallelism_threads
        if self.opened and self.second_load_error is not None:
            raise self.second_load_error
        self.clock.advance(self.load_s)
        self.opened.append(threads)
        self.models.append(self.kind(self, threads))
        return SavedModelServable(self.models[-1], merge_row_wise=self.merges_rows)

    def warm_up(self, servable: SavedModelServable) -> Sequence[MeasuredInput]:
        is_whole = [model is servable.model for model in self.models]
        self.warmed_up.append(self.opened[is_whole.index(True)] if any(is_whole) else BOTH)
        if self.runs_at_warm_up:
            servable.signature_run(servable.signatures["serving_default"], ()).run([np.zeros(1, np.float32)])
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
            held_twice_bytes=self.held_twice_bytes,
            merges_rows=self.merges_rows,
            num_cpus=num_cpus,
            now=self.clock.now,
        ).load()
        kept = self.models[-2:] if servable.num_sessions == 2 else [servable.model]
        assert [model for model in self.models if model.is_open] == kept
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
    bench.run_s[DEFAULT, POOL] = 0.5e-3
    bench.load()
    bench.ran.clear()
    assert bench.servable is not None
    run = bench.servable.signature_run(bench.servable.signatures["serving_default"], ())
    for _ in range(3):
        run.run([np.zeros(1, np.float32)])
    assert bench.ran == [(DEFAULT, POOL)] * 3


class SummingModel(FakeModel):
    """Its graph keeps rows apart; in company they have other bits if ``has_other_bits``."""

    has_other_bits = False

    def __init__(self, bench: Bench, threads: int) -> None:
        super().__init__(bench, threads)
        x, y = (
            messages.NodeDef(name="x", op="Placeholder"),
            messages.NodeDef(name="y", op="Relu", input=["x"]),
        )
        x.attr["dtype"].type = y.attr["T"].type = DataType.DT_FLOAT
        graph = messages.GraphDef(node=[x, y]).SerializeToString()
        self.meta_graph_def += b"\x12" + bytes([len(graph)]) + graph

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        timeout_s: float | None = None,
        executor: Executor = POOL,
    ) -> list[NDArray[Any]]:
        outputs = super().run(arrays, timeout_s, executor)
        return [one + np.float32(len(one) > 1) for one in outputs] if self.has_other_bits else outputs


class OtherBitsModel(SummingModel):
    has_other_bits = True


@pytest.fixture
def merge_bench(bench: Bench) -> Bench:
    """A version that is fastest on one thread, whose graph adds up."""
    bench.kind = SummingModel
    bench.merges_rows = True
    bench.run_s[ONE_THREAD, CALLING] = 1e-4
    return bench


def most_merged_rows(bench: Bench) -> int:
    assert bench.servable is not None
    run = bench.servable.signature_run(bench.servable.signatures["serving_default"], ())
    return run.most_merged_rows if run.is_row_wise else 0


def test_rows_that_a_trial_finds_alike_may_be_one_run(merge_bench: Bench) -> None:
    tuning = merge_bench.load()
    assert tuning.merged_rows == (("serving_default", 16),)
    assert str(tuning).count("serving_default up to 16 rows together") == 1
    assert most_merged_rows(merge_bench) == 16


def test_the_next_load_merges_rows_without_a_trial(merge_bench: Bench) -> None:
    merge_bench.load()
    merge_bench.models.clear()
    merge_bench.ran.clear()
    assert merge_bench.load().source == "cached"
    assert most_merged_rows(merge_bench) == 16
    assert len(merge_bench.ran) < 16


def test_rows_that_have_other_bits_in_company_are_not_merged(merge_bench: Bench) -> None:
    merge_bench.kind = OtherBitsModel
    assert merge_bench.load().merged_rows == ()
    assert most_merged_rows(merge_bench) == 0


def test_on_several_threads_there_is_no_trial(merge_bench: Bench) -> None:
    merge_bench.run_s[DEFAULT, CALLING] = 1e-4
    tuning = merge_bench.load()
    assert (tuning.intra_op_threads, tuning.merged_rows) == (2, ())


def test_rows_that_take_long_together_are_not_merged(merge_bench: Bench) -> None:
    merge_bench.run_s[ONE_THREAD, CALLING] = 0.6e-3
    assert merge_bench.load().merged_rows == ()
    assert most_merged_rows(merge_bench) == 0


def test_where_rows_are_not_to_be_merged_there_is_no_trial(merge_bench: Bench) -> None:
    merge_bench.merges_rows = False
    assert merge_bench.load().merged_rows == ()


@pytest.fixture
def crowd_bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A version that may be held twice, with crowded runs if the tuner may say so."""

    def measure(tuner: Tuner, inputs: Any, default: int, may_hold_two: bool, is_all: bool) -> Tuning:
        del tuner, inputs, is_all
        assert default == 2
        if may_hold_two:
            return CROWDED
        return replace(CROWDED, sizes=(replace(CROWDED.sizes[0], crowded=None),))

    monkeypatch.setattr(Tuner, "measure", measure)
    bench.held_twice_bytes = bench.version_bytes
    bench.runs_at_warm_up = True
    return bench


def runs_alone_and_in_a_crowd(bench: Bench) -> list[tuple[int, Executor]]:
    """Return the sessions and executors of a run, and of another one that comes while it is in progress."""
    servable = bench.servable
    assert servable is not None
    run = servable.signature_run(servable.signatures["serving_default"], ())
    arrays = [np.zeros(1, np.float32)]
    bench.ran.clear()
    bench.during_run = lambda: run.run(arrays)
    run.run(arrays)
    return bench.ran


def test_a_crowd_has_the_session_of_one_thread_and_a_lone_caller_the_other(crowd_bench: Bench) -> None:
    assert crowd_bench.load().is_for_two_sessions
    assert runs_alone_and_in_a_crowd(crowd_bench) == [(DEFAULT, POOL), (ONE_THREAD, CALLING)]
    assert (crowd_bench.opened, crowd_bench.warmed_up) == ([DEFAULT, ONE_THREAD], [DEFAULT])


def test_measured_sizes_may_always_have_the_session_of_one_thread(
    crowd_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = replace(CROWDED, sizes=(replace(CROWDED.sizes[0], is_crowded_alone=True),))
    monkeypatch.setattr(Tuner, "measure", lambda *_, **__: tuning)
    for _ in ("measured", "cached"):
        crowd_bench.models.clear()
        crowd_bench.load()
        assert runs_alone_and_in_a_crowd(crowd_bench) == [(ONE_THREAD, CALLING), (ONE_THREAD, CALLING)]


def test_the_next_load_holds_two_as_well_and_warms_both_up(crowd_bench: Bench) -> None:
    crowd_bench.load()
    crowd_bench.models.clear()
    crowd_bench.opened.clear()
    crowd_bench.warmed_up.clear()
    crowd_bench.ran.clear()
    assert crowd_bench.load().source == "cached"
    assert (crowd_bench.opened, crowd_bench.warmed_up) == ([DEFAULT, ONE_THREAD], [DEFAULT, BOTH])
    assert [threads for threads, _ in crowd_bench.ran] == [DEFAULT, ONE_THREAD]
    assert runs_alone_and_in_a_crowd(crowd_bench) == [(DEFAULT, POOL), (ONE_THREAD, CALLING)]


def test_a_second_session_that_cannot_be_loaded_again_is_done_without(crowd_bench: Bench) -> None:
    crowd_bench.load()
    crowd_bench.models.clear()
    crowd_bench.opened.clear()
    crowd_bench.second_load_error = InternalError("no memory")
    tuning = crowd_bench.load()
    assert (tuning.is_for_two_sessions, tuning.reason) == (False, "a second load failed: no memory")
    assert runs_alone_and_in_a_crowd(crowd_bench) == [(DEFAULT, POOL), (DEFAULT, POOL)]


def test_both_sessions_are_closed_with_the_servable(crowd_bench: Bench) -> None:
    crowd_bench.load()
    assert crowd_bench.servable is not None
    crowd_bench.servable.close()
    assert [model.is_open for model in crowd_bench.models] == [False, False]


def test_a_version_larger_than_may_be_held_twice_is_not(crowd_bench: Bench) -> None:
    crowd_bench.held_twice_bytes -= 1
    assert not crowd_bench.load().is_for_two_sessions


def test_leave_to_hold_a_version_twice_is_remembered_apart(crowd_bench: Bench) -> None:
    crowd_bench.load()
    crowd_bench.models.clear()
    crowd_bench.held_twice_bytes = 0
    tuning = crowd_bench.load()
    assert (tuning.source, tuning.is_for_two_sessions) == ("measured", False)


class ChangingModel(FakeModel):
    """Its signature changes a variable."""

    def __init__(self, bench: Bench, threads: int) -> None:
        super().__init__(bench, threads)
        node = messages.NodeDef(name="y", op="AssignAddVariableOp")
        graph = messages.GraphDef(node=[node]).SerializeToString()
        self.meta_graph_def += b"\x12" + bytes([len(graph)]) + graph


def test_a_version_that_changes_state_is_not_held_twice(crowd_bench: Bench) -> None:
    crowd_bench.kind = ChangingModel
    assert not crowd_bench.load().is_for_two_sessions


def test_after_tensors_were_run_by_name_all_runs_have_one_session(crowd_bench: Bench) -> None:
    crowd_bench.load()
    assert crowd_bench.servable is not None
    crowd_bench.servable.run_of_tensors((("x:0", DataType.DT_FLOAT),), ("y:0",))
    assert runs_alone_and_in_a_crowd(crowd_bench) == [(DEFAULT, POOL), (DEFAULT, POOL)]


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
