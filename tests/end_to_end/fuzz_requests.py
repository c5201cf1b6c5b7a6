"""Hypothesis strategies for requests no client should send, and for some that one might.

They know the signatures of the models, so that a good part of what they make gets past the first checks.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header, encode_varint
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.tensors.dtypes import DataType, find_element_type

__all__ = ["Signatures", "calls", "metadata_requests", "predict_requests"]


class Signatures(dict[str, dict[str, Signature]]):
    """Signatures by key, by model; shown by a word, because Hypothesis shows what strategies are made of.

    *vast* lets tensors without elements have vast other dimensions. Kernels count through those or
    end the process, so only a server that checks shapes can be asked.
    """

    def __init__(self, vast: bool) -> None:
        super().__init__()
        self.vast = vast

    def __repr__(self) -> str:
        return "SIGNATURES"


# --- messages -------------------------------------------------------------------------------------

_TYPED_FIELDS = (
    "float_val", "double_val", "int_val", "string_val", "scomplex_val", "int64_val", "bool_val",
    "dcomplex_val", "half_val", "uint32_val", "uint64_val",
)  # fmt: skip
_MOST_VALUES = 2000

_chances = {sides: st.integers(0, sides - 1).map((0).__eq__) for sides in (2, 3, 4, 6, 10, 20, 40)}
"""Dice: one in so many comes out True, and so does the simplest example."""

_names = st.one_of(
    st.sampled_from(["", "x", "serving_default", "no", "a" * 3000, "\0", "n\u00e9", "\U0001f600"]),
    st.text(max_size=8),
)
_sizes = st.one_of(
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(-2, 20),
    st.sampled_from([-(2**63), -1, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**61, 2**62, 2**63 - 1]),
)
_ranks = st.one_of(st.integers(0, 8), st.integers(0, 8), st.sampled_from([9, 32, 33, 64, 65, 254, 255, 300]))
_dimensions = st.one_of(
    st.lists(_sizes, max_size=5),
    st.lists(st.integers(0, 3), max_size=6),
    st.tuples(_ranks, _sizes).map(lambda pair: [*[1] * pair[0], pair[1]]),
)
_data_types = st.one_of(
    st.sampled_from([int(data_type) for data_type in DataType]),
    st.integers(-2, 140),
    st.sampled_from([2**31 - 1, -(2**31)]),
)
_numbers = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1, 2**32 - 1])
)
_values_of_fields = st.one_of(_numbers, st.floats(), st.binary(max_size=30))
_wrong_fields = st.lists(st.sampled_from(_TYPED_FIELDS), max_size=3)
_few = st.integers(0, 4)
_short_bytes = st.binary(max_size=16)
_off_by = st.sampled_from([0, 0, 0, 0, -1, 1, 8])
_versions = st.sampled_from([0, 1, 2, -1, 2**63 - 1, -(2**63)])
_producers = st.sampled_from([0, 0, 0, 1, -1, 2**31 - 1])


def _fill_field(tensor: Any, field: str, value: object, count: int) -> None:
    """Put *count* times *value*, or what fits there, into *field*."""
    container = getattr(tensor, field)
    if field == "string_val":
        fitting: Any = value if isinstance(value, bytes) else str(value).encode()
    elif field == "bool_val":
        fitting = bool(value)
    else:
        fitting = 0 if isinstance(value, bytes) else value
    try:
        container.extend([fitting] * count)
    except (ValueError, TypeError, OverflowError):
        container.extend([1] * count)


@st.composite
def _shapes(draw: st.DrawFn, spec: TensorSpec | None) -> list[int]:
    if spec is None or spec.shape is None or draw(_chances[4]):
        return draw(_dimensions)
    fitting = [draw(_few) if size is None else size for size in spec.shape]
    change = draw(st.integers(-8, 2))
    if change == 0 and fitting:
        fitting[draw(st.integers(0, len(fitting) - 1))] = draw(_sizes)
    elif change == 1:
        fitting.insert(draw(st.integers(0, len(fitting))), draw(_sizes))
    elif change == 2 and fitting:
        del fitting[draw(st.integers(0, len(fitting) - 1))]
    return fitting


@st.composite
def _tensors(draw: st.DrawFn, spec: TensorSpec | None, vast: bool) -> Any:
    tensor = messages.TensorProto()
    data_type = draw(_data_types) if spec is None or draw(_chances[10]) else spec.data_type
    tensor.dtype = data_type
    dimensions = draw(_shapes(spec))
    if 0 in dimensions and not vast:
        dimensions = [min(size, 64) for size in dimensions]
    for size in dimensions:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(_chances[40])
    tensor.version_number = draw(_producers)
    elements = 1
    for size in dimensions:
        elements = min(elements * max(size, 0), _MOST_VALUES)
    element = find_element_type(data_type)
    place = draw(st.integers(0, 9))
    if place < 5 and element is not None and element.field in _TYPED_FIELDS:
        count = draw(_few) if draw(_chances[3]) else max(0, elements + draw(_off_by))
        _fill_field(tensor, element.field, draw(_values_of_fields), count)
    elif place < 8:
        width = 1 if element is None else element.numpy.itemsize
        nbytes = max(0, elements * width + draw(_off_by))
        pattern = draw(_short_bytes) or b"\0"
        tensor.tensor_content = (pattern * (nbytes // len(pattern) + 1))[:nbytes]
    if place == 8 or draw(_chances[10]):
        for field in draw(_wrong_fields):
            _fill_field(tensor, field, draw(_values_of_fields), draw(_few))
    if element is not None and element.field == "float8_val" and draw(_chances[2]):
        tensor.float8_val = draw(_short_bytes)
    return tensor


@st.composite
def _specs(draw: st.DrawFn, signatures: Signatures) -> tuple[Any, Signature]:
    """Return a ModelSpec, and the signature that most of them name."""
    spec = messages.ModelSpec()
    name = draw(st.sampled_from(sorted(signatures)))
    key = draw(st.sampled_from(sorted(signatures[name])))
    spec.name = draw(_names) if draw(_chances[40]) else name
    spec.signature_name = draw(_names) if draw(_chances[40]) else key
    choice = draw(st.integers(-20, 2))
    if choice == 0:
        spec.version.value = draw(_versions)
    elif choice == 1:
        spec.version_label = draw(_names)
    elif choice == 2:
        spec.version.SetInParent()
    return spec, signatures[name][key]


@st.composite
def _predict_messages(draw: st.DrawFn, signatures: Signatures) -> bytes:
    request = messages.PredictRequest()
    spec, signature = draw(_specs(signatures))
    if not draw(_chances[40]):
        request.model_spec.CopyFrom(spec)
    inputs: dict[str, TensorSpec | None] = dict(signature.inputs)
    change = draw(st.integers(-20, 1))
    if change == 0:
        inputs[draw(_names)] = None
    elif change == 1 and inputs:
        del inputs[draw(st.sampled_from(sorted(inputs)))]
    for alias, tensor_spec in inputs.items():
        request.inputs[alias].CopyFrom(draw(_tensors(tensor_spec, signatures.vast)))
    if draw(_chances[6]):
        known = sorted(signature.outputs)
        of = _names if not known or draw(_chances[4]) else st.sampled_from(known)
        request.output_filter.extend(draw(st.lists(of, max_size=4)))
    serialized: bytes = request.SerializeToString()
    if draw(_chances[20]):
        # The second part merges into the first: map keys that stand there twice, fields given again.
        serialized += draw(_predict_messages(signatures))
    return serialized


@st.composite
def _unknown_fields(draw: st.DrawFn) -> bytes:
    number = draw(st.sampled_from([1, 2, 3, 4, 15, 16, 100, 2**29 - 1]))
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return encode_varint(number << 3) + encode_varint(draw(st.integers(0, 2**70)))
    if kind == 1:
        return encode_varint(number << 3 | 1) + draw(st.binary(min_size=7, max_size=8))
    if kind == 2:
        return encode_varint(number << 3 | 5) + draw(st.binary(min_size=3, max_size=4))
    if kind == 3:
        depth = draw(st.sampled_from([1, 3, 99, 101, 5000]))
        return encode_varint(number << 3 | 3) * depth + encode_varint(number << 3 | 4) * depth
    if kind == 4:
        inner = b""
        for _ in range(draw(st.sampled_from([1, 50, 99, 101, 600]))):
            inner = encode_length_delimited_header(number, len(inner)) + inner
        return inner
    if kind == 5:
        return encode_length_delimited_header(number, draw(st.sampled_from([2**31 - 1, 2**31, 2**35, 2**63])))
    body = draw(_short_bytes)
    return encode_length_delimited_header(number, len(body)) + body


@st.composite
def _mutated(draw: st.DrawFn, valid: SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([1, 1, 1, 2, 5, 40, 400])))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            data[start:stop] = b""
        elif kind == 1:
            data[start:start] = draw(st.binary(min_size=1, max_size=6))
        elif kind == 2:
            data[stop:stop] = data[start:stop]
        elif kind == 3:
            del data[start:]
        elif kind == 4:
            data[start:start] = draw(_unknown_fields())
        elif start < len(data):
            data[start] = (
                data[start] ^ 1 << draw(st.integers(0, 7)) if kind < 8 else draw(st.integers(0, 255))
            )
    return bytes(data)


@st.composite
def _mostly(draw: st.DrawFn, valid: SearchStrategy[bytes]) -> bytes:
    """Return messages three times out of four, else what is left of them."""
    choice = draw(st.integers(-14, 5))
    if choice < 1:
        return draw(valid)
    if choice < 4:
        return draw(_mutated(valid))
    return draw(valid) + draw(_unknown_fields()) if choice == 4 else draw(st.binary(max_size=200))


def predict_requests(signatures: Signatures) -> SearchStrategy[bytes]:
    """Return a strategy for the bytes of a PredictRequest, most of them valid as a message."""
    return _mostly(_predict_messages(signatures))


@st.composite
def _metadata_messages(draw: st.DrawFn, signatures: Signatures) -> bytes:
    request = messages.GetModelMetadataRequest()
    if not draw(_chances[10]):
        request.model_spec.CopyFrom(draw(_specs(signatures))[0])
    request.metadata_field.extend(draw(st.lists(st.one_of(st.just("signature_def"), _names), max_size=3)))
    serialized: bytes = request.SerializeToString()
    return serialized


def metadata_requests(signatures: Signatures) -> SearchStrategy[bytes]:
    """Return a strategy for the bytes of a GetModelMetadataRequest, most of them valid as a message."""
    return _mostly(_metadata_messages(signatures))


# --- values of a Python caller --------------------------------------------------------------------

_DTYPES = [
    "'?'", "'i1'", "'u1'", "'<i2'", "'>i2'", "'<i4'", "'>i4'", "'<u4'", "'<i8'", "'>i8'", "'<u8'", "'<f2'",
    "'<f4'", "'>f4'", "'<f8'", "'>f8'", "'g'", "'<c8'", "'>c8'", "'<c16'", "'G'", "'S3'", "'U3'", "'>U3'",
    "'M8[s]'", "'m8[ns]'", "'V5'", "'O'", "[('a', 'i4')]", "[('qint8', 'i1')]",
    "[('a', 'f4', (2,)), ('b', 'O')]", "'f4,f4'", "ml_dtypes.bfloat16", "ml_dtypes.float8_e4m3fn",
    "ml_dtypes.float8_e5m2", "ml_dtypes.int4", "ml_dtypes.uint2", "ml_dtypes.float4_e2m1fn", "string_dtype",
]  # fmt: skip

_SCALARS = [
    "0", "1", "-1", "2.5", "True", "None", "2**31", "2**63", "2**64", "-2**63 - 1", "10**400", "10**5000",
    "1e400", "float('nan')", "float('inf')", "1j", "b''", "b'a\\0b'", "b'\\xff'", "'text'", "'\\udcff'",
    "'a\\0'", "'\\U0001f600'", "b'x' * 100_000", "{}", "{1: 2}", "{1, 2}", "object()", "object", "...",
    "Fraction(1, 3)", "range(3)", "slice(3)", "np.float32('nan')", "np.int64(7)", "np.uint64(2**64 - 1)",
    "np.str_('s')", "np.bytes_(b's')", "np.datetime64('now')", "np.bool_(True)", "np.longdouble(1)",
    "np.void(b'abc')", "ml_dtypes.bfloat16(1)", "bytearray(b'ab')", "memoryview(b'abcd')",
    "array('f', [1, 2])", "iter([1])", "(value for value in [1])", "lambda: 1",
]  # fmt: skip

_SHAPES = [
    "()", "(0,)", "(1,)", "(2,)", "(3,)", "(2, 3)", "(3, 2)", "(1, 28, 28, 1)", "(0, 28, 28, 1)",
    "(1, 28, 28, 2)", "(0, 2**40)", "(2**20, 0, 2**20)", "(1,) * 30", "(1,) * 64", "(2, 2, 2)", "(28, 28)",
]  # fmt: skip
_HUGE_SHAPES = ["(2**40,)", "(2**50,)", "(2**60,)", "(2**62,)", "(2**40, 3)", "(2**20, 2**20)"]
_DEPTHS = [1, 2, 31, 32, 33, 64, 65, 500, 2000]


def _array_sources() -> SearchStrategy[str]:
    dtype = st.sampled_from(_DTYPES)
    shape = st.sampled_from(_SHAPES)
    plain = st.builds("np.zeros({}, {})".format, shape, dtype)
    full = st.builds("np.full({}, {}, object)".format, shape, st.sampled_from(_SCALARS))
    repeated = st.sampled_from([*_SHAPES, *_HUGE_SHAPES])
    some = st.one_of(plain, full)
    return st.one_of(
        plain,
        full,
        st.builds("np.broadcast_to(np.zeros((), {}), {})".format, dtype, repeated),
        st.builds("{}.T".format, some),
        st.builds("np.repeat({}, 4)[::-2]".format, some),
        st.builds("np.lib.stride_tricks.as_strided(np.zeros(9, {}), (3,), (0,))".format, dtype),
        st.builds("np.asfortranarray({})".format, some),
        st.builds("{}.view(Subclass)".format, some),
        st.builds("np.ma.masked_array({}, False)".format, some),
        st.builds("np.asmatrix(np.zeros((2, 3), {}))".format, dtype),
        st.builds("np.rec.array([(1, 2.0)] * {})".format, st.integers(1, 3)),
        st.builds("mapped(np.zeros({}, '<f4'))".format, st.sampled_from(["(1,)", "(3,)", "(1, 28, 28, 1)"])),
    )


def _list_source(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def _value_sources() -> SearchStrategy[str]:
    scalars = st.sampled_from(_SCALARS)
    arrays = _array_sources()
    leaves = st.one_of(scalars, arrays)
    flat = st.lists(leaves, max_size=3).map(_list_source)
    lists = st.lists(st.one_of(leaves, flat), max_size=3).map(_list_source)
    deep = st.builds("nested({}, {})".format, scalars, st.sampled_from(_DEPTHS))
    return st.one_of(scalars, arrays, arrays, lists, deep)


_values = _value_sources()


@st.composite
def calls(draw: st.DrawFn, signatures: Signatures) -> str:
    """Return a Python expression: the arguments and options of one ``server.predict``."""
    model = draw(st.sampled_from(sorted(signatures)))
    key = draw(st.sampled_from(sorted(signatures[model])))
    aliases = list(signatures[model][key].inputs)
    if draw(_chances[20]):
        aliases.append(draw(_names))
    values = [f"{alias!r}: {draw(_values)}" for alias in aliases]
    options = [f"'signature': {key!r}", "'timeout': 60.0"]
    if draw(_chances[10]):
        options.append(f"'output_filter': {draw(st.lists(_names, max_size=2))!r}")
    if draw(_chances[20]):
        options.append(f"'version': {draw(st.sampled_from(['0', '1', '-1', '2**70', '2**63 - 1']))}")
    if draw(_chances[20]):
        options.append(f"'label': {draw(_names)!r}")
    return f"(({model!r}, {{{', '.join(values)}}}), {{{', '.join(options)}}})"
