from __future__ import annotations

import json

import numpy as np
import pytest

from inserve.demo_data.digits import digits_base_path, load_held_out_digits


def test_the_shipped_images_are_two_of_each_digit_from_0_to_1() -> None:
    digits = load_held_out_digits()
    assert sorted(digits.labels.tolist()) == [digit for digit in range(10) for _ in range(2)]
    assert digits.images.shape == (20, 8, 8, 1)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0.0, 1.0)


def test_the_model_is_small_and_says_how_good_it_is() -> None:
    base_path = digits_base_path()
    assert sum(file.stat().st_size for file in base_path.rglob("*") if file.is_file()) < 300_000
    about = json.loads((base_path / "about.json").read_text())
    assert about["held_out_accuracy"] == round(about["held_out_correct"] / about["held_out_images"], 4)
    assert about["held_out_accuracy"] > 0.95


def test_tensorflow_reads_most_of_the_shipped_images_correctly() -> None:
    tf = pytest.importorskip("tensorflow")
    digits = load_held_out_digits()
    reader = tf.saved_model.load(str(digits_base_path() / "1")).signatures["serving_default"]
    outputs = reader(images=tf.constant(digits.images))
    classes = outputs["classes"].numpy()
    probabilities = outputs["probabilities"].numpy()
    assert classes.dtype == np.int64
    assert classes.tolist() == probabilities.argmax(-1).tolist()
    np.testing.assert_allclose(probabilities.sum(-1), np.ones(20), atol=1e-5)
    assert (classes == digits.labels).sum() >= 18


def test_inserve_reads_the_same_as_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    import inserve

    digits = load_held_out_digits()
    reader = tf.saved_model.load(str(digits_base_path() / "1")).signatures["serving_default"]
    expected = reader(images=tf.constant(digits.images))
    with inserve.load(digits_base_path()) as model:
        outputs = model(images=digits.images)
    assert outputs["classes"].tolist() == expected["classes"].numpy().tolist()
    np.testing.assert_allclose(outputs["probabilities"], expected["probabilities"].numpy(), atol=1e-5)
