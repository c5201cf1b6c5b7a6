"""Rules for operations that keep rows apart but may give a row other bits when it has company.

Convolutions, products of matrices and sums choose the order of their additions by the shape, and parts of a
tensor are computed several elements at a time or one by one. Whether that makes a difference depends on
the library that computes them: oneDNN treats each row alike, Eigen does not. So a graph with these
operations is row-wise only where ``row_trial`` finds the same bits on this machine. Left out are those of
which few values differ, so that a trial might miss them: ``Exp``, ``Tanh`` and the like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inserve.saved_model import row_wise_shapes
from inserve.saved_model.row_wise_operations import RULES
from inserve.saved_model.row_wise_values import (
    FLOATS,
    Constant,
    Known,
    Operation,
    Rows,
    Rule,
    Sizes,
    UnprovenError,
    are_constants,
    rows_of,
    shape_of,
)
from inserve.tensors.dtypes import DataType

__all__ = ["RULES_OF_SUMS"]

_IMAGE_RANK = 4


def _is_of_floats(operation: Operation) -> bool:
    """Return whether it works on floating-point numbers; some operations leave their usual type out."""
    return operation.data_type(default=DataType.DT_FLOAT) in FLOATS


def _image(operation: Operation, known: Known) -> Rows:
    """Return a batch of images of floating-point numbers, ``[N, height, width, channels]``."""
    rows = rows_of(known)
    is_usual = operation.text("data_format", b"NHWC") == b"NHWC" and _is_of_floats(operation)
    if rows.rank != _IMAGE_RANK or not is_usual:
        raise UnprovenError
    return rows


def _steps(operation: Operation, name: str) -> tuple[int, int]:
    """Return the numbers that the attribute *name* has for height and width; the others must be 1."""
    numbers = [int(number) for number in operation.list_of(name).i] or [1] * _IMAGE_RANK
    if len(numbers) != _IMAGE_RANK or numbers[0] != 1 or numbers[3] != 1 or min(numbers) < 1:
        raise UnprovenError
    return numbers[1], numbers[2]


def _windowed(operation: Operation, image: Rows, window: Sequence[int]) -> Sizes:
    """Return height and width of what a *window* moved over the images gives."""
    padding = operation.text("padding", b"")
    strides, dilations = _steps(operation, "strides"), _steps(operation, "dilations")
    sizes: list[int | None] = []
    for size, extent, stride, dilation in zip(image.inner, window, strides, dilations, strict=False):
        if size is None or padding == b"EXPLICIT":
            sizes.append(None)
        elif padding == b"SAME":
            sizes.append(-(-size // stride))
        elif padding == b"VALID":
            sizes.append(max(0, -(-(size - (extent - 1) * dilation) // stride)))
        else:
            raise UnprovenError
    return tuple(sizes)


def _convolution(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, kernel = inputs
    image = _image(operation, value)
    height, width, _, channels = shape_of(kernel)
    return (Rows((*_windowed(operation, image, (height, width)), channels)),)


def _convolution_by_channel(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, kernel = inputs
    image = _image(operation, value)
    height, width, channels, multiplier = shape_of(kernel)
    return (Rows((*_windowed(operation, image, (height, width)), channels * multiplier)),)


def _pool(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (value,) = inputs
    image = _image(operation, value)
    return (Rows((*_windowed(operation, image, _steps(operation, "ksize")), image.inner[2])),)


def _batch_normalization(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """By the means and variances that training has left, the same for every run."""
    value, *statistics = inputs
    if operation.flag("is_training", True) or not are_constants(statistics):
        raise UnprovenError
    image = _image(operation, value)
    return (image, *[Constant(None)] * 5)


def _product(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """Rows times a matrix that is the same in every run."""
    value, matrix = inputs
    rows, shape = rows_of(value), shape_of(matrix)
    is_usual = not operation.flag("transpose_a", False) and _is_of_floats(operation)
    if rows.rank != 2 or len(shape) != 2 or not is_usual:
        raise UnprovenError
    return (Rows((shape[0 if operation.flag("transpose_b", False) else 1],)),)


def _sum(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if not _is_of_floats(operation):
        raise UnprovenError
    return row_wise_shapes.reduction(operation, inputs)


def _along_last(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """An operation along the last dimension, which must not be that of the rows."""
    (value,) = inputs
    rows = rows_of(value)
    if rows.rank < 2 or not _is_of_floats(operation):
        raise UnprovenError
    return (rows,)


def _each_float(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (value,) = inputs
    if not _is_of_floats(operation):
        raise UnprovenError
    return (rows_of(value),)


def _if_rows(exact: Rule | None, rule: Rule) -> Rule:
    """Return *rule*, after *exact*, which knows more of the operation, has not proven it."""

    def either(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
        if exact is not None:
            try:
                return exact(operation, inputs)
            except UnprovenError:
                pass
        return (Constant(None),) if are_constants(inputs) else rule(operation, inputs)

    return either


_RULES: Mapping[str, Rule] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution_by_channel,
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_normalization),
    "MatMul": _product,
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), _sum),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_last),
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu"), _each_float),
}

RULES_OF_SUMS: Mapping[str, Rule] = {
    **RULES,
    **{name: _if_rows(RULES.get(name), rule) for name, rule in _RULES.items()},
}
"""The rules of ``row_wise_operations`` and those here."""
