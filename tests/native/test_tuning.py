"""Tuning with the real library: other settings, the same answers."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.resources.allocation import MAIN_MEMORY
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions
from inserve.saved_model.tuner import Tuner
from inserve.saved_model.tuning import Alternative, SizeTuning, Tuning
from inserve.tensorflow_c.interface import Executor
from inserve.tensorflow_c.intra_op_pool import intra_op_pool, shared_pool_flag
from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.load_saved_model import LoadedSavedModel, load_saved_model
from inserve.tensorflow_c.session_options import with_intra_op_threads
from inserve.tensorflow_c.usable_cpus import usable_cpus
from inserve.tensors.dtypes import DataType

IMAGES = np.linspace(0.0, 1.0, 4 * 28 * 28, dtype=np.float32).reshape(4, 28, 28, 1)
ONE_THREAD = with_intra_op_threads(b"", 1)

INPUTS: dict[str, list[NDArray[Any]]] = {
    "cnn": [IMAGES],
    "half_plus_two": [np.array([1.0, 2.0, 5.0], np.float32)],
    "lookup": [np.array([b"hello", b"unknown"], object)],
}


def answers(model: LoadedSavedModel, loader: SavedModelLoader, arrays: list[NDArray[Any]]) -> None:
    """Compare the tuned version with runs of *model* on the pool, TensorFlow's own default."""
    servable = loader.servable()
    signature = servable.signatures["serving_default"]
    runner = model.session.runner(
        [(spec.tensor_name, DataType(spec.data_type)) for spec in signature.inputs.values()],
        [spec.tensor_name for spec in signature.outputs.values()],
    )
    tuned = servable.signature_run(signature, ())
    for _ in range(3):
        for got, expected in zip(tuned.run(arrays), runner.run(arrays), strict=True):
            if expected.dtype == np.object_:
                assert got.tolist() == expected.tolist()
            else:
                np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_tuned_version_gives_the_same_outputs_and_so_it_does_from_the_cache(
    golden_models: Path, load: Callable[[Path], LoadedSavedModel], tmp_path: Path, name: str
) -> None:
    path = golden_models / name / "1"
    options = SavedModelOptions(cache_dir=str(tmp_path), tuning_budget_s=10.0)
    for source in ("measured", "cached"):
        loader = SavedModelLoader(str(path), options, load_saved_model)
        loader.load()
        try:
            tuning = loader.servable().tuning
            answers(load(path), loader, INPUTS[name])
        finally:
            loader.unload()
        assert tuning.source == source
        assert tuning.intra_op_threads in (1, usable_cpus())
        for size in tuning.sizes:
            assert {alternative.executor for alternative in size.alternatives} == set(Executor)
            assert all(a.alone_s > 0 and a.together_s > 0 for a in size.alternatives)
            assert size.chosen(tuning.intra_op_threads) is not None


