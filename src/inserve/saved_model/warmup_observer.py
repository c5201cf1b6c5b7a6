"""Keeps some of the inputs that signatures run on while a version is warmed up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from inserve.saved_model.saved_model_servable import SignatureRun
from inserve.saved_model.signature import Signature
from inserve.saved_model.tuner import MeasuredInput
from inserve.saved_model.warmup_inputs import with_rows

__all__ = ["WarmupObserver", "generated_measured_inputs"]

_SIZES_PER_SIGNATURE = 2
_MOST_SIGNATURES = 8
_MOST_BYTES = 64 << 20
_LARGER_BATCH_ROWS = 32


class WarmupObserver:
    """A ``RunObserver``: keeps the first inputs of each signature and size (in powers of two)."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], MeasuredInput] = {}
        self._counts: dict[tuple[str, int], int] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._bytes = 0

    def __call__(self, run: SignatureRun, arrays: Sequence[NDArray[Any]], seconds: float) -> None:
        if run.signature is None:
            return
        size = sum(array.nbytes for array in arrays)
        key = (run.signature.key, size.bit_length())
        self._counts[key] = self._counts.get(key, 0) + 1
        self._seconds[key] = min(seconds, self._seconds.get(key, seconds))
        if key not in self._kept and self._bytes + size <= _MOST_BYTES:
            self._bytes += size
            # Arrays of requests may be views of memory that is not theirs.
            copies = tuple(array.copy() for array in arrays)
            self._kept[key] = MeasuredInput(run.signature.key, run.output_aliases, copies)

    def inputs(self, signatures: Iterable[Signature]) -> list[MeasuredInput]:
        """Return the most frequent inputs of *signatures*, two sizes of each at most."""
        found: list[MeasuredInput] = []
        for signature in list(signatures)[:_MOST_SIGNATURES]:
            keys = [key for key in self._kept if key[0] == signature.key]
            keys.sort(key=lambda key: -self._counts[key])
            found.extend(
                replace(self._kept[key], seconds=self._seconds[key]) for key in keys[:_SIZES_PER_SIGNATURE]
            )
        return found


def generated_measured_inputs(
    ran: Iterable[tuple[Signature, Sequence[NDArray[Any]], float]],
) -> list[MeasuredInput]:
    """Return the generated inputs that signatures ran on, and those of one row in 32 rows as well."""
    found: list[MeasuredInput] = []
    for signature, arrays, seconds in list(ran)[:_MOST_SIGNATURES]:
        found.append(MeasuredInput(signature.key, signature.output_aliases, tuple(arrays), seconds))
        larger = with_rows(signature, arrays, _LARGER_BATCH_ROWS)
        if larger is not None:
            found.append(MeasuredInput(signature.key, signature.output_aliases, tuple(larger)))
    return found
