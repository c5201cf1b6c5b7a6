"""What single operations do to rows: the rules by which ``row_wise`` reads a graph.

A rule gets what is known of the inputs of an operation and returns what is known of its outputs. An
operation has a rule only where row *i* of its outputs comes from row *i* of its inputs alone, with the
same bits wherever the row stands and however many there are. Much of arithmetic is not like that:
TensorFlow computes the first elements of a tensor several at a time and the last ones one by one, and
the two ways agree where IEEE 754 leaves no choice. They differ in ``Exp``, ``Log``, ``Tanh``,
``Sigmoid``, ``Rsqrt`` and ``Reciprocal`` (last bit), in ``Sign``, ``Relu``, ``Maximum`` and ``Minimum`` of
floating-point numbers (which of 0.0 and -0.0), and in casts of numbers that the narrow integer cannot
hold. Sums depend on their order, and products of matrices and convolutions choose it by the shape.

That an operation fails over a row is no trace: a run of several requests that fails is run again one
by one.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence

from inserve.saved_model import row_wise_shapes
from inserve.saved_model.row_wise_values import (
    FLOATS,
    INTEGERS,
    SAME_BITS_TYPES,
    Constant,
    Known,
    Operation,
    Rows,
    Rule,
    Sizes,
    Table,
    UnprovenError,
    Variable,
    are_constants,
    constant_of,
    equal_inner,
    equal_size,
    full_sizes,
    integer_of,
    integers_of,
    require_scalars,
    rows_of,
    rows_of_one_rank,
    shape_of,
    sizes_of,
    values_of,
)
from inserve.tensors.dtypes import DataType
from inserve.tensors.tensor_proto import tensor_from_message

__all__ = ["INT64_AND_FLOATS_CAST_ALIKE", "RULES"]

_SMALLEST_NORMAL = {DataType.DT_FLOAT: 2.0**-126, DataType.DT_DOUBLE: 2.0**-1022}
_NARROW_INTEGERS = INTEGERS - {DataType.DT_INT64, DataType.DT_UINT32, DataType.DT_UINT64}

INT64_AND_FLOATS_CAST_ALIKE = platform.machine().lower() in ("x86_64", "amd64")
"""Whether casts between the two are known to have the same bits, however many elements are cast at once.