def test_a_version_held_twice_is_booked_twice_and_answers_a_crowd_as_a_lone_caller(
    golden_models: Path,
    load: Callable[[Path], LoadedSavedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_row = INPUTS["cnn"][0][:1]
    figures = (Alternative(Executor.POOL, 2, 1e-3, 1e-3), Alternative(Executor.CALLING_THREAD, 1, 1e-3, 5e-4))
    size = SizeTuning("serving_default", 1, one_row.nbytes, Executor.POOL, figures, figures[1].setting)
    monkeypatch.setattr(Tuner, "measure", lambda *_, **__: Tuning("measured", 2, (size,), callers=2))
    path = golden_models / "cnn" / "1"
    options = SavedModelOptions(cache_dir=str(tmp_path), tuning_budget_s=10.0, held_twice_bytes=1 << 20)
    loader = SavedModelLoader(str(path), options, load_saved_model)
    for source in ("measured", "cached"):
        held = loader.load()
        try:
            servable = loader.servable()
            assert (servable.tuning.source, servable.num_sessions) == (source, 2)
            assert held is not None
            once = loader.estimate_resources().bytes_on(MAIN_MEMORY)
            assert held.bytes_on(MAIN_MEMORY) == 2 * once
            plain = load(path)
            with ThreadPoolExecutor(4) as threads:
                for one in [threads.submit(answers, plain, loader, [one_row]) for _ in range(8)]:
                    one.result()
            with servable.crowded():
                answers(plain, loader, [one_row])
                answers(plain, loader, INPUTS["cnn"])
        finally:
            loader.unload()


def test_requests_that_come_together_have_the_bits_that_they_have_alone(
    golden_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial says on this machine how many rows may be one run; other rows than it had must agree."""
    size = SizeTuning("serving_default", 1, IMAGES[:1].nbytes, Executor.CALLING_THREAD)
    figures = (Alternative(Executor.CALLING_THREAD, 1, 1e-4, 1e-4),)
    tuning = Tuning("measured", 1, (replace(size, alternatives=figures),))
    monkeypatch.setattr(Tuner, "measure", lambda *_, **__: tuning)
    options = SavedModelOptions(cache_dir="", tuning_budget_s=10.0, merge_row_wise=True)
    loader = SavedModelLoader(str(golden_models / "cnn" / "1"), options, load_saved_model)
    loader.load()
    try:
        servable = loader.servable()
        assert servable.mergeable == {"serving_default", "probs"}
        run = servable.signature_run(servable.signatures["serving_default"], ())
        merged = dict(servable.tuning.merged_rows).get("serving_default", 0)
        rows = np.random.default_rng(7).random((16, 28, 28, 1), np.float32)
        alone = [run.run_in_trial([rows[place : place + 1]]) for place in range(len(rows))]
        for number in range(2, merged + 1):
            for outputs, parts in zip(
                run.run_in_trial([rows[:number]]), zip(*alone, strict=True), strict=True
            ):
                assert outputs.tobytes() == np.concatenate(parts[:number]).tobytes()
    finally:
        loader.unload()


def test_what_warm_up_must_not_run_is_not_measured(golden_models: Path) -> None:
    options = SavedModelOptions(cache_dir="", tuning_budget_s=10.0)
    loader = SavedModelLoader(str(golden_models / "counter" / "1"), options, load_saved_model)
    loader.load()
    try:
        servable = loader.servable()
        (count,) = servable.signature_run(servable.signatures["get"], ()).run([])
        assert count == 0
        assert {size.signature for size in servable.tuning.sizes} == {"get"}
    finally:
        loader.unload()


NUMBER_OF_THREADS = """
import os, sys
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensorflow_c.session_options import with_intra_op_threads

def threads():
    return len(os.listdir("/proc/self/task"))

def new_threads(config):
    before = threads()
    models.append(load_saved_model(sys.argv[1], config=config))
    return threads() - before

models = [load_saved_model(sys.argv[1])]
print(new_threads(b""))
print(new_threads(with_intra_op_threads(b"", 1)))
print(new_threads(with_intra_op_threads(b"", 2)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_only_a_session_of_one_thread_has_a_pool_of_its_own(
    run_python: Callable[..., Any], half_plus_two_path: str
) -> None:
    finished = run_python(NUMBER_OF_THREADS, half_plus_two_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["0", "1", "0"]


def test_sessions_of_the_two_kinds_are_not_made_at_once() -> None:
    library = load_library()
    flag = shared_pool_flag(library)
    if flag is None:
        pytest.skip("this TensorFlow keeps its flag to itself")
    seen: list[bool] = []
    is_waiting = threading.Event()

    def make_own() -> None:
        is_waiting.set()
        with intra_op_pool(library, own=True):
            seen.append(flag.value)

    with intra_op_pool(library, own=False), intra_op_pool(library, own=False):
        thread = threading.Thread(target=make_own)
        thread.start()
        assert is_waiting.wait(30)
        assert flag.value
        assert seen == []
    thread.join(30)
    assert seen == [False]
    assert flag.value


def test_a_failed_load_gives_the_shared_pool_back(tmp_path: Path) -> None:
    library = load_library()
    flag = shared_pool_flag(library)
    if flag is None:
        pytest.skip("this TensorFlow keeps its flag to itself")
    with pytest.raises(Exception, match="does not appear to contain a SavedModel"):
        load_saved_model(os.fspath(tmp_path), config=ONE_THREAD)
    assert flag.value
