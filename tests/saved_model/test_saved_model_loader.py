from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from inserve.errors import FailedPreconditionError
from inserve.protos import messages
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions, tune
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tf_record import write_records
from inserve.saved_model.warmup import warmup_file
from inserve.tensorflow_c.load_saved_model import load_saved_model

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
ONE_VALUE = [np.array([1.0], np.float32)]


class Replayed:
    def __init__(self, fails: bool = False) -> None:
        self.signature_names: list[str] = []
        self.fails = fails

    def __call__(self, servable: SavedModelServable, log_type: int, request: bytes) -> None:
        assert log_type == 6
        assert "serving_default" in servable.signatures
        self.signature_names.append(messages.PredictRequest.FromString(request).model_spec.signature_name)
        if self.fails:
            raise FailedPreconditionError("the request fails")


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """A version with the records of one request."""
    version = tmp_path / "1"
    shutil.copytree(MODELS / "half_plus_two" / "1", version)
    (version / "assets.extra").mkdir()
    log = messages.PredictionLog()
    log.predict_log.request.model_spec.signature_name = "recorded"
    write_records(warmup_file(str(version)), [log.SerializeToString()])
    return str(version)


UNTUNED = SavedModelOptions(tune=False)


def loader(model: str, options: SavedModelOptions = UNTUNED) -> SavedModelLoader:
    return SavedModelLoader(str(MODELS / model / "1"), options, load_saved_model)


def is_known_to_be_short(servable: SavedModelServable) -> bool:
    return servable.signature_run(servable.signatures["serving_default"], ()).is_short(ONE_VALUE)


def test_the_cost_of_a_model_is_known_once_it_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    one = loader("half_plus_two")
    with caplog.at_level(logging.INFO, "inserve.saved_model"):
        one.load()
    try:
        assert is_known_to_be_short(one.servable())
    finally:
        one.unload()
    lines = [r.getMessage() for r in caplog.records if r.name == "inserve.saved_model"]
    assert len(lines) == 1
    assert "ran 1 of 1 signatures on generated inputs" in lines[0]


@pytest.mark.parametrize(
    "options",
    [
        SavedModelOptions(enable_model_warmup=False, cache_dir=""),
        SavedModelOptions(generate_warmup=False, cache_dir=""),
    ],
)
def test_either_option_switches_generated_inputs_off(options: SavedModelOptions) -> None:
    one = loader("half_plus_two", options)
    one.load()
    try:
        assert not is_known_to_be_short(one.servable())
    finally:
        one.unload()


def test_a_model_that_counts_its_calls_has_counted_none_when_it_is_loaded() -> None:
    one = loader("counter")
    one.load()
    try:
        servable = one.servable()
        get = servable.signatures["get"]
        (count,) = servable.signature_run(get, ()).run([])
        assert count == 0
    finally:
        one.unload()


def test_a_model_that_refuses_generated_inputs_is_loaded_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = loader("error2")
    with caplog.at_level(logging.INFO, "inserve.saved_model"):
        one.load()
    one.unload()
    assert [record for record in caplog.records if record.name == "inserve.saved_model"] == []


def test_recorded_requests_are_replayed_and_nothing_is_generated(recorded: str) -> None:
    replayed = Replayed()
    options = SavedModelOptions(num_request_iterations_for_warmup=2, cache_dir="")
    one = SavedModelLoader(recorded, options, load_saved_model, replayed)
    one.load()
    try:
        assert replayed.signature_names == ["recorded", "recorded"]
        assert not is_known_to_be_short(one.servable())
    finally:
        one.unload()


def test_a_recorded_request_that_fails_fails_the_load(recorded: str) -> None:
    one = SavedModelLoader(recorded, UNTUNED, load_saved_model, Replayed(fails=True))
    with pytest.raises(FailedPreconditionError, match="the request fails"):
        one.load()
    with pytest.raises(FailedPreconditionError, match="is not loaded"):
        one.servable()


