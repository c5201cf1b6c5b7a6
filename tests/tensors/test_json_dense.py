from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inserve.tensors import json_dense
from inserve.tensors.dtypes import DataType
from inserve.tensors.json_dense import DenseList, load_with_dense_lists

FLOATS = np.random.default_rng(2).random((4, 10, 3)).tolist()
INTEGERS = np.arange(600).reshape(2, 300).tolist()


def load(document: Any) -> Any:
    return load_with_dense_lists(json.dumps(document).encode())


def dense(value: Any) -> DenseList:
    assert isinstance(value, DenseList)
    return value


def test_a_large_list_of_numbers_becomes_values_and_shape() -> None:
    found = dense(load({"instances": FLOATS})["instances"])
    assert found.shape == (4, 10, 3)
    assert found.values.tolist() == np.ravel(FLOATS).tolist()


def test_integers_stay_integers() -> None:
    found = dense(load({"inputs": {"x": INTEGERS}})["inputs"]["x"])
    assert found.values.dtype == np.int64
    assert found.values.tolist() == list(range(600))


@pytest.mark.parametrize("first", [0, 0.5])
def test_one_number_that_is_no_integer_makes_all_floats(first: float) -> None:
    found = dense(load({"inputs": [first, 0.5, 2**64 - 1, *INTEGERS[0]]})["inputs"])
    assert found.values.dtype == np.float64
    assert found.values.tolist()[:3] == [first, 0.5, 2.0**64]
    assert found.convert(DataType.DT_INT64) is None


def test_lists_are_found_in_objects_and_in_the_objects_of_lists() -> None:
    found = load({"a": FLOATS, "b": {"c": FLOATS, "d": 1}, "e": [{"f": FLOATS}, {"f": INTEGERS}], "g": "h"})
    lists = [found["a"], found["b"]["c"], found["e"][0]["f"], found["e"][1]["f"]]
    assert [dense(value).shape for value in lists] == [(4, 10, 3)] * 3 + [(2, 300)]
    assert (found["b"]["d"], found["g"]) == (1, "h")


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [1.5, 2.5]},
        {"instances": [*FLOATS, 1]},
        {"instances": [[1.25] * 200, [1.25] * 100, [1.25] * 300]},
        {"instances": [["[,]"] * 300]},
        {"instances": [True] * 300},
        {"instances": [{"x": 1}] * 300},
        {"instances": FLOATS, "signature_name": 'a"b'},
        [FLOATS],
        {str(i): [1] for i in range(600)} | {"x": FLOATS},
    ],
)
def test_anything_else_is_left_to_the_general_way(document: Any) -> None:
    assert load(document) is None


