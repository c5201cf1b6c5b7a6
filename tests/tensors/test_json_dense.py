from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

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


def test_a_first_row_of_many_makes_no_expected_structure_beyond_the_body() -> None:
    assert load({"inputs": [[0] * 100_000] + [[]] * 100_000}) is None


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