def test_records_are_not_read_where_warmup_is_off(recorded: str) -> None:
    Path(warmup_file(recorded)).write_text("garbage garbage garbage")
    options = SavedModelOptions(enable_model_warmup=False, cache_dir="")
    one = SavedModelLoader(recorded, options, load_saved_model, Replayed(fails=True))
    one.load()
    one.unload()


def test_a_tuned_version_says_what_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = loader("half_plus_two", SavedModelOptions(cache_dir=str(tmp_path), tuning_budget_s=10.0))
    with caplog.at_level(logging.INFO, "inserve.saved_model"):
        one.load()
    tuning = one.servable().tuning
    one.unload()
    assert tuning.source == "measured"
    assert {size.signature for size in tuning.sizes} == {"serving_default"}
    assert all(alternative.alone_s > 0 for size in tuning.sizes for alternative in size.alternatives)
    assert [r.getMessage() for r in caplog.records if r.name == "inserve.saved_model"][-1].endswith(
        str(tuning)
    )


def test_a_second_load_takes_the_tuning_of_the_first(tmp_path: Path) -> None:
    tunings = []
    for _ in range(2):
        one = loader("half_plus_two", SavedModelOptions(cache_dir=str(tmp_path), tuning_budget_s=10.0))
        one.load()
        tunings.append(one.servable().tuning)
        one.unload()
    assert tunings[1].source == "cached"
    assert tunings[1].sizes == tunings[0].sizes


def test_recorded_requests_are_what_a_version_is_measured_on(tmp_path: Path, recorded: str) -> None:
    def replay(servable: SavedModelServable, log_type: int, request: bytes) -> None:
        del log_type, request
        run = servable.signature_run(servable.signatures["serving_default"], ())
        for _ in range(3):
            run.run([np.zeros(100, np.float32)])

    one = SavedModelLoader(
        recorded, SavedModelOptions(cache_dir="", tuning_budget_s=10.0), load_saved_model, replay
    )
    one.load()
    tuning = one.servable().tuning
    one.unload()
    assert [(size.rows, size.input_bytes) for size in tuning.sizes] == [(100, 400)]


@pytest.mark.parametrize("options", [UNTUNED, SavedModelOptions(tuning_budget_s=0.0)])
def test_tuning_is_switched_off_by_either_option(options: SavedModelOptions) -> None:
    one = loader("half_plus_two", options)
    one.load()
    tuning = one.servable().tuning
    one.unload()
    assert (tuning.source, tuning.sizes) == ("explicit", ())


def test_a_session_config_that_names_threads_is_left_alone(tmp_path: Path) -> None:
    config = messages.ConfigProto(intra_op_parallelism_threads=1).SerializeToString()
    one = loader("half_plus_two", SavedModelOptions(session_config=config, cache_dir=str(tmp_path)))
    one.load()
    tuning = one.servable().tuning
    one.unload()
    assert (tuning.source, tuning.intra_op_threads) == ("explicit", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="tuning_budget_s is -1"):
        SavedModelOptions(tuning_budget_s=-1.0)


def test_tune_measures_although_the_cache_knows(tmp_path: Path) -> None:
    options = SavedModelOptions(cache_dir=str(tmp_path), tuning_budget_s=10.0)
    path = str(MODELS / "half_plus_two" / "1")
    assert [tune(path, options).source, tune(path, options).source] == ["measured", "measured"]
    one = loader("half_plus_two", options)
    one.load()
    assert one.servable().tuning.source == "cached"
    one.unload()


def test_runs_of_a_warm_up_wait_for_no_company() -> None:
    contexts: list[str] = []

    class Batched:
        def __init__(self, path: str, tags: Sequence[str] = ("serve",), config: bytes = b"") -> None:
            self.model = load_saved_model(path, tags, config)
            self.session = self.model.session
            self.meta_graph_def = self.model.meta_graph_def

        def close(self) -> None:
            self.model.close()

        @contextmanager
        def unbatched(self) -> Iterator[None]:
            contexts.append("entered")
            yield
            contexts.append("left")

    one = SavedModelLoader(str(MODELS / "half_plus_two" / "1"), UNTUNED, Batched)
    one.load()
    one.unload()
    assert contexts == ["entered", "left"]