@pytest.mark.parametrize("name", ["[,],", "]", '", "x": [[', "ä"])
def test_brackets_in_strings_are_none_of_the_list(name: str) -> None:
    body = json.dumps({"signature_name": name, "inputs": FLOATS}, ensure_ascii=False)
    found: Any = load_with_dense_lists(body.encode())
    if '"' in name:
        assert found is None
    else:
        assert found["signature_name"] == name
        assert dense(found["inputs"]).shape == (4, 10, 3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([[0, 1, 2], [3, 4], [5, 6, 7, 8]], [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ([[0, 1], [2, 3], [4], [5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ([[[0, 1]], [[2], [3]]], [[[0], [1]], [[2, 3]]]),
        ([[0, 1], 2, [3, [4, 5]]], [[0, 1], [2, 3], [4, 5]]),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_rows_that_make_up_for_each_other_are_no_dense_lists(
    first: list[Any], second: list[Any], swapped: bool
) -> None:
    if swapped:
        first, second = second, first
    many = [[first] * 50, [second] * 50]
    assert load({"inputs": {"x": many[0], "y": many[1]}}) is None
    assert load({"inputs": many}) is None


@pytest.mark.parametrize("end", ["]}}", "]", "], 5}", "]} x", "]]}", ",]}", "]}\x00"])
def test_what_should_not_follow_the_list_is_left_to_the_general_way(end: str) -> None:
    assert load_with_dense_lists(b'{"inputs": [' + b"1.5, " * 300 + b"2" + end.encode()) is None


def test_a_body_that_is_no_utf_8_is_left_to_the_general_way() -> None:
    assert load_with_dense_lists(b'{"signature_name": "\xff", "inputs": [' + b"1.5, " * 300 + b"2]}") is None


@pytest.mark.parametrize("shape", [(150_000,), (400, 500, 1), (1, 100, 300, 5)])
def test_shapes_of_any_size_are_told(shape: tuple[int, ...]) -> None:
    values: Any = np.arange(math.prod(shape)).reshape(shape).tolist()
    for _ in range(2):
        assert dense(load({"inputs": values})["inputs"]).shape == shape
    row = values
    while isinstance(row[-1], list):
        row = row[-1]
    row.append([0])
    assert load({"inputs": values}) is None


def test_a_first_row_of_many_makes_no_expected_structure_beyond_the_body() -> None:
    assert load({"inputs": [[0] * 100_000] + [[]] * 100_000}) is None


ROWS = st.lists(
    st.one_of(
        st.integers(-5, 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.one_of(st.integers(-5, 5), st.just(0.5)), max_size=3),
        st.sampled_from([[[1]], [[], [2]], True, None, [0.25, 1]]),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=3), times=st.integers(150, 300), blank=st.sampled_from(["", " "])
)
def test_a_structure_that_came_before_changes_nothing(rows: list[Any], times: int, blank: str) -> None:
    json_dense._shapes.clear()
    document = {"instances": [rows[index % len(rows)] for index in range(times)]}
    body = json.dumps(document, separators=("," + blank, ":")).encode()
    other = json.dumps(
        {"instances": with_halves(document["instances"])}, separators=("," + blank, ":")
    ).encode()
    first, first_of_other = seen(body), None
    for _ in range(2):
        json_dense._shapes.clear()
        first_of_other = seen(other)
        assert seen(body) == first
        assert seen(other) == first_of_other


def with_halves(value: Any) -> Any:
    """Return *value* with other numbers in the same places."""
    if isinstance(value, list):
        return [with_halves(item) for item in value]
    return value + 0.5 if type(value) is int else value


def seen(body: bytes) -> Any:
    found = load_with_dense_lists(body)
    if found is None:
        return None
    values = dense(found["instances"])
    return values.shape, values.values.dtype, values.values.tobytes()


@pytest.mark.parametrize("text", ["7", "-7", "[[7", " [ 7", "7.0", "7e0", "0.5"])
def test_of_a_structure_that_came_before_the_first_number_tells_integers(text: str) -> None:
    closing = "]" * text.count("[")
    row = text + ", 8" + closing if closing else text
    body = ('{"instances": [' + ", ".join([row] * 400) + "]}").encode()
    for _ in range(2):
        is_integer = not set(text) & set(".e")
        assert dense(load_with_dense_lists(body)["instances"]).values.dtype == (  # type: ignore[index]
            np.int64 if is_integer else np.float64
        )


def test_empty_lists_do_not_hide_lists_of_a_single_number() -> None:
    json_dense._shapes.clear()
    for _ in range(2):
        assert dense(load({"instances": [[]] * 600})["instances"]).shape == (600, 0)
    assert dense(load({"instances": [[0.5]] * 600})["instances"]).shape == (600, 1)


def test_what_is_remembered_has_a_bound() -> None:
    for size in range(300, 400):
        load({"instances": [0.5] * size})
    assert len(json_dense._shapes) <= 32


def test_threads_do_not_share_a_parser() -> None:
    problems: list[str] = []
    body = json.dumps({"inputs": FLOATS}).encode()

    def work() -> None:
        for _ in range(50):
            found = load_with_dense_lists(body)
            if found is None or found["inputs"].shape != (4, 10, 3):
                problems.append("not found")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