Elsewhere a cast of several may go through 32 bits.
"""

_MOST_VALUES = 64
"""A constant with more elements than this is known by its shape alone."""
_MOST_VALUE_DIMENSIONS = 8


# --- element by element ---------------------------------------------------------------------------


def _of_broadcast(sizes: Sequence[int | None]) -> int | None:
    """Return the size of dimensions that are broadcast; None where it may be any."""
    wide = [size for size in sizes if size != 1]
    return equal_size(wide) if wide else 1


def _broadcast_sizes(shapes: Sequence[Sizes]) -> Sizes:
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(map(_of_broadcast, zip(*padded, strict=True)))


def _broadcast(inputs: Sequence[Known]) -> Known:
    """Return the shape of operands that are broadcast, aligned at their last dimensions.

    Rows stay rows only where the first dimension of a constant cannot meet them, and among rows of
    one rank: all have N of them.
    """
    if are_constants(inputs):
        shapes = [constant.shape for constant in map(constant_of, inputs) if constant.shape is not None]
        if len(shapes) != len(inputs):
            return Constant(None)
        return Constant(full_sizes(_broadcast_sizes(shapes)))
    rows = rows_of_one_rank([known for known in inputs if not isinstance(known, Constant)])
    rank = rows[0].rank
    inner: list[Sizes] = [one.inner for one in rows]
    for known in inputs:
        if isinstance(known, Constant):
            shape = shape_of(known)
            if len(shape) > rank or (len(shape) == rank and shape[0] != 1):
                raise UnprovenError
            inner.append(shape[1:] if len(shape) == rank else shape)
    return Rows(_broadcast_sizes(inner))


def _elementwise(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    return (_broadcast(inputs),)


def _comparison(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if not operation.flag("incompatible_shape_error", True):
        raise UnprovenError  # shapes that do not fit together give a scalar
    return (_broadcast(inputs),)


def _same_shape(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (known,) = inputs
    if isinstance(known, Constant):
        return (Constant(known.shape),)
    return (rows_of(known),)


def _passed_on(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    return tuple(inputs)


def _of_integers(rule: Rule) -> Rule:
    def of_integers(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
        if operation.data_type() not in INTEGERS:
            raise UnprovenError
        return rule(operation, inputs)

    return of_integers


def _division(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """A quotient is exact, but TensorFlow makes a reciprocal, which is not, of what divides a one."""
    dividend, _ = inputs
    if operation.data_type() in FLOATS and not are_constants(inputs):
        rows_of(dividend)
    return (_broadcast(inputs),)


def _require_no_ties(operation: Operation, bound: Known) -> None:
    """Refuse a bound of floating-point numbers where a number may be equal to it in other bits."""
    data_type = operation.data_type()
    if data_type not in FLOATS:
        return
    smallest = _SMALLEST_NORMAL[DataType(data_type)]
    # A NaN fails the comparison as well.
    if not all(abs(value) >= smallest for value in values_of(bound)):
        raise UnprovenError


def _extremum(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    first, second = inputs
    if operation.data_type() in FLOATS and not are_constants(inputs):
        _require_no_ties(operation, second if isinstance(first, Rows) else first)
    return (_broadcast(inputs),)


def _clip(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, *bounds = inputs
    require_scalars(bounds)
    for bound in bounds:
        _require_no_ties(operation, bound)
    return _same_shape(operation, [value])


def _cast(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    source, target = operation.data_type("SrcT"), operation.data_type("DstT")
    into_float = target in FLOATS
    if source in FLOATS:
        proven = into_float or target == DataType.DT_INT32
        proven |= target == DataType.DT_INT64 and INT64_AND_FLOATS_CAST_ALIKE
    elif source in _NARROW_INTEGERS or source == DataType.DT_BOOL:
        proven = into_float or target in INTEGERS
    elif source in INTEGERS:
        proven = target in INTEGERS
        proven |= source == DataType.DT_INT64 and into_float and INT64_AND_FLOATS_CAST_ALIKE
    else:
        proven = False
    if source != target and (not proven or operation.flag("Truncate", False)):
        raise UnprovenError
    return _same_shape(operation, inputs)


def _select(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """``Select`` broadcasts a scalar condition, and one of rank 1 over the rows of the choices."""
    condition, *choices = inputs
    if are_constants(inputs):
        return (Constant(None),)
    rows = rows_of_one_rank(choices)
    if isinstance(condition, Constant):
        require_scalars([condition])
    elif rows_of(condition).rank not in (1, rows[0].rank):
        raise UnprovenError
    return (Rows(equal_inner(rows)),)


def _bias_add(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    value, bias = inputs
    if operation.text("data_format", b"NHWC") != b"NHWC" or len(shape_of(bias)) != 1:
        raise UnprovenError
    if isinstance(value, Rows) and value.rank < 2:
        raise UnprovenError
    return (_broadcast(inputs),)


def _ensure_shape(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    wanted = operation.shape("shape")
    (known,) = inputs
    if isinstance(known, Constant) or wanted is None:
        return _same_shape(operation, inputs)
    rows = rows_of(known)
    if len(wanted) != rows.rank or wanted[0] is not None:
        raise UnprovenError
    return (Rows(equal_inner([rows, Rows(wanted[1:])])),)


def _first_of_scalars(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """An operation on its first input that the other ones, scalars, say more about."""
    value, *others = inputs
    require_scalars(others)
    return _same_shape(operation, [value])


def _string_join(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """Strings of one shape are joined; only scalars are broadcast."""
    if are_constants(inputs):
        return (Constant(None),)
    require_scalars([known for known in inputs if isinstance(known, Constant)])
    rows = rows_of_one_rank([known for known in inputs if not isinstance(known, Constant)])
    return (Rows(equal_inner(rows)),)


# --- what is the same in every run ----------------------------------------------------------------


def _const(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    tensor = operation.tensor("value")
    shape = full_sizes(sizes_of(tensor.tensor_shape))
    if inputs or shape is None or tensor.dtype not in SAME_BITS_TYPES:
        raise UnprovenError
    if tensor.dtype == DataType.DT_STRING or len(shape) > _MOST_VALUE_DIMENSIONS:
        return (Constant(shape),)
    if max(shape, default=1) > _MOST_VALUES or math.prod(shape) > _MOST_VALUES:
        return (Constant(shape),)
    return (Constant(shape, tuple(tensor_from_message(tensor).ravel().tolist())),)


def _variable(operation: Operation, _: Sequence[Known]) -> tuple[Known, ...]:
    return (Variable(full_sizes(operation.shape("shape"))),)


def _variable_by_reference(operation: Operation, _: Sequence[Known]) -> tuple[Known, ...]:
    return (Constant(full_sizes(operation.shape("shape"))),)


def _read_variable(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (handle,) = inputs
    if not isinstance(handle, Variable):
        raise UnprovenError
    return (Constant(handle.shape),)


def _table(_operation: Operation, _inputs: Sequence[Known]) -> tuple[Known, ...]:
    return (Table(),)


def _table_size(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    (table,) = inputs
    if not isinstance(table, Table):
        raise UnprovenError
    return (Constant(()),)


def _reshape(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if not are_constants(inputs):
        return row_wise_shapes.reshape(operation, inputs)
    value, wanted = map(constant_of, inputs)
    if value.shape is None or wanted.values is None:
        return (Constant(None),)
    sizes = integers_of(wanted)
    return (Constant(sizes if min(sizes, default=0) >= 0 else None),)


def _squeeze(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    if not are_constants(inputs):
        return row_wise_shapes.squeeze(operation, inputs)
    (value,) = map(constant_of, inputs)
    if value.shape is None:
        return (Constant(None),)
    dropped = {int(place) % len(value.shape) for place in operation.list_of("squeeze_dims").i}
    if not dropped:
        dropped = {place for place, size in enumerate(value.shape) if size == 1}
    return (Constant(tuple(size for place, size in enumerate(value.shape) if place not in dropped)),)


def _same_in_every_run(_: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """The last bit depends on the place of an element, and the places of a constant are always the same."""
    for known in inputs:
        constant_of(known)
    return (_broadcast(inputs),)


def _nothing(_operation: Operation, _inputs: Sequence[Known]) -> tuple[Known, ...]:
    return ()


# --- looking up -----------------------------------------------------------------------------------


def _find(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    table, keys, default = inputs
    if not isinstance(table, Table):
        raise UnprovenError
    require_scalars([default])
    return _same_shape(operation, [keys])


def _gathered(shape: tuple[int, ...] | None, indices: Known) -> tuple[Known, ...]:
    """Return what *indices* choose along the first dimension of a tensor of the same in every run."""
    if isinstance(indices, Constant):
        return (Constant(None),)
    if not shape:
        raise UnprovenError
    return (Rows(rows_of(indices).inner + shape[1:]),)


def _gather(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    params, indices, *axes = inputs
    axis = integer_of(axes[0]) if axes else 0
    if operation.integer("batch_dims", 0) != 0:
        raise UnprovenError
    if isinstance(params, Rows):
        axis = params.axis(axis)
        return (Rows(params.inner[: axis - 1] + shape_of(indices) + params.inner[axis:]),)
    if axis != 0:
        raise UnprovenError
    return _gathered(constant_of(params).shape, indices)


def _gather_of_variable(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    handle, indices = inputs
    if not isinstance(handle, Variable) or operation.integer("batch_dims", 0) != 0:
        raise UnprovenError
    return _gathered(handle.shape, indices)


def _one_hot(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    indices, depth, *values = inputs
    require_scalars([depth, *values])
    if isinstance(indices, Constant):
        return (Constant(None),)
    rows = rows_of(indices)
    if operation.integer("axis", -1) not in (-1, rows.rank):
        raise UnprovenError
    return (Rows((*rows.inner, integer_of(depth) if constant_of(depth).values else None)),)


def _parse_example(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
    """Features of a stated shape alone: others are as wide as the widest of the run."""
    serialized, names, *others = inputs
    if rows_of(serialized).rank != 1 or shape_of(names) != (0,) or not are_constants(others):
        raise UnprovenError
    for name in ("sparse_types", "ragged_value_types", "ragged_split_types"):
        if operation.list_of(name).type:
            raise UnprovenError
    shapes = [full_sizes(sizes_of(shape)) for shape in operation.list_of("dense_shapes").shape]
    if operation.integer("num_sparse") != 0:
        raise UnprovenError
    inner = [shape for shape in shapes if shape is not None]
    if len(inner) != len(shapes):
        raise UnprovenError
    return tuple(map(Rows, inner))


def _of_constants_or(rule: Rule) -> Rule:
    """Return *rule* for inputs with rows; a result of constants alone is a constant."""

    def of_constants_or(operation: Operation, inputs: Sequence[Known]) -> tuple[Known, ...]:
        return (Constant(None),) if are_constants(inputs) else rule(operation, inputs)

    return of_constants_or


def _rule_of(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: Mapping[str, Rule] = {
    **_rule_of(_elementwise, "Add AddV2 Sub Mul SquaredDifference SelectV2 LogicalAnd LogicalOr"),
    **_rule_of(_elementwise, "Less LessEqual Greater GreaterEqual BitwiseAnd BitwiseOr BitwiseXor"),
    **_rule_of(_comparison, "Equal NotEqual"),
    **_rule_of(_division, "Div RealDiv DivNoNan"),
    **_rule_of(_of_integers(_elementwise), "FloorDiv FloorMod Mod TruncateDiv TruncateMod"),
    **_rule_of(_extremum, "Maximum Minimum"),
    **_rule_of(_same_shape, "Neg Abs Square Floor Ceil IsNan IsInf IsFinite LogicalNot Invert ZerosLike"),
    **_rule_of(_same_shape, "CheckNumerics Bucketize AsString StringToNumber StringLength StringStrip"),
    **_rule_of(_same_shape, "StringLower StringUpper StaticRegexReplace StaticRegexFullMatch"),
    **_rule_of(_same_shape, "StringToHashBucket StringToHashBucketFast StringToHashBucketStrong"),
    **_rule_of(_same_shape, "EncodeBase64 DecodeBase64 UnicodeTranscode"),
    **_rule_of(_of_integers(_same_shape), "Sign Relu Relu6 OnesLike"),
    **_rule_of(_passed_on, "Identity IdentityN StopGradient PreventGradient Snapshot PlaceholderWithDefault"),
    **_rule_of(_first_of_scalars, "RegexReplace RegexFullMatch Substr"),
    "BiasAdd": _bias_add,
    "Cast": _cast,
    "ClipByValue": _clip,
    "EnsureShape": _ensure_shape,
    "Select": _select,
    "StringJoin": _string_join,
    "Const": _const,
    **_rule_of(_same_in_every_run, "Sqrt Rsqrt Reciprocal Exp Log Tanh Sigmoid Pow"),
    "NoOp": _nothing,
    "ReadVariableOp": _read_variable,
    "VarHandleOp": _variable,
    **_rule_of(_variable_by_reference, "Variable VariableV2"),
    **_rule_of(_table, "HashTableV2 MutableHashTableV2"),
    "LookupTableFindV2": _find,
    "LookupTableSizeV2": _table_size,
    **_rule_of(_gather, "Gather GatherV2"),
    "ResourceGather": _gather_of_variable,
    "OneHot": _one_hot,
    "ConcatV2": _of_constants_or(row_wise_shapes.concat),
    "Pack": _of_constants_or(row_wise_shapes.pack),
    "Unpack": row_wise_shapes.unpack,
    "ExpandDims": _of_constants_or(row_wise_shapes.expand_dims),
    "Squeeze": _squeeze,
    "Shape": _of_constants_or(row_wise_shapes.shape),
    "Reshape": _reshape,
    "Transpose": _of_constants_or(row_wise_shapes.transpose),
    **_rule_of(_of_constants_or(row_wise_shapes.pad), "Pad PadV2 MirrorPad"),
    "Slice": _of_constants_or(row_wise_shapes.slice_),
    "StridedSlice": _of_constants_or(row_wise_shapes.strided_slice),
    "Split": row_wise_shapes.split,
    "SplitV": row_wise_shapes.split_by_sizes,
    **_rule_of(_of_constants_or(_of_integers(row_wise_shapes.reduction)), "Max Min"),
    **_rule_of(_of_constants_or(row_wise_shapes.reduction), "All Any ReduceJoin"),
    **_rule_of(_of_constants_or(row_wise_shapes.place_in_row), "ArgMax ArgMin"),
    "ParseExampleV2": _parse_example,
}
"""What is known here, by the name of the operation; every other one is refused."""
