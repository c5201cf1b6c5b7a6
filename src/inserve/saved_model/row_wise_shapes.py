"""What operations that rearrange tensors, or draw something from a whole row, do to rows.

Of constants alone ``row_wise_operations`` knows the result, except for ``Unpack`` and ``Split``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from inserve.saved_model.row_wise_values import (
    Dimensions,
    Known,
    Operation,
    Rows,
    Sizes,
    UnprovenError,
    are_constants,
    equal_inner,
    full_sizes,
    integer_of,
    integers_of,
    rows_of,
    rows_of_one_rank,
)

__all__ = [
    "concat",
    "expand_dims",
    "pack",
    "pad",
    "place_in_row",
    "reduction",
    "reshape",
    "shape",
    "slice_",
    "split",
    "split_by_sizes",
    "squeeze",
    "strided_slice",
    "transpose",
    "unpack",
]


def concat(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    *values, axis = inputs
    rows = rows_of_one_rank(values)
    place = rows[0].axis(integer_of(axis)) - 1
    sizes = full_sizes(tuple(one.inner[place] for one in rows))
    inner = list(equal_inner(rows))
    inner[place] = None if sizes is None else sum(sizes)
    return (Rows(tuple(inner)),)


def shape(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (value,) = inputs
    sizes = full_sizes(rows_of(value).inner)
    if sizes is None:
        raise UnprovenError
    return (Dimensions((None, *sizes)),)


def _packed_dimensions(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if operation.integer("axis", 0) != 0:
        raise UnprovenError
    sizes: list[int | None] = []
    for known in inputs:
        if isinstance(known, Dimensions):
            if not known.is_scalar:
                raise UnprovenError
            sizes += known.sizes
        else:
            sizes.append(integer_of(known))
    return (Dimensions(tuple(sizes)),)


def pack(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if any(isinstance(known, Dimensions) for known in inputs):
        return _packed_dimensions(operation, inputs)
    rows = rows_of_one_rank(inputs)
    place = rows[0].axis(operation.integer("axis", 0), added=1) - 1
    inner = equal_inner(rows)
    return (Rows((*inner[:place], len(rows), *inner[place:])),)


def _without(inner: Sizes, places: Sequence[int]) -> Sizes:
    return tuple(size for place, size in enumerate(inner) if place not in places)


def unpack(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (value,) = inputs
    rows = rows_of(value)
    place = rows.axis(operation.integer("axis", 0)) - 1
    return (Rows(_without(rows.inner, [place])),) * operation.count("num")


def expand_dims(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, dimension = inputs
    rows = rows_of(value)
    place = rows.axis(integer_of(dimension), added=1) - 1
    return (Rows((*rows.inner[:place], 1, *rows.inner[place:])),)


def squeeze(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (value,) = inputs
    rows = rows_of(value)
    places = [rows.axis(axis) - 1 for axis in operation.list_of("squeeze_dims").i]
    if not places:
        raise UnprovenError  # it would drop the dimension of a single row
    return (Rows(_without(rows.inner, places)),)


def reshape(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """Only ``[-1, ...]``, or the number of rows first, with as many elements in a row as before."""
    value, wanted = inputs
    sizes = full_sizes(rows_of(value).inner)
    if sizes is None:
        raise UnprovenError
    num_elements = math.prod(sizes)
    if isinstance(wanted, Dimensions):
        first, *others = wanted.sizes
        inner = [size for size in others if size is not None]
        if first is not None or wanted.is_scalar or len(inner) != len(others):
            raise UnprovenError
        if inner.count(-1) == 1:
            place = inner.index(-1)
            inner[place] = num_elements // max(1, math.prod(size for size in inner if size != -1))
    else:
        first, *inner = integers_of(wanted)
        if first != -1:
            raise UnprovenError
    if any(size <= 0 for size in inner) or math.prod(inner) != num_elements:
        raise UnprovenError
    return (Rows(tuple(inner)),)


def transpose(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, permutation = inputs
    rows, order = rows_of(value), integers_of(permutation)
    if sorted(order) != list(range(rows.rank)) or order[0] != 0:
        raise UnprovenError
    return (Rows(tuple(rows.inner[axis - 1] for axis in order[1:])),)


def slice_(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, begins, sizes = inputs
    rows, starts, lengths = rows_of(value), integers_of(begins), integers_of(sizes)
    if not len(starts) == len(lengths) == rows.rank or starts[0] != 0 or lengths[0] != -1:
        raise UnprovenError
    return (Rows(tuple(None if length < 0 else length for length in lengths[1:])),)


def _sliced_dimensions(
    operation: Operation, value: Dimensions, entries: Sequence[tuple[int, ...]]
) -> tuple[Known, ...]:
    [(begin, end, stride)] = entries
    if value.is_scalar or operation.integer("ellipsis_mask", 0) or operation.integer("new_axis_mask", 0):
        raise UnprovenError
    if operation.integer("shrink_axis_mask", 0) & 1:
        return (Dimensions((value.sizes[begin],), is_scalar=True),)
    start = None if operation.integer("begin_mask", 0) & 1 else begin
    stop = None if operation.integer("end_mask", 0) & 1 else end
    return (Dimensions(value.sizes[start:stop:stride]),)


def strided_slice(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """Entries for dimensions from 1 on may say anything, the one for dimension 0 only ``:``."""
    value, *texts = inputs
    entries = list(zip(*map(integers_of, texts), strict=True))
    if isinstance(value, Dimensions):
        return _sliced_dimensions(operation, value, entries)
    rows = rows_of(value)
    begin_mask, end_mask, ellipsis, new_axis, shrink = (
        operation.integer(f"{name}_mask", 0)
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    )
    bits = [1 << place for place in range(len(entries))]
    spanned = sum(not (bit & (ellipsis | new_axis)) for bit in bits)
    if ellipsis & (ellipsis - 1) or spanned > rows.rank:
        raise UnprovenError
    axis = 0
    inner: list[int | None] = []
    sizes: list[int | None] = [None, *rows.inner]
    for bit, (begin, end, stride) in zip(bits, entries, strict=True):
        if bit & ellipsis:
            until = axis + rows.rank - spanned
            inner += sizes[max(axis, 1) : until]
            axis = until
            continue
        if axis == 0:
            starts_first = bit & begin_mask or begin == 0
            if bit & (new_axis | shrink) or stride != 1 or not starts_first or not bit & end_mask:
                raise UnprovenError
        elif bit & new_axis:
            inner.append(1)
            continue
        elif not bit & shrink:
            part = slice(None if bit & begin_mask else begin, None if bit & end_mask else end, stride)
            size = sizes[axis]
            inner.append(None if size is None else len(range(*part.indices(size))))
        axis += 1
    return (Rows((*inner, *sizes[max(axis, 1) :])),)


def split(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    axis, value = inputs
    rows, parts = rows_of(value), operation.count("num_split")
    place = rows.axis(integer_of(axis)) - 1
    size = rows.inner[place]
    inner = list(rows.inner)
    inner[place] = size // parts if size is not None else None
    return (Rows(tuple(inner)),) * parts


def split_by_sizes(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, sizes, axis = inputs
    rows = rows_of(value)
    place = rows.axis(integer_of(axis)) - 1
    lengths = integers_of(sizes)
    if len(lengths) != operation.count("num_split"):
        raise UnprovenError
    inner = rows.inner
    return tuple(
        Rows((*inner[:place], length if length >= 0 else None, *inner[place + 1 :])) for length in lengths
    )


def pad(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """With a constant or with what is there; nothing in front of the rows and nothing behind them."""
    value, widths, *fill = inputs
    rows, numbers = rows_of(value), integers_of(widths)
    if len(numbers) != 2 * rows.rank or numbers[:2] != (0, 0) or not are_constants(fill):
        raise UnprovenError
    pairs = zip(rows.inner, numbers[2::2], numbers[3::2], strict=True)
    return (Rows(tuple(None if size is None else size + before + after for size, before, after in pairs)),)


# --- what is drawn from a whole row ---------------------------------------------------------------


def reduction(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, axes = inputs
    rows = rows_of(value)
    places = [rows.axis(axis) - 1 for axis in integers_of(axes)]
    if not places:
        raise UnprovenError
    if operation.flag("keep_dims", False):
        return (Rows(tuple(1 if place in places else size for place, size in enumerate(rows.inner))),)
    return (Rows(_without(rows.inner, places)),)


def place_in_row(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, axis = inputs
    rows = rows_of(value)
    return (Rows(_without(rows.inner, [rows.axis(integer_of(axis)) - 1])),)
