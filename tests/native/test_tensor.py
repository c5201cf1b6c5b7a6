from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.tensorflow_c.library import load_library
from inserve.tensorflow_c.load_saved_model import LoadedSavedModel
from inserve.tensorflow_c.string_tensor import read_strings
from inserve.tensorflow_c.tensor import HANDED_OUT_BYTES, new_tensor, take_array
from inserve.tensors.dtypes import STRING, DataType, ElementType, element_type

Load = Callable[[Path | str], LoadedSavedModel]

FIXED_WIDTH = [element_type(number) for number in DataType if number not in (0, 7, 20, 21)]
WITH_KERNELS = [
    *(1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22, 23, 24, 25, 29, 30),
]
"""Types of ``extra_models.identities`` other than strings."""


def round_trip(element: ElementType, array: NDArray[Any]) -> NDArray[Any]:
    library = load_library()
    return take_array(library, new_tensor(library, element, array), element)


def pattern(element: ElementType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return zeros and ones in every position of a pattern, which each type can hold."""
    count = int(np.prod(shape))
    ones = (np.arange(count) % 3 == 0).astype(np.uint8)
    storage = element.numpy[0] if element.numpy.names else element.numpy
    array: NDArray[Any] = ones.astype(storage).view(element.numpy).reshape(shape)
    return array


def same_bytes(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 0, 3), (2, 3, 4), (1,) * 20], ids=str)
@pytest.mark.parametrize("element", FIXED_WIDTH, ids=lambda element: element.name)
def test_an_array_of_every_type_and_rank_survives_a_tensor(
    element: ElementType, shape: tuple[int, ...]
) -> None:
    array = pattern(element, shape)
    copy = round_trip(element, array)
    assert same_bytes(copy, array)
    assert copy.flags.writeable
    assert not np.shares_memory(copy, array)


@pytest.mark.parametrize("element", FIXED_WIDTH, ids=lambda element: element.name)
def test_a_large_array_of_every_type_survives_a_tensor(element: ElementType) -> None:
    array = pattern(element, (2, HANDED_OUT_BYTES))
    copy = round_trip(element, array)
    assert same_bytes(copy, array)
    assert copy.flags.writeable


@pytest.mark.parametrize("number", WITH_KERNELS)
def test_a_run_takes_and_answers_every_type_twice(load: Load, extra_models: Path, number: int) -> None:
    element = element_type(number)
    session = load(extra_models / "identities").session
    runner = session.runner([(f"in_{number}:0", element.data_type)], [f"out_{number}:0"])
    for shape in ((4,), (4,), (), (2, 3), (0, 2)):
        array = pattern(element, shape)
        assert same_bytes(runner.run([array])[0], array)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[::2],
        lambda array: array[:, ::-1],
        lambda array: array.T,
        lambda array: np.broadcast_to(array[:1], (3, 6)),
        np.asfortranarray,
    ],
)
def test_an_array_with_any_strides_is_fed_in_its_logical_order(
    load: Load, extra_models: Path, view: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    runner = load(extra_models / "identities").session.runner([("in_3:0", DataType.DT_INT32)], ["out_3:0"])
    array = view(np.arange(24, dtype=np.int32).reshape(4, 6))
    for _ in range(2):
        assert runner.run([array])[0].tolist() == array.tolist()


def test_a_read_only_array_is_fed(load: Load, extra_models: Path) -> None:
    runner = load(extra_models / "identities").session.runner([("in_3:0", DataType.DT_INT32)], ["out_3:0"])
    array = np.frombuffer(b"\1\0\0\0", np.int32)
    for _ in range(2):
        (answer,) = runner.run([array])
        assert answer.tolist() == [1]
        assert answer.flags.writeable


def test_a_tensor_is_never_made_of_an_array_of_another_dtype() -> None:
    with pytest.raises(ValueError, match="expected an array of float32, got float64"):
        new_tensor(load_library(), element_type(1), np.zeros(3))


STRINGS = [b"", b"a", b"x" * 22, b"x" * 23, b"\0\0", b"\xff", b"y" * 127, b"y" * 128, b"z" * 100_000]


@pytest.mark.parametrize("repeats", [0, 1, 5], ids=["none", "few", "many"])
def test_strings_of_every_length_survive_a_run(load: Load, extra_models: Path, repeats: int) -> None:
    runner = load(extra_models / "memory").session.runner(
        [("s:0", DataType.DT_STRING)], ["strings:0", "lengths:0"]
    )
    words = np.array(STRINGS * repeats, object)
    strings, lengths = runner.run([words])
    assert strings.tolist() == words.tolist()
    assert strings.dtype == object
    assert lengths.tolist() == [len(word) for word in words]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4), (4, 1, 5)], ids=str)
def test_a_string_array_keeps_its_shape_and_order(shape: tuple[int, ...]) -> None:
    words = np.empty(shape, object)
    words.reshape(-1)[:] = [b"%d" % number * 9 for number in range(words.size)]
    assert round_trip(STRING, words).tolist() == words.tolist()
    assert round_trip(STRING, words.T).tolist() == words.T.tolist()


def test_text_is_fed_as_utf_8() -> None:
    assert round_trip(STRING, np.array(["b\u00fas", b"raw"], object)).tolist() == [
        "b\u00fas".encode(),
        b"raw",
    ]


@pytest.mark.parametrize("value", [3, None, ["a"], bytearray(b"a")])
@pytest.mark.parametrize("others", [0, 2])
def test_a_string_tensor_of_something_else_is_a_type_error(value: object, others: int) -> None:
    array = np.empty(1 + others, object)
    array[:] = [b"a"] * others + [None]
    array[-1] = value
    with pytest.raises(TypeError, match=f"a string tensor takes bytes or str, got {type(value).__name__}"):
        new_tensor(load_library(), STRING, array)


@pytest.mark.parametrize("count", [4, 40], ids=["asked one by one", "read as records"])
def test_every_representation_of_a_string_is_read(count: int) -> None:
    """Small, large, offset and view of ``tsl/platform/ctstring_internal.h``, laid out by hand."""
    library = load_library()
    ffi = library.ffi
    text = ffi.new("char[]", b"somewhere else in memory")
    address = int(ffi.cast("uintptr_t", text))
    memory = bytearray(24 * count + 16)
    memory[24 * count :] = b"after the record"
    for start in range(0, 24 * count, 96):
        memory[start : start + 6] = bytes([5 << 2]) + b"small"
        large = np.array([24 << 2 | 1, 31, address], "<u8")
        offset = np.array([16 << 2 | 2, 24 * count - (start + 48), 1], "<u4")
        view = np.array([9 << 2 | 3, address, 0], "<u8")
        memory[start + 24 : start + 48] = large.tobytes()
        memory[start + 48 : start + 60] = offset.tobytes()
        memory[start + 72 : start + 96] = view.tobytes()
    strings = read_strings(library, ffi.cast("void *", ffi.from_buffer(memory)), (count // 4, 4))
    expected = [b"small", b"somewhere else in memory", b"after the record", b"somewhere"]
    assert strings.tolist() == [expected] * (count // 4)
