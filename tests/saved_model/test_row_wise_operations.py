"""Each operation that has a rule is run by TensorFlow, and each tempting one is refused.

Rows run alone must have the bits that they have among others, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.saved_model.small_graphs import ROW_COUNTS, Array, Build, Case, case, graph_of, spec_of

from inserve.saved_model.row_wise import row_wise_signatures
from inserve.saved_model.row_wise_operations import INT64_AND_FLOATS_CAST_ALIKE, RULES
from inserve.saved_model.signature import Signature

tf1 = tf.compat.v1
raw = tf.raw_ops


ODD = 13


def is_proven(graph: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> bool:
    signature = Signature(
        "s",
        "",
        [spec_of(f"x{place}", tensor) for place, tensor in enumerate(feeds)],
        [spec_of(f"y{place}", tensor) for place, tensor in enumerate(fetches)],
    )
    return bool(row_wise_signatures(graph.as_graph_def().SerializeToString(), {"s": signature}))


def bits(rows: Array) -> list[Any]:
    return rows.tolist() if rows.dtype == object else [row.tobytes() for row in rows]


def floats(dtype: type[np.floating[Any]]) -> Array:
    info = np.finfo(dtype)
    odd = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, info.smallest_subnormal, -info.tiny / 2, info.max]
    ordinary = np.random.default_rng(2).standard_normal(30) * np.logspace(-3, 3, 30)
    return np.array([*odd, 1.0, 1 / 3, -2.5, -7e18, *ordinary], dtype)


def pairs(values: Array) -> tuple[Array, Array]:
    """Return each of the odd values beside each, and others beside others."""
    first, second = np.meshgrid(values[:ODD], values[:ODD])
    others = values[ODD:]
    return np.concatenate([first.ravel(), others]), np.concatenate([second.ravel(), others[::-1]])


def three(values: Array) -> Array:
    """Return rows of three, with every value beside others."""
    first, second = pairs(values)
    return np.stack([first, second, first[::-1]], 1)


def integers(dtype: str) -> Array:
    odd = [0, 1, -1, 3, -7, 128, 255, 2**15, 2**24 + 1, 2**31 - 1, -(2**31), 2**53 + 1, -(2**63) + 1]
    return np.array(odd).astype(dtype)


def wide(values: Array, width: int = 37) -> Array:
    """Return rows longer than what TensorFlow takes at once, with ties among their values."""
    generator = np.random.default_rng(1)
    return np.concatenate([values[generator.integers(0, most, (17, width))] for most in (2, len(values))])


FLOAT, DOUBLE = floats(np.float32), floats(np.float64)
INT32, INT64 = integers("int32"), integers("int64")
BOOL = np.array([True, False, True])
TEXT = np.array([b"", b"a", b"B c", b" Apple\n", "\u00e4\u00df\u4e16".encode(), b"x" * 99, b"1"], object)
NUMBER_TEXT = np.array([b"1", b"-0", b"nan", b"1e-45", b"inf", b" 3.25 ", b"0x1p-1"], object)
SMALL = np.arange(34).astype(np.int32) % 5
GRID = np.arange(17 * 24, dtype=np.float32).reshape(17, 2, 3, 4)


def binary(name: str) -> Build:
    return lambda x, y: getattr(raw, name)(x=x, y=y)


def unary(name: str, argument: str = "x", **attributes: Any) -> Build:
    return lambda x: getattr(raw, name)(**{argument: x}, **attributes)


def hash_table(x: Any) -> Any:
    table = raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="words")
    keys, values = tf.constant(["a", "x", "B c"]), tf.constant([1, 2, 3], tf.int64)
    initializer = raw.LookupTableImportV2(table_handle=table, keys=keys, values=values)
    tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, initializer)
    found = raw.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1, tf.int64))
    return found + raw.LookupTableSizeV2(table_handle=table)


def mutable_table(x: Any) -> Any:
    table = raw.MutableHashTableV2(key_dtype=tf.int32, value_dtype=tf.float32, shared_name="numbers")
    return raw.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1.5))


def flattened(x: Any) -> Any:
    """Return each row in one list, with the nodes that Keras' ``Flatten`` has."""
    num_rows = raw.StridedSlice(input=raw.Shape(input=x), begin=[0], end=[1], strides=[1], shrink_axis_mask=1)
    return raw.Reshape(tensor=x, shape=raw.Pack(values=[num_rows, -1]))


def part_of_shape(x: Any, begin: int, end: int, **masks: int) -> Any:
    return raw.StridedSlice(input=tf.shape(x), begin=[begin], end=[end], strides=[1], **masks)


def padded(name: str, **others: Any) -> Build:
    """Return a build that pads rows of three, twice, and relies on the sizes that come out."""

    def build(x: Any) -> Any:
        once = getattr(raw, name)(input=x, paddings=[[0, 0], [2, 1]], **others)
        image = tf.reshape(once, [-1, 2, 3])
        return tf.reshape(
            getattr(raw, name)(input=image, paddings=[[0, 0], [0, 1], [2, 0]], **others), [-1, 15]
        )

    return build


def variable(value: Any, name: str, resource: bool) -> Any:
    return tf1.get_variable(name, initializer=tf.constant(value), use_resource=resource)


