"""Operations that keep rows apart without the same bits are run by TensorFlow, and tempting ones refused.

Rows run alone must be close to what they are among others, and of the sizes that the rules give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.saved_model.small_graphs import ROW_COUNTS, Array, Build, Case, case, graph_of, spec_of

from inserve.protos import messages
from inserve.saved_model.row_wise import row_wise_signatures
from inserve.saved_model.row_wise_operations import RULES
from inserve.saved_model.row_wise_sums import RULES_OF_SUMS
from inserve.saved_model.row_wise_values import Rule
from inserve.saved_model.signature import Signature, TensorSpec, parse_signature
from inserve.tensors.dtypes import DataType

tf1 = tf.compat.v1
raw = tf.raw_ops

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


def is_proven(build: Build, inputs: Sequence[Array], rules: Mapping[str, Rule] = RULES_OF_SUMS) -> bool:
    graph, feeds, fetches = graph_of(build, inputs)
    signature = Signature(
        "s",
        "",
        [spec_of(f"x{place}", tensor) for place, tensor in enumerate(feeds)],
        [spec_of(f"y{place}", tensor) for place, tensor in enumerate(fetches)],
    )
    return bool(row_wise_signatures(graph.as_graph_def().SerializeToString(), {"s": signature}, rules))


def normal(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def rows(*inner: int, dtype: Any = np.float32) -> Array:
    """Return ordinary rows, and a row with a NaN and one with an infinity among them."""
    array = normal(max(ROW_COUNTS), *inner, dtype=dtype)
    array[3].flat[-1] = np.nan
    array[11].flat[0] = np.inf
    return array


IMAGES = rows(7, 9, 3)
VECTORS = rows(5)
WHOLE = np.arange(17 * 5, dtype=np.int32).reshape(17, 5)
WHOLE_IMAGES = np.arange(17 * 36, dtype=np.int32).reshape(17, 4, 3, 3)

ONES = [1, 1, 1, 1]
STEPS = [1, 2, 3, 1]
EDGES = [0, 0, 1, 2, 0, 3, 0, 0]


def variable(value: Any, name: str) -> Any:
    return tf1.get_variable(name, initializer=tf.constant(value), use_resource=True)


def convolution(kernel: Sequence[int], padding: str, dtype: Any = np.float32, **attributes: Any) -> Build:
    attributes = {"strides": ONES, **attributes}
    return lambda x: raw.Conv2D(input=x, filter=normal(*kernel, dtype=dtype), padding=padding, **attributes)


def convolution_by_channel(kernel: Sequence[int], padding: str, **attributes: Any) -> Build:
    attributes = {"strides": ONES, **attributes}
    return lambda x: raw.DepthwiseConv2dNative(input=x, filter=normal(*kernel), padding=padding, **attributes)


def pool(name: str, window: Sequence[int], strides: Sequence[int], padding: str, **others: Any) -> Build:
    argument = "value" if name == "AvgPool" else "input"
    attributes = {"ksize": window, "strides": strides, "padding": padding, **others}
    return lambda x: getattr(raw, name)(**{argument: x}, **attributes)


def normalized(name: str, x: Any, **others: Any) -> Any:
    """Return all that a normalization of images with three channels gives, by stored statistics."""
    given = {"is_training": False, **others}
    for parameter, values in {
        "scale": [1.0, 0.5, -2.0],
        "offset": [0.0, 3.0, 0.1],
        "mean": [0.2, -1.0, 4.0],
        "variance": [1.0, 0.3, 2.0],
    }.items():
        given.setdefault(parameter, values)
    return getattr(raw, name)(x=x, **given)


def normalization(name: str, **others: Any) -> Build:
    return lambda x: normalized(name, x, **others)[0]


def product(shape: Sequence[int], dtype: Any = np.float32, **attributes: Any) -> Build:
    return lambda x: raw.MatMul(a=x, b=normal(*shape, dtype=dtype), **attributes)


def reduction(name: str, axis: Any, keep_dims: bool = False) -> Build:
    return lambda x: getattr(raw, name)(input=x, axis=axis, keep_dims=keep_dims)


def unary(name: str, argument: str = "x", **attributes: Any) -> Build:
    return lambda x: getattr(raw, name)(**{argument: x}, **attributes)


REDUCTIONS = ("Sum", "Mean", "Max", "Min")
NORMALIZATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")

OF_KNOWN_SIZES = [
    *(
        case(
            convolution((3, 2, 3, 4), padding, strides=strides, dilations=dilations),
            IMAGES,
            id=f"Conv2D-{padding}-{strides[1:3]}-{dilations[1:3]}",
        )
        for padding in ("VALID", "SAME")
        for strides, dilations in ((ONES, ONES), (STEPS, ONES), (ONES, STEPS), ([1, 2, 2, 1], [1, 2, 2, 1]))
    ),
    case(convolution((7, 9, 3, 2), "VALID"), IMAGES, id="Conv2D-of-the-whole-image"),
    case(convolution((1, 1, 3, 8), "SAME"), IMAGES, id="Conv2D-of-one-pixel"),
    case(convolution((2, 2, 1, 6), "SAME"), IMAGES, id="Conv2D-in-groups"),
    case(convolution((3, 3, 3, 4), "SAME", np.float64), rows(7, 9, 3, dtype=np.float64), id="Conv2D-double"),
    case(
        lambda x: raw.Conv2D(
            input=x, filter=variable(normal(3, 2, 3, 4), "v"), strides=ONES, padding="VALID"
        ),
        IMAGES,
        id="Conv2D-by-a-variable",
    ),
    *(
        case(
            convolution_by_channel((3, 2, 3, 2), padding, strides=steps, dilations=dilations),
            IMAGES,
            id=f"DepthwiseConv2dNative-{padding}-{steps[1]}-{dilations[1:3]}",
        )
        for padding in ("VALID", "SAME")
        for steps, dilations in ((ONES, ONES), ([1, 2, 2, 1], ONES), (ONES, [1, 2, 2, 1]))
    ),
    *(
        case(pool(name, [1, 3, 2, 1], strides, padding), IMAGES, id=f"{name}-{padding}-{strides[1:3]}")
        for name in ("MaxPool", "AvgPool")
        for padding in ("VALID", "SAME")
        for strides in (ONES, STEPS)
    ),
    *(case(normalization(name), IMAGES, id=name) for name in NORMALIZATIONS),
    case(
        lambda x: normalized(
            "FusedBatchNormV3", x, scale=tf.sqrt([1.0, 2.0, 3.0]), mean=variable([0.5, 1.0, 2.0], "v")
        )[0],
        IMAGES,
        id="FusedBatchNormV3-by-a-variable",
    ),
    case(product((5, 3)), VECTORS, id="MatMul"),
    case(product((3, 5), transpose_b=True), VECTORS, id="MatMul-transposed"),
    case(product((5, 3), np.float64), rows(5, dtype=np.float64), id="MatMul-double"),
    case(product((300, 70)), rows(300), id="MatMul-large"),
    case(lambda x: tf.matmul(x, variable(normal(5, 3), "v")), VECTORS, id="MatMul-by-a-variable"),
    *(
        case(reduction(name, axis, keep), IMAGES, id=f"{name}-{axis}{'-kept' * keep}")
        for name in REDUCTIONS
        for axis, keep in (([1, 2], False), ([-3, 2], True), ([3], False), (-2, True))
    ),
    *(case(reduction(name, [1, 2, 3]), IMAGES, id=f"{name}-of-each-row") for name in REDUCTIONS),
    *(
        case(unary(name, "logits"), array, id=f"{name}-{array.ndim}")
        for name in ("Softmax", "LogSoftmax")
        for array in (VECTORS, IMAGES)
    ),
    *(
        case(unary(name, "features"), array, id=f"{name}-{array.ndim}")
        for name in ("Relu", "Relu6", "LeakyRelu")
        for array in (VECTORS[:, 0], IMAGES)
    ),
    case(unary("LeakyRelu", "features", alpha=0.3), rows(5, dtype=np.float64), id="LeakyRelu-double"),
    case(unary("Softmax", "logits"), rows(5, dtype=np.float64), id="Softmax-double"),
]

OF_SIZES_NOT_KNOWN = [
    case(
        convolution((3, 2, 3, 4), "EXPLICIT", strides=STEPS, explicit_paddings=EDGES),
        IMAGES,
        id="Conv2D",
    ),
    case(
        convolution_by_channel((3, 2, 3, 2), "EXPLICIT", explicit_paddings=EDGES),
        IMAGES,
        id="DepthwiseConv2dNative",
    ),
    case(
        pool("MaxPool", [1, 3, 4, 1], STEPS, "EXPLICIT", explicit_paddings=EDGES),
        IMAGES,
        id="MaxPool",
    ),
]

PROVEN = OF_KNOWN_SIZES + OF_SIZES_NOT_KNOWN


@pytest.mark.parametrize("case", PROVEN)
def test_what_keeps_rows_apart_but_not_their_bits_is_proven_by_the_rules_of_sums_alone(case: Case) -> None:
    assert is_proven(case.build, case.inputs)
    assert not is_proven(case.build, case.inputs, RULES)


def check_rows(case: Case) -> None:
    """Compare rows in company with the same rows in smaller runs."""
    graph, feeds, fetches = graph_of(case.build, case.inputs)
    with graph.as_default(), tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        run = session.make_callable(fetches, feeds)
        [whole] = run(*case.inputs)
        for count in ROW_COUNTS:
            last = len(whole) - count
            for start in range(last + 1) if count == 1 else (0, last // 2, last):
                [part] = run(*(array[start : start + count] for array in case.inputs))
                assert part.shape == (count, *whole.shape[1:])
                assert np.allclose(part, whole[start : start + count], 1e-5, 1e-6, equal_nan=True)


@pytest.mark.parametrize("case", PROVEN)
def test_rows_alone_are_close_to_the_same_rows_in_company(case: Case) -> None:
    check_rows(case)


def run_once(case: Case) -> Array:
    graph, feeds, [fetch] = graph_of(case.build, case.inputs)
    with graph.as_default(), tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        result: Array = session.run(fetch, dict(zip(feeds, case.inputs, strict=True)))
    return result


def reshaped(build: Build, inner: Sequence[int], part: Any = ...) -> Build:
    """Return a build that is proven only if *part* of each row is known to have the sizes *inner*."""
    return lambda *feeds: tf.reshape(build(*feeds)[part], [-1, *inner])


@pytest.mark.parametrize("case", OF_KNOWN_SIZES)
def test_each_size_of_what_comes_out_is_known(case: Case) -> None:
    shape = run_once(case).shape
    for axis in range(1, len(shape)):
        part = (slice(None), *(slice(None) if place == axis else 0 for place in range(1, len(shape))))
        assert is_proven(reshaped(case.build, [shape[axis]], part), case.inputs)
        for wrong in (shape[axis] - 1, shape[axis] + 1):
            assert not is_proven(reshaped(case.build, [wrong], part), case.inputs)


@pytest.mark.parametrize("case", OF_KNOWN_SIZES)
def test_what_comes_out_can_be_reshaped_to_as_many_elements_only(case: Case) -> None:
    num_elements = int(np.prod(run_once(case).shape[1:]))
    assert is_proven(reshaped(case.build, [num_elements]), case.inputs)
    assert not is_proven(reshaped(case.build, [num_elements + 1]), case.inputs)


@pytest.mark.parametrize("case", OF_SIZES_NOT_KNOWN)
def test_height_and_width_after_explicit_padding_are_not_known_but_the_channels_are(case: Case) -> None:
    _, height, width, channels = run_once(case).shape
    assert not is_proven(reshaped(case.build, [height * width * channels]), case.inputs)
    assert not is_proven(reshaped(case.build, [height], (slice(None), slice(None), 0, 0)), case.inputs)
    of_one_pixel = (slice(None), 0, 0)
    assert is_proven(reshaped(case.build, [channels], of_one_pixel), case.inputs)
    assert not is_proven(reshaped(case.build, [channels + 1], of_one_pixel), case.inputs)


def test_every_operation_with_a_rule_of_sums_is_among_those_that_are_run() -> None:
    run = set()
    for parameters in PROVEN:
        build, inputs = parameters.values[0]
        run |= {node.op for node in graph_of(build, inputs)[0].as_graph_def().node}
    assert {name for name, rule in RULES_OF_SUMS.items() if RULES.get(name) is not rule} <= run


def of_unknown_height(build: Build) -> Build:
    return lambda x: build(tf.slice(x, [0, 1, 0, 0], [-1, -1, 9, 3]))


@pytest.mark.parametrize(
    ("build", "width"),
    [
        (convolution((3, 2, 3, 4), "VALID"), 8),
        (convolution_by_channel((3, 2, 3, 2), "VALID"), 8),
        (pool("MaxPool", [1, 3, 2, 1], ONES, "SAME"), 9),
        (normalization("FusedBatchNormV3"), 9),
        (reduction("Sum", [3], True), 9),
        (unary("Softmax", "logits"), 9),
        (unary("Relu", "features"), 9),
    ],
)
def test_a_size_that_is_not_known_before_is_not_known_after_but_the_others_are(
    build: Build, width: int
) -> None:
    height = int(run_once(Case(of_unknown_height(build), (IMAGES,))).shape[1])
    assert is_proven(of_unknown_height(build), [IMAGES])
    assert is_proven(reshaped(of_unknown_height(build), [width], np.s_[:, 0, :, 0]), [IMAGES])
    assert not is_proven(reshaped(of_unknown_height(build), [height], np.s_[:, :, 0, 0]), [IMAGES])


@pytest.mark.parametrize(
    "case",
    [
        *(case(unary(name, "features"), WHOLE, id=name) for name in ("Relu", "Relu6")),
        *(case(reduction(name, [1]), WHOLE, id=name) for name in ("Max", "Min")),
        case(lambda x: tf.nn.bias_add(x, [1.0, 2.0, 3.0, 4.0, 5.0]) * 2.0, VECTORS, id="BiasAdd"),
    ],
)
def test_what_has_the_same_bits_is_proven_by_either_rules(case: Case) -> None:
    assert is_proven(case.build, case.inputs, RULES)
    assert is_proven(case.build, case.inputs)


def test_every_operation_with_an_exact_rule_has_one_among_the_rules_of_sums() -> None:
    assert RULES.keys() <= RULES_OF_SUMS.keys()


@pytest.mark.parametrize(
    "compute",
    [
        tf.nn.relu,
        tf.nn.softmax,
        lambda value: tf.reduce_sum([value, value], 0),
        lambda value: tf.matmul([value], tf.ones([3, 3]))[0],
    ],
)
def test_sums_of_constants_are_the_same_in_every_run(compute: Build) -> None:
    mean = [1.0, 2.0, 3.0]
    assert is_proven(lambda x: normalized("FusedBatchNormV3", x, mean=compute(mean))[0], [IMAGES])


@pytest.mark.parametrize(
    "case",
    [
        case(convolution((2, 2, 7, 2), "SAME", data_format="NCHW"), IMAGES, id="Conv2D"),
        case(
            convolution_by_channel((2, 2, 7, 2), "SAME", data_format="NCHW"),
            IMAGES,
            id="DepthwiseConv2dNative",
        ),
        *(
            case(pool(name, ONES, ONES, "SAME", data_format="NCHW"), IMAGES, id=name)
            for name in ("MaxPool", "AvgPool")
        ),
        *(case(normalization(name, data_format="NCHW"), IMAGES[:, :3], id=name) for name in NORMALIZATIONS),
    ],
)
def test_images_with_their_channels_first_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize(
    ("build", "rank"),
    [
        (convolution((3, 2, 3, 4), "SAME"), 4),
        (convolution_by_channel((3, 2, 3, 4), "SAME"), 4),
        (pool("MaxPool", [1, 2, 2, 1], ONES, "SAME"), 4),
        (normalization("FusedBatchNormV3"), 4),
        (product((3, 4)), 2),
    ],
)
def test_images_of_other_ranks_than_4_and_factors_of_others_than_2_are_refused(
    build: Build, rank: int
) -> None:
    graph = tf.Graph()
    with graph.as_default():
        feed = tf1.placeholder(tf.float32)
        fetch = build(feed)
    serialized = graph.as_graph_def().SerializeToString()
    for stated in range(1, 6):
        spec = TensorSpec("x", feed.name, DataType.DT_FLOAT, (None, 2, 7, 9, 3)[:stated])
        signature = Signature("s", "", [spec], [spec_of("y", fetch)])
        proven = row_wise_signatures(serialized, {"s": signature}, RULES_OF_SUMS)
        assert bool(proven) == (stated == rank)


@pytest.mark.parametrize(
    "case",
    [
        case(lambda x: tf.nn.conv1d(x, normal(2, 3, 4), 1, "SAME"), IMAGES[:, 0], id="conv1d"),
        case(
            lambda x: tf.nn.conv3d(x, normal(1, 1, 1, 3, 4), [*ONES, 1], "SAME"), IMAGES[:, None], id="conv3d"
        ),
        case(
            lambda x: tf.nn.conv2d_transpose(x, normal(2, 2, 4, 3), [17, 7, 9, 4], 1),
            IMAGES,
            id="transposed",
        ),
    ],
)
def test_other_convolutions_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize(
    "case",
    [
        case(
            lambda x, kernel: raw.Conv2D(input=x, filter=kernel, strides=ONES, padding="SAME"),
            IMAGES,
            normal(17, 2, 3, 4),
            id="Conv2D",
        ),
        case(
            lambda x: raw.Conv2D(input=normal(2, 7, 9, 3), filter=x, strides=ONES, padding="SAME"),
            normal(17, 2, 3, 4),
            id="Conv2D-of-a-constant",
        ),
        case(
            lambda x: raw.Conv2D(input=x, filter=x, strides=ONES, padding="SAME"),
            normal(17, 3, 2, 2),
            id="Conv2D-of-itself",
        ),
        case(
            lambda x, kernel: raw.DepthwiseConv2dNative(input=x, filter=kernel, strides=ONES, padding="SAME"),
            IMAGES,
            normal(17, 2, 3, 4),
            id="DepthwiseConv2dNative",
        ),
        case(lambda x, y: tf.matmul(x, y), VECTORS, VECTORS, id="MatMul"),
        case(lambda x, y: tf.matmul(x, y, transpose_b=True), VECTORS, VECTORS, id="MatMul-transposed"),
        case(lambda x: tf.matmul(normal(2, 17), x), VECTORS, id="MatMul-of-a-constant"),
        case(lambda x, y: tf.einsum("ij,kj->ik", x, y), VECTORS, VECTORS, id="Einsum"),
    ],
)
def test_kernels_and_matrices_that_are_rows_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.nn.conv2d(x, tf.reshape(normal(2, 2, 3, 4), [2, 2, -1, 4]), 1, "SAME"),
        lambda x: tf.matmul(x[:, 0, 0], tf.reshape(normal(6), [3, -1])),
    ],
)
def test_kernels_and_matrices_of_unknown_sizes_are_refused(build: Build) -> None:
    assert not is_proven(build, [IMAGES])


@pytest.mark.parametrize(
    "build",
    [
        *(
            convolution((2, 2, 3, 2), "SAME", **{name: steps})
            for name in ("strides", "dilations")
            for steps in ([2, 1, 1, 1], [1, 1, 1, 2])
        ),
        *(
            pool(name, window, strides, "VALID")
            for name in ("MaxPool", "AvgPool")
            for window, strides in (
                ([2, 1, 1, 1], ONES),
                (ONES, [2, 1, 1, 1]),
                ([1, 1, 1, 3], [1, 1, 1, 3]),
            )
        ),
    ],
)
def test_windows_and_steps_across_rows_or_channels_are_refused(build: Build) -> None:
    assert not is_proven(build, [IMAGES])


@pytest.mark.parametrize(
    "case",
    [
        case(
            lambda x: tf.nn.conv2d(tf.transpose(x, [1, 0, 2, 3]), normal(2, 2, 3, 4), 1, "SAME"),
            IMAGES,
            id="transposed",
        ),
        case(
            lambda x: tf.nn.conv2d(x[tf.newaxis], normal(2, 2, 3, 4), 1, "SAME")[0],
            IMAGES[:, 0],
            id="one-image",
        ),
    ],
)
def test_rows_as_the_height_of_images_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization_in_training_mode_is_refused(name: str) -> None:
    assert not is_proven(normalization(name, is_training=True), [IMAGES])


@pytest.mark.parametrize("parameter", ["scale", "offset", "mean", "variance"])
def test_normalization_by_statistics_from_rows_is_refused(parameter: str) -> None:
    for name in NORMALIZATIONS:
        assert not is_proven(
            lambda x, y, name=name: normalized(name, x, **{parameter: y})[0], [IMAGES, VECTORS[:, 0]]
        )
        assert not is_proven(
            lambda x, name=name: normalized(name, x, **{parameter: tf.reduce_mean(x, [0, 1, 2])})[0], [IMAGES]
        )


def test_the_statistics_that_a_normalization_gives_are_no_rows() -> None:
    for place in range(1, 6):
        assert not is_proven(lambda x, place=place: normalized("FusedBatchNormV3", x)[place], [IMAGES])


@pytest.mark.parametrize(
    "case",
    [
        case(lambda x: tf.matmul(x, normal(17, 2), transpose_a=True), VECTORS, id="by-a-constant"),
        case(lambda x: tf.matmul(x, x, transpose_a=True), VECTORS, id="by-itself"),
    ],
)
def test_products_of_columns_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize(
    "case",
    [
        case(lambda x: tf.matmul(x, normal(3, 2)), IMAGES[:, 0], id="by-a-constant"),
        case(lambda x, y: tf.matmul(x, y), IMAGES[:, 0, :3], IMAGES[:, 0, :3], id="by-rows"),
    ],
)
def test_products_of_rank_3_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [[0], 0, [-2], [0, 1], [1, 0], []])
def test_reductions_over_the_rows_or_over_nothing_are_refused(name: str, axis: Any) -> None:
    for keep_dims in (False, True):
        assert not is_proven(reduction(name, axis, keep_dims), [VECTORS])


@pytest.mark.parametrize(
    "case",
    [
        case(lambda x: tf.reduce_sum(x, variable([1], "v")), VECTORS, id="a-variable"),
        case(lambda x, y: tf.reduce_sum(x, y), VECTORS, np.ones(17, np.int32), id="rows"),
        case(lambda x: tf.reduce_sum(x, tf.range(tf.rank(x))), VECTORS, id="computed"),
    ],
)
def test_reductions_along_what_is_not_written_in_the_graph_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_along_the_rows_is_refused(name: str) -> None:
    assert not is_proven(unary(name, "logits"), [VECTORS[:, 0]])
    assert not is_proven(
        lambda x: tf.transpose(unary(name, "logits")(tf.transpose(x))),
        [VECTORS],
    )


@pytest.mark.parametrize(
    "build",
    [
        *map(unary, ("Exp", "Expm1", "Log", "Log1p", "Tanh", "Sigmoid", "Erf", "Sqrt", "Rsqrt", "Sin")),
        *(unary(name, "features") for name in ("Elu", "Selu", "Softplus", "Softsign")),
        lambda x: tf.pow(x, 3.0),
        lambda x: x * tf.sigmoid(x),
        lambda x: tf.nn.relu(tf.exp(x)),
    ],
)
def test_functions_of_which_few_values_differ_are_refused(build: Build) -> None:
    assert not is_proven(build, [VECTORS])


@pytest.mark.parametrize(
    "build",
    [
        reduction("Prod", [1]),
        unary("L2Loss", "t"),
        lambda x: tf.cumsum(x, 1),
        lambda x: tf.nn.l2_normalize(x, 0),
        lambda x: tf.nn.softmax_cross_entropy_with_logits(x, x),
    ],
)
def test_other_operations_that_add_or_multiply_are_refused(build: Build) -> None:
    assert not is_proven(build, [VECTORS])


@pytest.mark.parametrize(
    "case",
    [
        case(convolution((2, 2, 3, 2), "SAME", np.int32), WHOLE_IMAGES, id="Conv2D"),
        case(pool("MaxPool", [1, 2, 2, 1], ONES, "SAME"), WHOLE_IMAGES, id="MaxPool"),
        case(product((5, 2), np.int32), WHOLE, id="MatMul"),
        *(case(reduction(name, [1]), WHOLE, id=name) for name in ("Sum", "Mean")),
    ],
)
def test_sums_of_integers_are_refused(case: Case) -> None:
    assert not is_proven(case.build, case.inputs)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize(
    "build",
    [
        unary("Relu", "features"),
        unary("LeakyRelu", "features"),
        unary("Softmax", "logits"),
        reduction("Sum", [1]),
        lambda x: tf.matmul(x, tf.ones([5, 2], x.dtype)),
    ],
)
def test_numbers_of_16_bits_are_refused(build: Build, dtype: Any) -> None:
    assert not is_proven(lambda x: tf.cast(build(tf.cast(x, dtype)), tf.float32), [VECTORS])


@pytest.mark.parametrize(
    "build",
    [
        lambda _: tf.nn.relu(tf.constant([1.0, -1.0])),
        lambda _: tf.matmul(tf.ones([2, 3]), tf.ones([3, 2])),
        lambda x: tf.nn.relu(tf.cast(tf.shape(x), tf.float32)),
    ],
)
def test_what_has_no_rows_is_refused(build: Build) -> None:
    assert not is_proven(build, [VECTORS])


def network(x: Any) -> Any:
    """Return what a small convolutional network makes of images."""
    image = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    for layer, channels in enumerate((4, 6)):
        kernel = variable(normal(3, 3, image.shape[-1], channels), f"kernel{layer}")
        image = tf.nn.conv2d(image, kernel, 1, "VALID")
        image = tf.nn.relu(tf.nn.bias_add(image, variable(normal(channels), f"bias{layer}")))
    image = tf.nn.max_pool2d(image, 2, 2, "VALID")
    flat = tf.reshape(image, [tf.shape(image)[0], -1])
    dense = tf.matmul(flat, variable(normal(image.shape[1:].num_elements(), 10) / 100, "dense"))
    return tf.nn.softmax(dense + variable(normal(10), "last_bias"))


def test_a_small_network_is_proven_by_the_rules_of_sums_alone() -> None:
    assert is_proven(network, [IMAGES])
    assert is_proven(reshaped(network, [10]), [IMAGES])
    assert not is_proven(network, [IMAGES], RULES)


def test_rows_of_a_small_network_are_close_to_the_same_rows_in_company() -> None:
    check_rows(Case(network, (IMAGES,)))


def test_a_network_that_compares_its_rows_is_refused() -> None:
    assert not is_proven(lambda x: tf.nn.softmax(network(x), 0), [IMAGES])
    assert not is_proven(lambda x: network(x - tf.reduce_mean(x, 0, keepdims=True)), [IMAGES])


def test_the_recorded_network_is_proven_by_the_rules_of_sums_alone() -> None:
    saved_model = messages.SavedModel.FromString((MODELS / "cnn/1/saved_model.pb").read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    signatures = {key: parse_signature(key, one) for key, one in meta_graph.signature_def.items()}
    graph = meta_graph.graph_def.SerializeToString()
    assert row_wise_signatures(graph, signatures, RULES_OF_SUMS) == {"serving_default", "probs"}
    assert row_wise_signatures(graph, signatures, RULES) == set()
