"""Small grey images as text: two rows of pixels to a line, by half blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["HEIGHT", "WIDTH", "can_encode_blocks", "draw_digit", "side_by_side"]

WIDTH = 12
"""Columns of a drawing."""
HEIGHT = WIDTH // 2
"""Lines of a drawing."""

_INK = 0.45
_BLOCKS = " \u2580\u2584\u2588"
_ASCII = " '.#"


def can_encode_blocks(encoding: str) -> bool:
    """Return whether text in *encoding* may hold block characters."""
    try:
        _BLOCKS.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def draw_digit(image: NDArray[np.float32], blocks: bool = True) -> list[str]:
    """Return ``HEIGHT`` lines of ``WIDTH`` columns that show *image*, ``[rows, columns]`` of 0..1.

    The image is stretched smoothly to ``WIDTH`` pixels each way; *blocks* False draws with ASCII.
    """
    across = np.stack([_stretch(row, WIDTH) for row in image])
    ink = np.stack([_stretch(column, WIDTH) for column in across.T], axis=1) > _INK
    marks = _BLOCKS if blocks else _ASCII
    return [
        "".join(
            marks[int(upper) + 2 * int(lower)] for upper, lower in zip(ink[row], ink[row + 1], strict=True)
        )
        for row in range(0, WIDTH, 2)
    ]


def _stretch(values: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    count = len(values)
    positions = (np.arange(size) + 0.5) * count / size - 0.5
    return np.asarray(np.interp(positions, np.arange(count), values), np.float64)


def side_by_side(drawings: Sequence[Sequence[str]], gap: int = 3) -> list[str]:
    """Return the lines of drawings of equal height standing next to each other."""
    return [(" " * gap).join(lines).rstrip() for lines in zip(*drawings, strict=True)]
