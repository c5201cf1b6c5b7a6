"""Train a small network that reads handwritten digits, and save it as a SavedModel.

    python examples/train_digits.py [--model_base_path DIR] [--held_out FILE]

Needs TensorFlow and scikit-learn (``pip install "inserve[tensorflow,examples]"``) and about a minute of
one CPU. The data are the 1797 images of 8x8 pixels that come with scikit-learn. Without arguments
the files go to ``digits/`` in the current folder; the model in ``src/inserve/demo_data`` was made with

    python examples/train_digits.py --model_base_path src/inserve/demo_data/models/digits \
        --held_out src/inserve/demo_data/held_out_digits.npz

The saved signature ``serving_default`` takes ``images``, float32 ``[N, 8, 8, 1]`` from 0 (paper) to 1
(ink), and gives ``probabilities``, float32 ``[N, 10]``, and ``classes``, int64 ``[N]``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20
EPOCHS = 60
BATCH_SIZE = 32
HELD_OUT_SHARE = 0.2
SAMPLES_OF_EACH_DIGIT = 2


class Digits(NamedTuple):
    """Images, float32 ``[N, 8, 8, 1]`` in 0..1, and their labels, int64 ``[N]``."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def split_digits(seed: int) -> tuple[Digits, Digits]:
    """Return the images to train on and the held-out ones, every digit in both in equal share."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels.astype(np.int64), test_size=HELD_OUT_SHARE, random_state=seed, stratify=labels
    )
    return Digits(train_images, train_labels), Digits(held_images, held_labels)


def first_of_each_digit(digits: Digits, count: int) -> Digits:
    """Return the first *count* images of each digit, in the order of *digits*."""
    chosen = np.sort(np.concatenate([np.flatnonzero(digits.labels == digit)[:count] for digit in range(10)]))
    return Digits(digits.images[chosen], digits.labels[chosen])


def train(digits: Digits, epochs: int) -> Any:
    """Return a trained Keras model from images to probabilities.

    It sees every image a little turned, moved and resized each time, because there are few of them.
    """
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    varied = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            layers.RandomRotation(0.03, fill_mode="constant", seed=SEED),
            layers.RandomTranslation(0.08, 0.08, fill_mode="constant", seed=SEED),
            layers.RandomZoom(0.08, fill_mode="constant", seed=SEED),
            model,
        ]
    )
    steps = epochs * -(-len(digits.labels) // BATCH_SIZE)
    rate = tf.keras.optimizers.schedules.CosineDecay(2e-3, steps)
    varied.compile(tf.keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    varied.fit(digits.images, digits.labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return model


def export(model: Any, version_folder: Path) -> None:
    """Write *model* as a SavedModel with one signature and nothing that only training needs."""
    saved = tf.Module()
    saved.weights = [weight.value for weight in model.weights]

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="images")])  # type: ignore[untyped-decorator]
    def read_digits(images: Any) -> dict[str, Any]:
        probabilities = model(images, training=False)
        return {"probabilities": probabilities, "classes": tf.argmax(probabilities, axis=-1)}

    tf.saved_model.save(saved, str(version_folder), signatures={"serving_default": read_digits})
    for folder in ("assets", "variables"):
        if not any((version_folder / folder).iterdir()):
            (version_folder / folder).rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and save a reader of handwritten digits.")
    parser.add_argument("--model_base_path", type=Path, default=Path("digits/model"))
    parser.add_argument("--held_out", type=Path, default=Path("digits/held_out_digits.npz"))
    arguments = parser.parse_args()

    tf.keras.utils.set_random_seed(SEED)
    training, held_out = split_digits(SEED)
    model = train(training, EPOCHS)
    correct = int((model.predict(held_out.images, verbose=0).argmax(-1) == held_out.labels).sum())

    version_folder = arguments.model_base_path / "1"
    shutil.rmtree(version_folder, ignore_errors=True)
    export(model, version_folder)
    about = {
        "what": "reads a handwritten digit of 8x8 pixels",
        "data": "scikit-learn load_digits",
        "made_by": "examples/train_digits.py",
        "seed": SEED,
        "training_images": len(training.labels),
        "held_out_images": len(held_out.labels),
        "held_out_correct": correct,
        "held_out_accuracy": round(correct / len(held_out.labels), 4),
        "tensorflow": tf.__version__,
    }
    (arguments.model_base_path / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    sample = first_of_each_digit(held_out, SAMPLES_OF_EACH_DIGIT)
    arguments.held_out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.held_out, images=sample.images, labels=sample.labels)

    size = sum(file.stat().st_size for file in version_folder.rglob("*") if file.is_file())
    print(f"{version_folder}: {size / 1000:.0f} kB, {correct} of {len(held_out.labels)} held-out right")


if __name__ == "__main__":
    main()
