"""Each way to tell a rectangular list, over every small list that could be mistaken for one."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simdjson

from inserve.tensors import json_structure
from inserve.tensors.json_structure import is_rectangular

NUMBERS = ("0", "-12", "3.5", "0.8444218515250481", "-1.2345678901234567e-300")
needs_bits = pytest.mark.skipif(not hasattr(np, "bitwise_count"), reason="NumPy counts bits from 2.0 on")


@functools.cache
def forests(numbers: int, lists: int) -> list[list[Any]]:
    """Return every sequence of numbers and lists that has so many *numbers* and *lists*, at any depth."""
    if not numbers and not lists:
        return [[]]
    found = [[0, *rest] for rest in forests(numbers - 1, lists)] if numbers else []
    if lists:
        for inner_numbers, inner_lists in itertools.product(range(numbers + 1), range(lists)):
            for first in forests(inner_numbers, inner_lists):
                rests = forests(numbers - inner_numbers, lists - 1 - inner_lists)
                found.extend([first, *rest] for rest in rests)
    return found


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a rectangular list, None of another."""
    if not isinstance(value, list):
        return ()
    first, *others = {shape_of(item) for item in value} or {()}
    return None if others or first is None else (len(value), *first)


def first_shape(value: Any) -> tuple[int, ...]:
    return (len(value), *first_shape(value[0] if value else 0)) if isinstance(value, list) else ()


def count(value: Any) -> int:
    return sum(map(count, value)) if isinstance(value, list) else 1


def text_of(value: Any, comma: str, numbers: Iterator[str]) -> str:
    if isinstance(value, list):
        return "[" + comma.join(text_of(item, comma, numbers) for item in value) + "]"
    return next(numbers)


def lookalikes() -> Iterator[tuple[list[Any], tuple[int, ...]]]:
    """Give every small list that has as many numbers as its first elements promise, and that shape."""
    small = [(numbers, lists) for numbers in range(1, 7) for lists in range(1, 5)]
    for numbers, lists in [*small, (4, 5), (4, 6), (6, 5)]:
        for value in forests(numbers, lists):
            shape = first_shape(value)
            if math.prod(shape) == numbers:
                yield value, shape


def tell(shape: tuple[int, ...], text: str) -> bool:
    body = b'{"x": ' + text.encode() + b"}"
    parsed = simdjson.Parser().parse(body)
    assert isinstance(parsed, simdjson.Object)
    outermost = parsed["x"]
    assert isinstance(outermost, simdjson.Array)
    return is_rectangular(outermost, shape, body, 6, len(body) - 1)