def parsed_examples(x: Any) -> Any:
    features = {
        "f": tf.io.FixedLenFeature([2], tf.float32, [0.5, -0.0]),
        "s": tf.io.FixedLenFeature([], tf.string, "-"),
    }
    parsed = tf.io.parse_example(x, features)
    return [parsed["f"] * 3.0, parsed["s"]]


def example(values: list[float], text: bytes | None) -> bytes:
    features = tf.train.Features()
    features.feature["f"].float_list.value.extend(values)
    if text is not None:
        features.feature["s"].bytes_list.value.append(text)
    serialized: bytes = tf.train.Example(features=features).SerializeToString()
    return serialized


EXAMPLES = np.array([example([1, 2], b"t"), example([3, -0.0], None), example([np.nan, 5], b"")], object)

ARITHMETIC = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "SquaredDifference")
COMPARISONS = ("Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual")
OF_INTEGERS = ("AddV2", "Sub", "Mul", "Maximum", "Minimum", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Less")
DIVISIONS = ("Div", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod")
UNARY = ("Neg", "Abs", "Square", "Floor", "Ceil", "IsNan", "IsInf", "IsFinite", "ZerosLike")
TEXTS = ("StringLower", "StringUpper", "StringLength", "StringStrip", "EncodeBase64")

PROVEN = [
    *(case(binary(name), *pairs(FLOAT), id=name) for name in (*ARITHMETIC, *COMPARISONS, "Div", "DivNoNan")),
    *(case(binary(name), *pairs(DOUBLE), id=f"{name}-double") for name in (*ARITHMETIC, "Less", "Equal")),
    *(
        case(binary(name), *pairs(integers(kind)), id=f"{name}-{kind}")
        for name in OF_INTEGERS
        for kind in ("int8", "int64")
    ),
    *(case(binary(name), INT32, np.abs(INT32 // 2) + 1, id=f"{name}-int32") for name in DIVISIONS),
    *(case(binary(name), *pairs(TEXT), id=f"{name}-string") for name in ("Add", "Equal")),
    *(case(binary(name), *pairs(BOOL), id=name) for name in ("LogicalAnd", "LogicalOr")),
    *(case(unary(name), FLOAT, id=name) for name in UNARY),
    *(
        case(unary(name), DOUBLE, id=f"{name}-double")
        for name in ("Neg", "Abs", "Square", "Floor", "Ceil", "IsInf")
    ),
    *(case(unary(name), INT32, id=f"{name}-int32") for name in ("Neg", "Abs", "Square", "Sign", "Invert")),
    *(case(unary(name, "features"), INT32, id=f"{name}-int32") for name in ("Relu", "Relu6")),
    *(case(unary(name, "input"), TEXT, id=name) for name in TEXTS),
    case(unary("LogicalNot"), BOOL),
    case(unary("OnesLike"), INT64, id="OnesLike-int64"),
    *(
        case(unary(name, "input"), FLOAT, id=name)
        for name in ("Identity", "Snapshot", "StopGradient", "PreventGradient")
    ),
    case(unary("CheckNumerics", "tensor", message=""), FLOAT[6:]),
    case(unary("Bucketize", "input", boundaries=[-1.0, 0.0, 2.5]), FLOAT),
    case(unary("AsString", "input"), FLOAT),
    case(unary("AsString", "input"), INT64, id="AsString-int64"),
    case(unary("StringToNumber", "string_tensor"), NUMBER_TEXT),
    case(unary("StringToHashBucket", "string_tensor", num_buckets=9), TEXT),
    case(unary("StringToHashBucketFast", "input", num_buckets=9), TEXT),
    case(unary("StringToHashBucketStrong", "input", num_buckets=9, key=[3, 4]), TEXT),
    case(unary("StaticRegexReplace", "input", pattern="[a-z]", rewrite="."), TEXT),
    case(unary("StaticRegexFullMatch", "input", pattern=".[a-z]*"), TEXT),
    case(lambda x: raw.DecodeBase64(input=raw.EncodeBase64(input=x)), TEXT),
    case(lambda x: raw.UnicodeTranscode(input=x, input_encoding="UTF-8", output_encoding="UTF-16-BE"), TEXT),
    case(lambda x: raw.RegexReplace(input=x, pattern="[a-z]", rewrite="."), TEXT),
    case(lambda x: raw.RegexFullMatch(input=x, pattern=".[a-z]*"), TEXT),
    case(lambda x: raw.Substr(input=raw.AsString(input=x), pos=0, len=1), INT32, id="Substr"),
    case(lambda x, y: raw.StringJoin(inputs=[x, tf.constant("-"), y]), *pairs(TEXT), id="StringJoin"),
    case(lambda x: raw.ReduceJoin(inputs=x, reduction_indices=1), three(TEXT), id="ReduceJoin"),
    case(lambda x: raw.ReduceJoin(inputs=x, reduction_indices=[-1], keep_dims=True), three(TEXT)),
    *(
        case(lambda x, bound=bound, name=name: getattr(raw, name)(x=x, y=bound), FLOAT, id=f"{name}-{bound}")
        for name in ("Maximum", "Minimum")
        for bound in (1.0, -1.0, np.inf)
    ),
    case(lambda x: raw.Maximum(x=tf.constant(6.0, tf.float64), y=x), DOUBLE, id="Maximum-constant-first"),
    case(lambda x: raw.ClipByValue(t=x, clip_value_min=-1.0, clip_value_max=6.0), FLOAT, id="ClipByValue"),
    *(
        case(lambda x, to=to: tf.cast(x, to), integers(kind), id=f"Cast-{kind}-{to}")
        for kind in ("int8", "int32", "uint16")
        for to in ("int64", "uint32", "int8", "float32", "float64")
        if kind != to
    ),
    *(case(lambda x, to=to: tf.cast(x, to), INT64, id=f"Cast-int64-{to}") for to in ("int8", "uint64")),
    case(lambda x: tf.cast(x, tf.float32), BOOL, id="Cast-bool-float32"),
    *(case(lambda x, to=to: tf.cast(x, to), FLOAT, id=f"Cast-float-{to}") for to in ("float64", "int32")),
    *(case(lambda x, to=to: tf.cast(x, to), DOUBLE, id=f"Cast-double-{to}") for to in ("float32", "int32")),
    case(lambda x, y: tf.where(x > y, x, tf.zeros_like(x)), *pairs(FLOAT), id="SelectV2"),
    case(lambda x: tf.where(x[:, :1] > 0, x, [7.0, -0.0, np.nan]), three(FLOAT), id="SelectV2-broadcast"),
    case(lambda x, y: raw.Select(condition=x > y, x=x, y=y), *pairs(FLOAT), id="Select"),
    case(
        lambda x, y: raw.Select(condition=y > 1, x=x, y=-x), three(FLOAT), pairs(FLOAT)[0], id="Select-rows"
    ),
    case(lambda x: raw.Select(condition=tf.constant(True), x=x, y=-x), FLOAT, id="Select-scalar"),
    case(lambda x: raw.BiasAdd(value=x, bias=[1.0, -0.0, 1e-45]), three(FLOAT), id="BiasAdd"),
    case(lambda x: x * 0.5 + 2.0, FLOAT, id="half-plus-two"),
    case(lambda x: x / 3.0, FLOAT, id="divided-by-a-constant"),
    case(lambda x: x + np.array([1, 2, 3], np.float32), three(FLOAT), id="constant-of-lower-rank"),
    case(lambda x: x - tf.constant([[1.0, 2.0, 3.0]]), three(FLOAT), id="constant-of-one-row"),
    case(lambda x: x * tf.constant([2.0]), FLOAT, id="constant-of-one-element"),
    case(lambda x: x / tf.math.maximum(tf.sqrt([2.0, 3.0, 0.0]), 1e-7), three(FLOAT), id="normalization"),
    case(lambda x: raw.EnsureShape(input=x, shape=[None, 3]), three(FLOAT), id="EnsureShape"),
    case(lambda x, y: raw.IdentityN(input=[x, y])[1], FLOAT, np.arange(len(FLOAT)), id="IdentityN"),
    case(lambda x: x + tf1.placeholder_with_default(2.0, []), FLOAT, id="PlaceholderWithDefault"),
    case(hash_table, TEXT, id="HashTableV2"),
    case(mutable_table, INT32, id="MutableHashTableV2"),
    case(lambda x: x * variable([1.5, 2.5, 3.5], "v", True), three(FLOAT), id="ReadVariableOp"),
    case(lambda x: x * variable([1.5, 2.5, 3.5], "v", False), three(FLOAT), id="VariableV2"),
    case(lambda x: tf.gather(variable(GRID[:5, 0], "v", True), x), SMALL, id="ResourceGather"),
    case(lambda x: raw.GatherV2(params=GRID[:5, 0], indices=x, axis=0), SMALL, id="GatherV2"),
    case(lambda x: raw.GatherV2(params=x, indices=[[2, 0]], axis=-2), GRID, id="GatherV2-columns"),
    case(lambda x: raw.Gather(params=GRID[:5, 0], indices=x), SMALL, id="Gather"),
    case(lambda x: raw.OneHot(indices=x, depth=4, on_value=2.5, off_value=-0.0), SMALL, id="OneHot"),
    case(parsed_examples, EXAMPLES, id="ParseExampleV2"),
    *(
        case(lambda x, axis=axis: tf.concat([x, x * 2, x], axis), GRID, id=f"Concat{axis}")
        for axis in (1, -1)
    ),
    *(case(lambda x, axis=axis: tf.stack([x, x * 2], axis), GRID, id=f"Pack{axis}") for axis in (1, 4, -1)),
    *(case(lambda x, axis=axis: tf.unstack(x, axis=axis), GRID, id=f"Unpack{axis}") for axis in (1, -2)),
    *(
        case(lambda x, axis=axis: tf.expand_dims(x, axis), GRID, id=f"ExpandDims{axis}")
        for axis in (1, 4, -1)
    ),
    case(lambda x: tf.squeeze(x[:, :1, :, 1:2], [1, -1]), GRID, id="Squeeze"),
    case(lambda x: tf.reshape(x, [-1, 6, 4]), GRID, id="Reshape"),
    case(lambda x: tf.reshape(x, [-1]), GRID[:, 0, 0, :1], id="Reshape-flat"),
    case(lambda x: tf.reshape(x, tf.shape(x)), GRID, id="Reshape-to-its-own-shape"),
    case(lambda x: tf.reshape(x, tf.shape(x, tf.int64)), GRID, id="Reshape-to-its-own-long-shape"),
    case(lambda x, y: tf.reshape(x, tf.shape(y)), GRID[:, 0], GRID[:, 1].swapaxes(1, 2), id="Reshape-like"),
    case(lambda x: tf.reshape(x, tf.shape(x)[:1]), FLOAT[:, None], id="Reshape-to-the-number-of-rows"),
    case(
        lambda x, y: tf.reshape(x, tf.shape(x)[::2]) + y,
        GRID[:, :1, :, :1],
        GRID[:, 1, :, 0],
        id="Reshape-to-every-second-size",
    ),
    case(lambda x: tf.reshape(x, tf.identity(tf.shape(x))[:-1]), GRID[..., :1], id="Reshape-to-all-but-one"),
    case(lambda x: tf.reshape(x, part_of_shape(x, 0, 3)), GRID[..., :1], id="Reshape-to-a-part-of-its-shape"),
    case(
        lambda x, y: tf.reshape(x, part_of_shape(x, 0, 3, end_mask=2, shrink_axis_mask=2)) + y,
        GRID[..., :1],
        GRID[..., 1],
        id="Reshape-to-a-part-with-masks-of-no-entry",
    ),
    case(
        lambda x: tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[-1], -1, tf.shape(x)[-4 + 1]]),
        GRID,
        id="Reshape-to-packed-dimensions",
    ),
    case(flattened, three(FLOAT).reshape(-1, 3, 1), id="Flatten"),
    case(lambda x: tf.reshape(flattened(x), [-1, 24]), GRID, id="Flatten-sizes"),
    case(lambda x: x + tf.reshape(tf.constant([1.0, -0.0, 1e-45]), [1, 3]), three(FLOAT), id="Reshape-const"),
    case(lambda x: x * tf.squeeze(tf.constant([[[2.0], [3.0]]])), GRID[..., :2], id="Squeeze-constant"),
    case(
        lambda x: x * tf.squeeze(tf.constant([[[[2.0], [3.0]]]]), [0, -1]),
        three(FLOAT)[:, :2],
        id="Squeeze-places",
    ),
    case(padded("Pad"), three(FLOAT), id="Pad"),
    case(padded("Pad"), three(TEXT), id="Pad-string"),
    *(
        case(padded("PadV2", constant_values=fill), three(FLOAT), id=f"PadV2{fill}")
        for fill in (-0.0, np.nan)
    ),
    case(padded("PadV2", constant_values=np.int64(-7)), three(INT64), id="PadV2-int64"),
    case(padded("MirrorPad", mode="SYMMETRIC"), three(FLOAT), id="MirrorPad"),
    case(
        lambda x: raw.MirrorPad(input=x, paddings=[[0, 0], [2, 1]], mode="REFLECT"),
        three(FLOAT),
        id="MirrorPad-reflect",
    ),
    case(lambda x: tf.transpose(x, [0, 3, 1, 2]), GRID, id="Transpose"),
    case(lambda x: tf.slice(x, [0, 1, 0, 2], [-1, 1, -1, 2]), GRID, id="Slice"),
    case(lambda x: x[:, 1, tf.newaxis, ::-2, 1:-1], GRID, id="StridedSlice"),
    case(lambda x: x[..., 1], GRID, id="StridedSlice-ellipsis"),
    case(lambda x: x[:, ..., tf.newaxis, 2], GRID, id="StridedSlice-inner-ellipsis"),
    case(lambda x: x[0:, 1], GRID, id="StridedSlice-from-zero"),
    case(lambda x: tf.reshape(x[:, :, ::-2, 1:], [-1, 12]), GRID, id="StridedSlice-sizes"),
    case(lambda x: tf.split(x, 2, axis=-1), GRID, id="Split"),
    case(lambda x: tf.split(x, [1, 2], axis=2), GRID, id="SplitV"),
    *(
        case(lambda x, name=name: getattr(raw, name)(input=x, axis=[-1]), wide(INT32), id=name)
        for name in ("Max", "Min")
    ),
    *(
        case(lambda x, name=name: getattr(raw, name)(input=x > 0, axis=[1, 3]), GRID, id=name)
        for name in ("All", "Any")
    ),
    *(
        case(lambda x, name=name: getattr(raw, name)(input=x, dimension=1), wide(values), id=f"{name}-{kind}")
        for name in ("ArgMax", "ArgMin")
        for kind, values in (("float", FLOAT), ("double", DOUBLE), ("int64", INT64))
    ),
]

ONLY_ON_X86 = [
    case(lambda x: tf.cast(x, tf.int64), FLOAT, id="Cast-float-int64"),
    case(lambda x: tf.cast(x, tf.int64), DOUBLE, id="Cast-double-int64"),
    case(lambda x: tf.cast(x, tf.float32), INT64, id="Cast-int64-float"),
    case(lambda x: tf.cast(x, tf.float64), INT64, id="Cast-int64-double"),
]


def check_bits(case: Case) -> None:
    """Compare rows among others, which may be the same row again, with the same rows in smaller runs."""
    rows = len(case.inputs[0])
    inputs = [np.tile(array, [-(-51 // rows)] + [1] * (array.ndim - 1)) for array in case.inputs]
    graph, feeds, fetches = graph_of(case.build, inputs)
    assert is_proven(graph, feeds, fetches)
    with graph.as_default(), tf1.Session() as session:
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        on_this_thread = tf1.RunOptions(inter_op_thread_pool=-1)
        run = session.make_callable(fetches, feeds, accept_options=True)
        whole = [bits(output) for output in run(*inputs, options=on_this_thread)]
        for count in ROW_COUNTS:
            last = len(inputs[0]) - count
            for start in range(last + 1) if count == 1 else (0, last // 2, last):
                part = run(*(array[start : start + count] for array in inputs), options=on_this_thread)
                assert [bits(rows) for rows in part] == [rows[start : start + count] for rows in whole]


@pytest.mark.parametrize("case", PROVEN)
def test_rows_of_a_proven_operation_have_the_same_bits_alone_and_among_others(case: Case) -> None:
    check_bits(case)


@pytest.mark.skipif(not INT64_AND_FLOATS_CAST_ALIKE, reason="nothing is claimed on this machine")
@pytest.mark.parametrize("case", ONLY_ON_X86)
def test_casts_between_int64_and_floats_have_the_same_bits_where_that_is_claimed(case: Case) -> None:
    check_bits(case)


def test_every_operation_with_a_rule_is_among_those_that_are_run() -> None:
    run = set()
    for parameters in PROVEN:
        build, inputs = parameters.values[0]
        run |= {node.op for node in graph_of(build, inputs)[0].as_graph_def().node}
    never_run = {"NoOp", "Variable", "Rsqrt", "Reciprocal", "Exp", "Log", "Tanh", "Sigmoid", "Pow"}
    assert set(RULES) - run == never_run


@pytest.mark.parametrize(
    "name",
    ["Exp", "Log", "Tanh", "Sigmoid", "Sqrt", "Rsqrt", "Reciprocal", "Sign", "Softplus", "Elu", "Relu"],
)
def test_functions_whose_bits_depend_on_the_place_are_refused(name: str) -> None:
    argument = "features" if name in ("Softplus", "Elu", "Relu") else "x"
    assert not is_proven(*graph_of(unary(name, argument), [FLOAT]))


@pytest.mark.parametrize("name", ["Exp", "Log", "Tanh", "Sigmoid", "Sqrt", "Rsqrt", "Reciprocal"])
def test_of_constants_such_functions_give_constants(name: str) -> None:
    assert is_proven(
        *graph_of(lambda x: x * getattr(raw, name)(x=tf.constant([0.5, 2.0, 3.0])), [three(FLOAT)])
    )


REFUSED = [
    case(lambda x: tf.reduce_sum(x, 0), FLOAT, id="sum-of-rows"),
    case(lambda x: tf.reduce_sum(x, 1), three(FLOAT), id="sum-within-rows"),
    case(lambda x: tf.reduce_mean(x, 1), three(FLOAT), id="mean"),
    case(lambda x: tf.reduce_prod(x, 1), three(INT32), id="product"),
    case(lambda x: tf.reduce_max(x, 1), three(FLOAT), id="maximum-of-floats"),
    case(lambda x: tf.reduce_max(x, 0), three(INT32), id="maximum-over-rows"),
    case(lambda x: tf.reduce_max(x, [0, 1]), three(INT32), id="maximum-of-all"),
    case(lambda x: tf.reduce_any(x > 0, -2), three(INT32), id="any-over-rows"),
    case(lambda x: tf.argmax(x, 0), three(FLOAT), id="argmax-over-rows"),
    case(lambda x: raw.ReduceJoin(inputs=x, reduction_indices=0), three(TEXT), id="join-of-rows"),
    case(lambda x: raw.ReduceJoin(inputs=x, reduction_indices=[]), TEXT, id="join-of-all"),
    case(lambda x: x @ tf.ones([3, 2]), three(FLOAT), id="matrix-product"),
    case(lambda x: tf.nn.softmax(x), three(FLOAT), id="softmax"),
    case(lambda x: tf.nn.l2_normalize(x, 1), three(FLOAT), id="norm"),
    case(lambda x: tf.reverse(x, [0]), FLOAT, id="reverse"),
    case(lambda x: tf.cumsum(x, 0), FLOAT, id="running-sum"),
    case(lambda x: tf.sort(x), FLOAT, id="sort"),
    case(lambda x: tf.unique(x)[1], INT32, id="unique"),
    case(lambda x: tf.where(x), BOOL, id="where"),
    case(lambda x: tf.boolean_mask(x, x > 0), FLOAT, id="boolean-mask"),
    case(lambda x: tf.shape(x), FLOAT, id="shape"),
    case(lambda x: x * tf.cast(tf.shape(x)[0], tf.float32), FLOAT, id="times-the-number-of-rows"),
    case(lambda x: tf.fill(tf.shape(x), 1.0), FLOAT, id="fill"),
    case(lambda x: x + tf.random.uniform(tf.shape(x)), FLOAT, id="random"),
    case(lambda x: x + tf.random.uniform([]), FLOAT, id="random-scalar"),
    case(lambda _: raw.Snapshot(input=tf.constant([1.0, 2.0])), FLOAT, id="constant"),
    case(lambda x: x + tf.constant([1.0, 2.0, 3.0]), FLOAT, id="constant-beside-rows"),
    case(lambda x: x + tf.constant([[1.0], [2.0]]), three(FLOAT), id="constant-of-two-rows"),
    case(lambda x: x + tf.constant([[1.0, 2.0]]), FLOAT, id="constant-of-higher-rank"),
    case(lambda x: tf.equal(x, [1.0, 2.0, 3.0]), FLOAT, id="compared-with-a-constant-beside-rows"),
    case(lambda x, y: x + y, FLOAT, FLOAT[:, None], id="rows-of-two-ranks"),
    case(lambda x: raw.Equal(x=x, y=2.0, incompatible_shape_error=False), FLOAT, id="lenient-comparison"),
    case(lambda x: tf.where(x > 0, x, [1.0, 2.0, 3.0]), FLOAT, id="choice-of-constant-beside-rows"),
    case(lambda x: raw.Select(condition=x > 0, x=[1.0, 2.0], y=[3.0, 4.0]), FLOAT, id="select-of-constants"),
    case(lambda x: raw.Select(condition=[True, False], x=x, y=-x), FLOAT, id="select-by-constants"),
    case(lambda x: tf.maximum(x, 0.0), FLOAT, id="maximum-with-zero"),
    case(lambda x: tf.maximum(x, -0.0), FLOAT, id="maximum-with-negative-zero"),
    case(lambda x: tf.minimum(x, np.float32(np.nan)), FLOAT, id="minimum-with-nan"),
    case(lambda x: tf.minimum(x, np.float32(1e-45)), FLOAT, id="minimum-with-a-denormal"),
    case(
        lambda x: tf.maximum(x, variable([1.0, 2.0, 3.0], "v", True)),
        three(FLOAT),
        id="maximum-with-variable",
    ),
    case(lambda x, y: tf.maximum(x, y), *pairs(FLOAT), id="maximum-of-two"),
    case(lambda x: raw.ClipByValue(t=x, clip_value_min=0.0, clip_value_max=6.0), FLOAT, id="clip-at-zero"),
    case(lambda x: 1.0 / x, FLOAT, id="one-divided"),
    case(lambda x: tf.math.divide_no_nan(tf.constant([1.0, 1.0, 1.0]), x), three(FLOAT), id="ones-divided"),
    case(lambda x: raw.OnesLike(x=x) / x, FLOAT, id="ones-like-divided"),
    case(lambda x: x // 2.0, FLOAT, id="floor-of-a-quotient"),
    *(
        case(lambda x, to=to: tf.cast(x, to), FLOAT, id=f"cast-float-{to}")
        for to in ("int8", "uint8", "int16", "uint16", "uint32", "uint64", "bool", "float16", "bfloat16")
    ),
    case(lambda x: tf.cast(x, tf.float32), INT64.astype(np.uint64), id="cast-uint64-float32"),
    case(lambda x: x + np.float16(1), SMALL.astype(np.float16), id="half"),
    case(lambda x: x * 2.0, SMALL.astype(np.complex64), id="complex"),
    case(lambda x: tf.cast(tf.constant(0.1, tf.float16), tf.float32) * x, FLOAT, id="constant-of-halves"),
    case(lambda x: raw.BiasAdd(value=x, bias=[1.0, 2.0], data_format="NCHW"), GRID, id="bias-of-channels"),
    case(lambda x: raw.EnsureShape(input=x, shape=[4]), FLOAT, id="fixed-rows"),
    case(lambda x: raw.StringJoin(inputs=[x, ["a", "b"]]), TEXT, id="join-with-constants-beside-rows"),
    case(
        lambda x: raw.Substr(input=x, pos=[0, 1], len=[1, 1]), TEXT, id="substrings-by-constants-beside-rows"
    ),
    case(lambda x: tf.strings.split(x).values, TEXT, id="words"),
    case(lambda x: raw.GatherV2(params=x, indices=[0, 1], axis=0), three(FLOAT), id="gather-of-rows"),
    case(lambda x, y: tf.gather(x, y), FLOAT[:34], SMALL, id="gather-by-rows"),
    case(lambda x, y: tf.gather(x, y, batch_dims=1), GRID, SMALL[:17, None], id="gather-in-batches"),
    case(lambda x: raw.GatherV2(params=GRID[:5], indices=x, axis=1), SMALL, id="gather-behind-a-constant"),
    case(
        lambda x: raw.GatherV2(params=tf.constant([[1.0, 2.0]]), indices=x, axis=-1), SMALL, id="gather-last"
    ),
    case(lambda x: tf.one_hot(x, 4, axis=0), SMALL, id="one-hot-in-front"),
    case(lambda x: tf.concat([x, x], 0), FLOAT, id="concat-of-rows"),
    case(lambda x: tf.concat([x, x], -2), three(FLOAT), id="concat-of-rows-from-behind"),
    case(lambda x: tf.concat([x, [[1.0]]], 1), three(FLOAT), id="concat-with-a-constant"),
    case(lambda x: tf.stack([x, x]), FLOAT, id="stack-in-front"),
    case(lambda x: tf.stack([x, x], -2), FLOAT, id="stack-in-front-from-behind"),
    case(lambda x: tf.stack([x, tf.constant([1.0, 2.0])], 1), FLOAT, id="stack-with-a-constant"),
    case(lambda x: raw.Unpack(value=x, num=2, axis=0)[0], FLOAT, id="unpacked-rows"),
    case(lambda x: tf.expand_dims(x, 0), FLOAT, id="expand-in-front"),
    case(lambda x: tf.expand_dims(x, -2), FLOAT, id="expand-in-front-from-behind"),
    case(lambda x: tf.squeeze(x), GRID[:, :1, 0, 0], id="squeeze-of-everything"),
    case(lambda x: tf.squeeze(x, [0]), GRID[:, 0, 0], id="squeeze-of-the-rows"),
    case(lambda x: tf.reshape(x, [-1, 2]), three(FLOAT)[:, :2].reshape(-1, 1), id="rows-made-wider"),
    case(lambda x: tf.reshape(x, [-1]), GRID, id="rows-made-narrower"),
    case(lambda x: tf.reshape(x, [2, -1]), GRID, id="rows-by-the-rest"),
    case(lambda x: tf.reshape(x, [-1, 0]), GRID[:, 0, 0, :0], id="rows-of-nothing"),
    case(lambda x: tf.reshape(x, tf.stack([2, tf.shape(x)[0], 12])), GRID, id="reshape-to-rows-second"),
    *(
        case(lambda x, pack=pack: tf.reshape(x, pack(tf.shape(x))), GRID, id=f"reshape-to-{name}")
        for name, pack in (
            ("two-dimensions-exchanged", lambda shape: [shape[1], shape[0], shape[2], shape[3]]),
            ("another-dimension-first", lambda shape: [shape[1], -1]),
            ("a-constant-first", lambda shape: [1, shape[1], -1]),
            ("the-rest-first", lambda shape: [-1, shape[0]]),
            ("the-number-of-rows-twice", lambda shape: [shape[0], shape[0]]),
            ("two-rests", lambda shape: [shape[0], -1, -1]),
            ("too-many-elements", lambda shape: [shape[0], 25]),
            ("too-few-elements", lambda shape: [shape[0], shape[3]]),
            ("no-whole-rest", lambda shape: [shape[0], 5, -1]),
            ("a-rest-of-nothing", lambda shape: [shape[0], 0, -1]),
            ("the-number-of-rows-alone", lambda shape: shape[:1]),
            ("a-turned-shape", lambda shape: shape[3:0:-1]),
            ("all-but-the-number-of-rows", lambda shape: shape[1:]),
            ("a-computed-shape", lambda shape: [shape[0] * 2, 12]),
        )
    ),
    case(
        lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 1, tf.shape(x)[0]])),
        FLOAT[:, None],
        id="reshape-to-rows-of-rows",
    ),
    case(
        lambda x: tf.reshape(x, part_of_shape(x, 1, 2, begin_mask=2)),
        FLOAT[:, None],
        id="reshape-to-a-part-that-its-masks-do-not-begin-earlier",
    ),
    case(
        lambda x: tf.reshape(x, part_of_shape(x, 0, 2, ellipsis_mask=1)),
        FLOAT[:, None],
        id="shape-by-ellipsis",
    ),
    case(
        lambda x: tf.reshape(x, raw.Pack(values=[tf.shape(x)[0], 4], axis=-1)), GRID[:, 0, 0], id="pack-last"
    ),
    case(
        lambda x: tf.reshape(x, raw.Reshape(tensor=tf.stack([tf.shape(x)[:1], [24]]), shape=[2])),
        GRID,
        id="reshape-to-packed-parts-of-a-shape",
    ),
    case(
        lambda x: tf.reshape(x[:, : tf.cast(variable(2, "v", True), tf.int32)], tf.shape(x)),
        GRID,
        id="reshape-of-unknown-sizes",
    ),
    case(
        lambda x: (lambda y: tf.reshape(y, tf.shape(y)))(tf.slice(x, [0, 1], [-1, -1])),
        three(FLOAT),
        id="shape-with-unknown-sizes",
    ),
    case(lambda x: tf.reshape(tf.constant([1.0, 2.0]), tf.shape(x)), FLOAT, id="constant-reshaped-to-rows"),
    case(lambda x: tf.shape(x)[0], FLOAT, id="number-of-rows"),
    case(lambda x: tf.stack([tf.shape(x)[0], 1]), FLOAT, id="number-of-rows-in-a-list"),
    case(lambda x: tf.identity(tf.shape(x)), GRID, id="shape-passed-on"),
    *(
        case(lambda x, use=use: use(x, tf.shape(x)[0]), three(SMALL), id=f"number-of-rows-as-{name}")
        for name, use in (
            ("summand", lambda x, number: x + number),
            ("bound", lambda x, number: raw.Maximum(x=x, y=number)),
            ("clip", lambda x, number: raw.ClipByValue(t=x, clip_value_min=0, clip_value_max=number)),
            ("choice", lambda x, number: tf.where(x > 1, x, number)),
            ("condition", lambda x, number: raw.Select(condition=number > 1, x=x, y=-x)),
            ("depth", lambda x, number: tf.one_hot(x, number)),
            ("value-of-one-hot", lambda x, number: tf.one_hot(x, 4, on_value=number)),
            ("index", lambda x, number: x[:, number - 1]),
            ("indices", lambda x, number: raw.GatherV2(params=x, indices=number, axis=1)),
            ("size", lambda x, number: tf.slice(x, [0, 0], [-1, number])),
            ("end", lambda x, number: x[:, :number]),
            ("widths", lambda x, number: raw.Pad(input=x, paddings=[[0, 0], [0, number]])),
            (
                "fill",
                lambda x, number: raw.PadV2(input=x, paddings=[[0, 0], [0, 1]], constant_values=number),
            ),
            ("column", lambda x, number: raw.Pack(values=[x, tf.broadcast_to(number, tf.shape(x))], axis=1)),
        )
    ),
    case(
        lambda x: x + tf.reshape([1.0, 2.0, 3.0], [3, 1]), three(FLOAT), id="constant-reshaped-to-three-rows"
    ),
    case(lambda x: x + tf.reshape([1.0, 2.0, 3.0], [-1]), FLOAT, id="constant-reshaped-beside-rows"),
    case(lambda x: x + tf.squeeze([[1.0, 2.0, 3.0]]), FLOAT, id="constant-squeezed-beside-rows"),
    case(
        lambda x: x + tf.squeeze([[[1.0], [2.0]]], [0]),
        three(FLOAT),
        id="constant-squeezed-to-rows-of-its-own",
    ),
    case(lambda x: tf.transpose(x), GRID, id="transpose-of-all"),
    case(lambda x: tf.transpose(x, [1, 0, 2, 3]), GRID, id="transpose-of-the-rows"),
    case(lambda x: tf.slice(x, [0, 0], [2, 3]), three(FLOAT), id="first-rows"),
    case(lambda x: tf.slice(x, [1, 0], [-1, 3]), three(FLOAT), id="all-but-the-first-row"),
    *(
        case(lambda x, part=part: x[part], GRID, id=f"part-{part}")
        for part in (
            0,
            slice(1, None),
            slice(None, -1),
            slice(None, 4),
            slice(None, None, 2),
            slice(None, None, -1),
            (tf.newaxis, slice(None)),
            (tf.newaxis, ...),
            (..., 0, 0, 0, 0),
            (..., slice(1, None), 0, 0, 0),
            (..., tf.newaxis, slice(None), 0, 0, 0),
        )
    ),
    case(lambda x: tf.split(x, 2)[0], FLOAT, id="split-of-rows"),
    case(lambda x: tf.split(x, [1, -1])[0], FLOAT, id="split-of-rows-by-sizes"),
    case(
        lambda x: tf.io.parse_example(x, {"f": tf.io.VarLenFeature(tf.int64)})["f"].values, TEXT, id="sparse"
    ),
    case(
        lambda x: tf.io.parse_example(
            x, {"f": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)}
        )["f"],
        TEXT,
        id="padded-features",
    ),
    case(lambda x: tf.io.decode_raw(x, tf.uint8), TEXT, id="decode-raw"),
    case(lambda x: tf.map_fn(lambda one: one + 1, x), FLOAT, id="loop"),
    case(lambda x: tf.cond(tf.reduce_any(x > 0), lambda: x, lambda: -x), FLOAT, id="condition"),
    case(lambda x: tf.numpy_function(lambda y: y, [x], tf.float32), FLOAT, id="python"),
    case(lambda x: tf.nn.conv1d(x, tf.ones([1, 4, 2]), 1, "SAME"), GRID[:, 0], id="convolution"),
    case(lambda x: tf.pad(x, [[1, 0]]), FLOAT, id="padded-rows"),
    case(lambda x: tf.pad(x, [[0, 1], [0, 0]]), three(FLOAT), id="rows-padded-behind"),
    case(
        lambda x: tf.pad(x, [[0, 1], [1, 0]], constant_values=1.0), three(FLOAT), id="rows-padded-with-ones"
    ),
    case(lambda x: tf.pad(x, [[1, 1], [0, 0]], "SYMMETRIC"), three(FLOAT), id="rows-mirrored"),
    case(
        lambda x: raw.Pad(input=x, paddings=variable([[0, 0]], "v", True)), FLOAT, id="padding-by-a-variable"
    ),
    case(
        lambda x, y: raw.PadV2(input=x, paddings=[[0, 0]], constant_values=y), FLOAT, FLOAT, id="fill-of-rows"
    ),
    case(lambda x: tf.tile(x, [2]), FLOAT, id="repeated-rows"),
]


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_mix_rows_or_change_their_bits_is_refused(case: Case) -> None:
    assert not is_proven(*graph_of(case.build, case.inputs))


def test_floats_take_the_narrow_way_through_int64_only_where_that_is_known_to_be_exact() -> None:
    for parameters in ONLY_ON_X86:
        build, inputs = parameters.values[0]
        assert is_proven(*graph_of(build, inputs)) == INT64_AND_FLOATS_CAST_ALIKE
