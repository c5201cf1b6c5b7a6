"""The shipped reader of handwritten digits; made by ``examples/train_digits.py``.

The images come from scikit-learn's copy of the UCI set "Optical Recognition of Handwritten Digits".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldOutDigits", "digits_base_path", "load_held_out_digits"]

_FOLDER = Path(__file__).parent


class HeldOutDigits(NamedTuple):
    """Images that the model was not trained on, and what they show."""

    images: NDArray[np.float32]
    """``[N, 8, 8, 1]``, from 0 (paper) to 1 (ink)."""
    labels: NDArray[np.int64]
    """``[N]``, the digits 0 to 9."""


def digits_base_path() -> Path:
    """Return the base path of the model; version 1 is below it, ``about.json`` beside that."""
    return _FOLDER / "models" / "digits"


def load_held_out_digits() -> HeldOutDigits:
    """Return the shipped images, two of each digit."""
    with np.load(_FOLDER / "held_out_digits.npz", allow_pickle=False) as arrays:
        return HeldOutDigits(arrays["images"], arrays["labels"])