def only_lengths(monkeypatch: pytest.MonkeyPatch, text: str, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(json_structure, "_BYTES_PER_LIST", 0)


def only_bits(monkeypatch: pytest.MonkeyPatch, text: str, shape: tuple[int, ...]) -> None:
    lists = sum(math.prod(shape[:level]) for level in range(len(shape)))
    monkeypatch.setattr(json_structure, "_BYTES_PER_LIST", len(text) // lists + 1)
    monkeypatch.setattr(json_structure, "_SHORT_ROW", 10)
    monkeypatch.setattr(json_structure, "structure_of", lambda _: b"")


def only_structure(monkeypatch: pytest.MonkeyPatch, text: str, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(json_structure, "_LONG_TEXT_BYTES", 10**9)


@pytest.mark.parametrize("comma", [",", ", "])
@pytest.mark.parametrize("way", [only_lengths, pytest.param(only_bits, marks=needs_bits), only_structure])
def test_a_list_is_told_from_all_that_look_like_it(way: Any, comma: str) -> None:
    told = {True: 0, False: 0}
    numbers = itertools.cycle(NUMBERS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(json_structure, "_LONG_TEXT_BYTES", 0)
        for value, shape in lookalikes():
            if way is only_bits and len(shape) == 1:
                continue
            text = text_of(value, comma, numbers)
            way(monkeypatch, text, shape)
            expected = shape_of(value) == shape
            assert tell(shape, text) == expected, text
            told[expected] += 1
    assert told[True] > 25
    assert told[False] > 1000


@needs_bits
def test_blanks_anywhere_make_no_list_rectangular() -> None:
    chance = random.Random(1)
    numbers = itertools.cycle(NUMBERS)
    sure = 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(json_structure, "_LONG_TEXT_BYTES", 0)
        for value, shape in lookalikes():
            if len(shape) == 1:
                continue
            text = text_of(value, ",", numbers)
            blanks = chance.choice([0.1, 0.5, 1.0])
            before, after = (chance.choice(["", " ", "\n", "  "]) for _ in range(2))
            text = "".join(
                before + char + after if char in "[]," and chance.random() < blanks else char for char in text
            )
            only_bits(monkeypatch, text, shape)
            told = tell(shape, text)
            sure += told
            assert not told or shape_of(value) == shape, text
    assert sure > 0


@pytest.mark.parametrize(
    "rows",
    [
        # As many numbers, commas, lists and rows of the right lengths as [[[0] * 2] * 2] * 2 has.
        [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [0, 0], [[0, 0], [[0, 0], [0, 0]]]],
        [[[0, 0], [0, 0]], [[0, 0], [[0, 0], [0, 0]]], [0, 0], [[0, 0], [0, 0]]],
        [[[0, 0], [0, 0]], [[0, 0], [0]], [[0, 0], [0, 0, 0]], [[0, 0], [0, 0]]],
        [[[0, 0], [0, 0]], [[0, 0], [0, [0]]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]],
        [[[0, 0], [0, 0]], [[0, 0], []], [[0, 0], [0, 0, 0, 0]], [[0, 0], [0, 0]]],
    ],
)
@pytest.mark.parametrize("comma", [",", ", "])
@pytest.mark.parametrize("way", [only_lengths, pytest.param(only_bits, marks=needs_bits), only_structure])
def test_rows_that_make_up_for_each_other_are_told(
    monkeypatch: pytest.MonkeyPatch, way: Any, comma: str, rows: list[Any]
) -> None:
    monkeypatch.setattr(json_structure, "_LONG_TEXT_BYTES", 0)
    regular = [[[0, 0], [0, 0]]] * 4
    shape = (2, 80, 2, 2)
    text = text_of([regular * 20] * 2, comma, itertools.cycle(NUMBERS))
    way(monkeypatch, text, shape)
    assert tell(shape, text)
    for value in ([[*rows, *regular * 19], regular * 20], [regular * 20, [*regular * 19, *rows]]):
        assert count(value) == math.prod(shape)
        assert not tell(shape, text_of(value, comma, itertools.cycle(NUMBERS)))


@needs_bits
@pytest.mark.parametrize("comma", [",", ", "])
def test_it_does_not_matter_where_words_begin(monkeypatch: pytest.MonkeyPatch, comma: str) -> None:
    monkeypatch.setattr(json_structure, "_LONG_TEXT_BYTES", 0)
    for number in ("0", "-0.25", "0.8444218515250481"):
        text = text_of([[0] * 3] * 40, comma, itertools.repeat(number))
        irregular = text_of([*[[0] * 3] * 38, [0] * 4, [0] * 2], comma, itertools.repeat(number))
        for first in range(1, 63 - len(number)):
            start = "[" + " " * (first - 1)
            only_bits(monkeypatch, start + text[1:], (40, 3))
            assert tell((40, 3), start + text[1:])
            assert not tell((40, 3), start + irregular[1:])


@pytest.mark.parametrize(
    "shape", [(100, 100, 4), (4000, 3), (1, 300, 50, 1), (40, 2000), (9000,), (7, 9, 11, 13)]
)
def test_shapes_of_images_and_matrices_are_told_from_one_number_more_or_less(shape: tuple[int, ...]) -> None:
    value: Any = np.random.default_rng(3).random(shape).tolist()
    text = json.dumps(value)
    assert tell(shape, text)
    assert tell(shape, text.replace(", ", ","))
    assert tell(shape, text.replace(", ", " ,\n"))
    if len(shape) > 1:
        long, short = value, value
        for _ in shape[1:]:
            long, short = long[-1], short[shape[0] // 2 if short is value else 0]
        long.append(short.pop())
        assert not tell(shape, json.dumps(value))


@needs_bits
@pytest.mark.parametrize("blanks", [0, 1, 62, 63, 64, 65, 127, 128, 129, 200])
def test_rows_with_long_blanks_between_their_numbers_are_told(blanks: int) -> None:
    regular = [[[0] * 3] * 200] * 40
    assert tell((40, 200, 3), json.dumps(regular).replace("0, 0]", "0," + " " * blanks + "0]"))
    for irregular in ([[0] * 4, [0] * 2], [[0] * 2, [0] * 4]):
        value = [*regular[:-1], [*irregular, *[[0] * 3] * 198]]
        text = json.dumps(value)
        changed = text[:-6000] + text[-6000:].replace(", 0", "," + " " * blanks + "0")
        assert not tell((40, 200, 3), changed)
