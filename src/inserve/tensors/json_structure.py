"""Whether a list of numbers has one shape throughout, told from its text and from what simdjson parsed of it.

In one of three ways: a few long lists are asked for their lengths, short rows (the colours of pixels) are
looked at 64 bytes at a time, and otherwise all bytes but brackets and commas are deleted and what is left
must be what a list of that shape leaves.
"""

from __future__ import annotations

import functools
import itertools
import operator
import sys
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

__all__ = ["is_rectangular", "structure_of"]

_LONG_TEXT_BYTES = 2**16
_BYTES_PER_LIST = 512
"""Text that takes as long to read as a list takes to be asked for its length."""
_SHORT_ROW = 4
"""Numbers of a row up to which looking at 64 bytes at a time is the faster way: each takes a step more."""
_PIECE_BYTES = 2**18
"""What is looked at in one go, a multiple of 64; longer temporary arrays would not stay in the caches."""
_MAX_REMEMBERED_BYTES = 2**18
"""Length of the longest structure that is remembered: clients repeat themselves."""
_MAX_REMEMBERED = 32
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


def structure_of(text: bytes) -> bytes:
    """Return the brackets and commas of *text*."""
    return text.translate(None, _ALL_BUT_STRUCTURE)


def is_rectangular(
    outermost: simdjson.Array, shape: tuple[int, ...], body: bytes, start: int, stop: int
) -> bool:
    """Return whether the list *outermost*, ``body[start:stop]``, has *shape* throughout.

    It is JSON and has numbers in it and lists, nothing else; as many numbers as *shape* has elements.
    """
    length = stop - start
    if length >= _LONG_TEXT_BYTES and all(shape):
        rows = list(itertools.accumulate(shape[:-1], operator.mul, initial=1))
        if sum(rows) * _BYTES_PER_LIST <= length:
            return _has_openings(body, start, stop, sum(rows)) and _have_lengths(outermost, shape) is not None
        if shape[-1] <= _SHORT_ROW and sum(rows[:-1]) * _BYTES_PER_LIST <= length and _CAN_COUNT_BITS:
            above = _have_lengths(outermost, shape[:-1])
            if above is None or not all(isinstance(parent[0], simdjson.Array) for parent in above):
                return False
            if _are_rows(np.frombuffer(body, np.uint8)[start:stop], shape[-1], sum(rows)):
                return True
    return structure_length(shape) <= length and structure_of(body[start:stop]) == _expected_structure(shape)


def _has_openings(body: bytes, start: int, stop: int, number: int) -> bool:
    """Return whether as many lists open in ``body[start:stop]``; finds few faster than ``bytes.count``."""
    for _ in range(number):
        start = body.find(b"[", start, stop) + 1
        if not start:
            return False
    return body.find(b"[", start, stop) < 0


def _have_lengths(outermost: simdjson.Array, shape: tuple[int, ...]) -> list[simdjson.Array] | None:
    """Return the innermost lists of *shape*, or None unless they and all around them have its lengths."""
    lists: list[Any] = [outermost]
    for level, size in enumerate(shape):
        if level:
            lists = [item for parent in lists for item in parent]
        if not all(isinstance(item, simdjson.Array) and len(item) == size for item in lists):
            return None
    return lists


# --- 64 bytes at a time -------------------------------------------------------------------------------

_CAN_COUNT_BITS = hasattr(np, "bitwise_count") and sys.byteorder == "little"  # NumPy counts from 2.0 on
_MARKS = tuple(b",[]")
_Words = NDArray[np.uint64]
"""One bit for each byte of a text, the lowest first."""


def _are_rows(text: NDArray[np.uint8], size: int, lists: int) -> bool:
    """Return whether it is sure that the innermost lists of *text* have *size* numbers each.

    What is known of it: it has as many numbers as *size* times the rows there should be, and the lists around
    the rows have the right lengths and start with a list. What makes it sure, where a comma with the end of a
    list right before it and the start of one right behind it, or after a blank, parts the text:

    - No part has more than *size* numbers, as no *size* other commas follow each other. So there are at least
      as many parts as rows.
    - Each part starts with the start of a list and ends with the end of one, so it has a list in it that has
      no lists. There are *lists* in all, and those around the rows are none of these. So there is one in each
      part, and no others: they are the elements of the lists around them, all of them, and have all numbers.

    There is a comma in every word but the last.
    """
    commas, openings, closings = _bits(text)
    if np.sum(np.bitwise_count(openings)) != lists or not commas[:-1].all():
        return False
    between_lists = _moved(closings, 1) & (_moved(openings, -1) | _moved(openings, -2))
    between_numbers = commas & ~between_lists
    no_commas = ~commas
    reached = between_numbers
    for _ in range(size - 1):
        # Adding a bit to a run of set bits carries it to the first place behind them: to the next comma.
        starts = _moved(reached, 1)
        sums = starts + no_commas
        sums[1:] += (sums < starts)[:-1]
        reached = sums & between_numbers
    return not reached.any()


def _bits(text: NDArray[np.uint8]) -> tuple[_Words, _Words, _Words]:
    """Return where *text* has commas, opening brackets and closing ones."""
    found = np.zeros((len(_MARKS), -(-len(text) // 64)), np.uint64)
    packed = found.view(np.uint8)
    for start in range(0, len(text), _PIECE_BYTES):
        piece = text[start : start + _PIECE_BYTES]
        place = slice(start // 8, start // 8 - (-len(piece) // 8))
        for row, mark in zip(packed, _MARKS, strict=True):
            row[place] = np.packbits(piece == mark, bitorder="little")
    commas, openings, closings = found
    return commas, openings, closings


def _moved(words: _Words, places: int) -> _Words:
    """Return *words* with each bit so many *places* further on in the text, or back."""
    moved: _Words
    if places > 0:
        moved = words << np.uint64(places)
        moved[1:] |= words[:-1] >> np.uint64(64 - places)
    else:
        moved = words >> np.uint64(-places)
        moved[:-1] |= words[1:] << np.uint64(64 + places)
    return moved


# --- all brackets and commas --------------------------------------------------------------------------


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def structure_length(shape: tuple[int, ...]) -> int:
    length = 0
    for size in reversed(shape):
        length = size * (length + 1) + 1 if size else 2
    return length


def _structure(shape: tuple[int, ...]) -> bytes:
    """Return the brackets and commas of a list of *shape*."""
    structure = b""
    for size in reversed(shape):
        structure = b"[" + (structure + b",") * (size - 1) + (structure if size else b"") + b"]"
    return structure


_remembered_structure = functools.lru_cache(maxsize=_MAX_REMEMBERED)(_structure)


def _expected_structure(shape: tuple[int, ...]) -> bytes:
    if structure_length(shape) <= _MAX_REMEMBERED_BYTES:
        return _remembered_structure(shape)
    return _structure(shape)
