from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.batching.merging import (
    UnbatchableOutputError,
    join_parts,
    merge_key,
    merge_requests,
    split_outputs,
    split_request,
)
from inserve.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from inserve.tensors.flat_tensor import FlatTensor

DTYPES = [
    np.float32,
    np.int8,
    np.bool_,
    np.complex128,
    ml_dtypes.bfloat16,
    ml_dtypes.int4,
    np.dtype([("qint8", np.int8)]),
]


def ints(*rows: Any) -> NDArray[Any]:
    return np.array(rows, np.int32)


def strings(*rows: Any) -> NDArray[Any]:
    return np.array(rows, object)


def test_requests_stand_one_after_the_other() -> None:
    [merged] = merge_requests([[ints([1, 2])], [ints([3, 4], [5, 6])]], ["x"], 3, False)
    assert merged.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_lone_request_is_not_copied() -> None:
    array = ints([1, 2])
    assert merge_requests([[array]], ["x"], 1, False)[0] is array


def test_missing_rows_repeat_the_first_row_of_the_last_request() -> None:
    [merged] = merge_requests([[ints([1])], [ints([5], [6])]], ["x"], 5, False)
    assert merged.tolist() == [[1], [5], [6], [5], [5]]


def test_missing_rows_of_strings_keep_trailing_nul_bytes() -> None:
    [merged] = merge_requests([[strings(b"a\0")]], ["s"], 2, False)
    assert merged.tolist() == [b"a\0", b"a\0"]


def test_inner_dimensions_grow_with_each_requests_own_first_element() -> None:
    first, second = ints([[1, 2]]), ints([[7], [8]])
    [merged] = merge_requests([[first], [second]], ["x"], 2, True)
    assert merged.tolist() == [[[1, 2], [1, 1]], [[7, 7], [8, 7]]]


def test_padding_strings_keeps_trailing_nul_bytes() -> None:
    [merged] = merge_requests([[strings([b"q\0"])], [strings([b"a", b"b"])]], ["s"], 2, True)
    assert merged.tolist() == [[b"q\0", b"q\0"], [b"a", b"b"]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_can_be_merged_padded_and_split(dtype: Any) -> None:
    first, second = np.zeros((1, 2), dtype), np.zeros((2, 1), dtype)
    [merged] = merge_requests([[first], [second]], ["x"], 4, True)
    assert (merged.shape, merged.dtype) == ((4, 2), first.dtype)
    assert [share[0].shape for share in split_outputs([merged], [1, 2], 4)] == [(1, 2), (2, 2)]


def test_other_shapes_without_padding_are_refused_with_the_name_of_the_tensor() -> None:
    with pytest.raises(FailedPreconditionError) as error:
        merge_requests([[ints([1, 2])], [ints([3])]], ["x:0"], 2, False)
    assert error.value.message == (
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned off. Set "
        "pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
        "dimensions starting with the first dim."
    )


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(InternalError) as error:
        merge_requests([[np.zeros((1, 1), np.float32)], [ints([3])]], ["x"], 2, False)
    assert error.value.message == (
        "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different "
        "data types. Got float and int32."
    )


def test_an_empty_row_beside_others_cannot_be_padded() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Got empty tensor in batch of non-empty tensors\.$"):
        merge_requests([[np.zeros((1, 0))], [np.zeros((1, 2))]], ["x"], 2, True)


@pytest.mark.parametrize("rank", [0, 7])
def test_ranks_outside_1_to_6_cannot_be_padded(rank: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Only tensors with rank from 1 to 6 can be padded\.$"):
        merge_requests([[np.zeros((1,) * rank)]], ["x"], 1, True)


def test_other_ranks_are_an_error_and_no_crash() -> None:
    with pytest.raises(InternalError, match="concat"):
        merge_requests([[np.zeros((1, 1))], [np.zeros((1, 1, 1))]], ["x"], 2, True)


def test_shapes_that_no_array_has_are_not_merged() -> None:
    flat: Any = FlatTensor(np.zeros(1, np.float32), (1,) * 70)
    assert merge_key([flat], True) is None
    assert merge_requests([[flat]], ["x"], 1, False) == [flat]
    with pytest.raises(InternalError):
        merge_requests([[flat], [flat]], ["x"], 2, False)


def test_requests_of_one_key_can_be_merged() -> None:
    narrow, wide, empty = np.zeros((1, 2)), np.zeros((3, 4)), np.zeros((1, 0))
    assert merge_key([narrow], False) != merge_key([wide], False)
    assert merge_key([narrow], True) == merge_key([wide], True) != merge_key([empty], True)
    assert merge_key([narrow], True) != merge_key([narrow.astype(np.float32)], True)
    assert merge_key([narrow], False) == merge_key([np.ones((9, 2))], False)


def test_outputs_are_shared_out_without_the_padding_rows() -> None:
    output = ints([1], [2], [3], [9])
    shares = split_outputs([output], [1, 2], 4)
    assert [share[0].tolist() for share in shares] == [[[1]], [[2], [3]]]


def test_shares_are_writable_and_keep_nothing_else_in_memory() -> None:
    output = ints([1], [2])
    output.flags.writeable = False
    for [share] in split_outputs([output], [1, 1], 2):
        assert share.flags.writeable
        assert share.base is None


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.array(1), "Batched output tensor has 0 dimensions"),
        (
            np.zeros(3),
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
            "input tensors",
        ),
    ],
)
def test_outputs_without_the_rows_of_the_batch_are_refused(output: NDArray[Any], text: str) -> None:
    with pytest.raises(UnbatchableOutputError) as error:
        split_outputs([np.zeros(2), output], [2], 2)
    assert error.value.message == text


def test_parts_of_a_request_join_to_what_it_was() -> None:
    arrays = [np.arange(10).reshape(5, 2), np.arange(5)]
    parts = split_request(arrays, [2, 2, 1])
    assert [len(part[0]) for part in parts] == [2, 2, 1]
    assert all((a == b).all() for a, b in zip(join_parts(parts), arrays, strict=True))


def test_parts_of_other_shapes_do_not_join() -> None:
    with pytest.raises(FailedPreconditionError, match="cannot be joined"):
        join_parts([[np.zeros((1, 2))], [np.zeros((1, 3))]])
