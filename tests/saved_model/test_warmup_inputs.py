from __future__ import annotations

import numpy as np
import pytest

from inserve.saved_model.signature import Signature, TensorSpec
from inserve.saved_model.warmup_inputs import MAX_GENERATED_BYTES, generate_inputs, with_rows
from inserve.tensors.dtypes import DataType


def signature(shape: tuple[int | None, ...] | None, data_type: int = DataType.DT_FLOAT) -> Signature:
    return Signature("s", "", [TensorSpec("x", "x:0", data_type, shape)], [])


def test_dimensions_of_any_size_become_1() -> None:
    arrays = generate_inputs(signature((None, 2, None)))
    assert arrays is not None
    assert arrays[0].shape == (1, 2, 1)
    assert arrays[0].dtype == np.float32


def test_strings_are_empty_bytes() -> None:
    arrays = generate_inputs(signature((None, 2), DataType.DT_STRING))
    assert arrays is not None
    assert arrays[0].tolist() == [[b"", b""]]


def test_a_default_value_is_taken_as_it_is() -> None:
    default = np.array([3.0], np.float32)
    spec = TensorSpec("x", "x:0", DataType.DT_FLOAT, None)
    arrays = generate_inputs(Signature("s", "", [spec], [], {"x": default}))
    assert arrays is not None
    assert arrays[0] is default


def test_nothing_is_made_for_an_input_of_any_rank() -> None:
    assert generate_inputs(signature(None)) is None


def test_nothing_is_made_for_a_type_that_no_array_has() -> None:
    assert generate_inputs(signature((None,), DataType.DT_VARIANT)) is None


def test_nothing_larger_than_the_limit_is_made() -> None:
    assert generate_inputs(signature((MAX_GENERATED_BYTES // 4 + 1,))) is None


def test_where_a_wrong_size_may_end_the_process_only_the_first_dimension_is_guessed() -> None:
    assert generate_inputs(signature((None, None, 3)), is_fragile=True) is None
    arrays = generate_inputs(signature((None, 2, 3)), is_fragile=True)
    assert arrays is not None
    assert arrays[0].shape == (1, 2, 3)


def test_rows_repeat_the_one_there_is() -> None:
    arrays = with_rows(signature((None, 2)), [np.array([[1, 2]], np.float32)], 3)
    assert arrays is not None
    assert arrays[0].tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("shape", [(1, 2), (), None])
def test_there_are_no_more_rows_where_the_first_dimension_is_not_free(
    shape: tuple[int | None, ...] | None,
) -> None:
    array = np.zeros((1, 2) if shape is None else tuple(size or 1 for size in shape), np.float32)
    assert with_rows(signature(shape), [array], 3) is None


def test_there_are_no_rows_without_inputs() -> None:
    assert with_rows(Signature("s", "", [], []), [], 3) is None


def test_more_rows_are_within_the_limit_of_generated_bytes() -> None:
    array = np.zeros((1, MAX_GENERATED_BYTES // 8), np.float32)
    assert with_rows(signature((None, None)), [array], 2) is not None
    assert with_rows(signature((None, None)), [array], 3) is None
