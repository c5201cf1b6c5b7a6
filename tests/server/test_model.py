from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import inserve

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
HALF_PLUS_TWO = MODELS / "half_plus_two"


def test_the_newest_version_below_a_base_path_is_loaded() -> None:
    with inserve.load(HALF_PLUS_TWO) as model:
        assert model.version == 2
        assert model(x=[1.0, 2.0])["y"].tolist() == [3.5, 4.0]


def test_a_version_can_be_asked_for() -> None:
    with inserve.load(HALF_PLUS_TWO, version=1) as model:
        assert model(x=[1.0, 2.0, 5.0])["y"].tolist() == [2.5, 3.0, 4.5]


def test_a_version_folder_is_loaded_itself() -> None:
    with inserve.load(HALF_PLUS_TWO / "1") as model:
        assert model.version == 1


def test_a_saved_model_outside_a_version_folder_has_no_version(tmp_path: Path) -> None:
    shutil.copytree(HALF_PLUS_TWO / "1", tmp_path / "model")
    with inserve.load(tmp_path / "model") as model:
        assert model.version is None


def test_inputs_may_come_as_one_mapping() -> None:
    with inserve.load(HALF_PLUS_TWO, 1) as model:
        assert model({"x": np.array([1.0], np.float32)})["y"].tolist() == [2.5]


def test_a_mapping_and_named_inputs_together_are_refused() -> None:
    with inserve.load(HALF_PLUS_TWO, 1) as model, pytest.raises(TypeError, match="not both"):
        model({"x": [1.0]}, x=[1.0])


def test_the_signature_tells_its_inputs() -> None:
    with inserve.load(HALF_PLUS_TWO, 1) as model:
        assert model.signature.inputs["x"].dtype == np.float32
        assert model.signature.inputs["x"].shape == (None,)
        assert repr(model.signature) == "<Signature serving_default(x: float[?]) -> (y: float[?])>"


def test_another_signature_can_be_chosen() -> None:
    with inserve.load(MODELS / "multi", signature="same_tensor") as model:
        assert model.signature.key == "same_tensor"


def test_an_unknown_signature_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        inserve.InvalidArgumentError, match=r"has no signature 'no'; it has .*serving_default"
    ):
        inserve.load(HALF_PLUS_TWO, signature="no")


def test_an_unknown_version_is_refused_with_those_there_are() -> None:
    with pytest.raises(inserve.NotFoundError, match="has no version 7; it has 1, 2"):
        inserve.load(HALF_PLUS_TWO, version=7)


def test_a_folder_that_holds_no_model_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        inserve.NotFoundError, match=r"neither saved_model\.pb nor a folder named as a version"
    ):
        inserve.load(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(inserve.NotFoundError, match=r"no folder .*absent"):
        inserve.load(tmp_path / "absent")


def test_tags_that_the_model_lacks_are_named() -> None:
    with pytest.raises(inserve.NotFoundError, match=r"meta graph def matching supplied tags: \{ no \}"):
        inserve.load(HALF_PLUS_TWO, tags=["no"])


def test_a_closed_model_refuses_calls_and_its_answers_stay() -> None:
    model = inserve.load(HALF_PLUS_TWO, 1)
    answer = model(x=np.ones(100_000, np.float32))["y"]
    model.close()
    model.close()
    with pytest.raises(inserve.FailedPreconditionError, match="closed"):
        model(x=[1.0])
    assert answer.sum() == 250_000.0


def test_a_shape_that_the_signature_does_not_state_is_refused() -> None:
    with (
        inserve.load(HALF_PLUS_TWO) as model,
        pytest.raises(inserve.InvalidArgumentError, match="must have shape"),
    ):
        model(x=[[1.0]])


def test_without_the_shape_check_a_graph_may_take_other_shapes() -> None:
    with inserve.load(HALF_PLUS_TWO, 1, check_shapes=False) as model:
        assert model(x=[[1.0]])["y"].tolist() == [[2.5]]


def test_a_graph_whose_kernels_abort_stays_checked() -> None:
    with inserve.load(MODELS / "cnn", check_shapes=False) as model:
        (alias,) = model.signature.inputs
        with pytest.raises(inserve.InvalidArgumentError, match="must have shape"):
            model({alias: np.zeros((2, 28), np.float32)})


def test_strings_go_in_as_text_or_bytes_and_come_out_as_bytes() -> None:
    with inserve.load(MODELS / "types", signature="string") as model:
        assert model(x=["é", b"\xff"])["y"].tolist() == ["é".encode(), b"\xff"]


def test_a_model_is_warmed_up_and_tuned_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "inserve.saved_model"):
        with inserve.load(MODELS / "half_plus_two", warm_up=False) as model:
            assert model(x=[2.0])["y"].tolist() == [4.0]
        assert caplog.messages == []
        with inserve.load(MODELS / "half_plus_two") as model:
            assert model(x=[2.0])["y"].tolist() == [4.0]
        assert any("on generated inputs" in message for message in caplog.messages)
