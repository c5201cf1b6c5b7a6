"""Finds out by running it how many rows a graph takes together without a change of a bit.

For graphs that keep rows apart but add up (``row_wise_sums``). In which order a kernel adds depends on the
shapes alone, never on the values: where it were another one in company, half of all results would differ in
their last bit. So a few thousand results of made-up rows tell, and rows with zeros, infinities, NaN and
denormal numbers what becomes of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InserveError
from inserve.saved_model.signature import Signature

__all__ = ["MOST_ROWS", "most_rows_alike", "trial_rows"]

MOST_ROWS = 16
"""More rows are not tried together."""

_TURNS = 8
"""Each number of rows is tried so often, with other rows in other places."""

_ROWS = 40
_SHARE_OF_ODD = 0.1
_MOST_ROW_BYTES = 1 << 20

_Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]


def trial_rows(signature: Signature) -> list[NDArray[Any]] | None:
    """Return made-up rows for each input, ``[rows, ...]`` in the order of ``signature.inputs``.

    None where an input is of numbers that cannot be made up (integers may have to be within some range),
    of unknown sizes, or large.
    """
    generator = np.random.default_rng(0)
    inputs = []
    for spec in signature.inputs.values():
        sizes = spec.shape[1:] if spec.shape else None
        if sizes is None or spec.dtype is None or not (spec.dtype.kind == "f" or spec.dtype == np.uint8):
            return None
        known = tuple(size for size in sizes if size is not None)
        if len(known) != len(sizes) or prod(known) * spec.dtype.itemsize > _MOST_ROW_BYTES:
            return None
        inputs.append(_rows(generator, known, spec.dtype))
    return inputs or None


def _rows(generator: np.random.Generator, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return rows of ordinary numbers; some are all one odd number, and some hold that here and there."""
    if dtype == np.uint8:
        return generator.integers(0, 256, (_ROWS, *sizes), np.uint8)
    info = np.finfo(dtype)
    rows = generator.standard_normal((_ROWS, *sizes)).astype(dtype)
    rows[::3] = abs(rows[::3]) % 1
    rows[1::6] *= 100
    for place, odd in enumerate([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, info.smallest_subnormal, info.max]):
        rows[place] = odd
        rows[-1 - place] = np.where(generator.random(sizes) < _SHARE_OF_ODD, odd, rows[-1 - place])
    return rows


def most_rows_alike(
    run: _Run, rows: Sequence[NDArray[Any]], budget_s: float, now: Callable[[], float] = perf_counter
) -> int:
    """Return how many of *rows* one *run* may have so that each gets the bits that it gets alone.

    Every smaller number has been tried, too. 0: not even two, or a run has failed, or *budget_s* has passed
    before.
    """
    deadline = now() + budget_s
    number = len(rows[0])
    most = 0
    try:
        alone: list[list[Any]] = []
        for row in range(number):
            if now() > deadline:
                return 0
            outputs = run([array[row : row + 1] for array in rows])
            if any(output.shape[:1] != (1,) for output in outputs):
                return 0
            alone.append([_bits(output[0]) for output in outputs])
        generator = np.random.default_rng(1)
        for together in range(2, MOST_ROWS + 1):
            for _ in range(_TURNS):
                if now() > deadline:
                    return most
                chosen = generator.permutation(number)[:together]
                outputs = run([array[chosen] for array in rows])
                if any(output.shape[:1] != (together,) for output in outputs):
                    return most
                if any(
                    [_bits(output[place]) for output in outputs] != alone[row]
                    for place, row in enumerate(chosen.tolist())
                ):
                    return most
            most = together
    except InserveError:
        return 0
    return most


def _bits(row: Any) -> Any:
    """Return what is equal for rows of the same bits; a row of one number, or string, is no array."""
    array = np.asarray(row)
    return array.tolist() if array.dtype == np.object_ else array.tobytes()
