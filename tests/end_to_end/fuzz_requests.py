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
    """Signatures by key, by model; shown by a word, because Hypothesis shows what strategies are made of."""

    def __repr__(self) -> str:
        return "SIGNATURES"


_TYPED_FIELDS = (
    "float_val", "double_val", "int_val", "string_val", "scomplex_val", "int64_val", "bool_val", "dcomplex_val",
    "half_val", "uint32_val", "uint64_val",
)  # fmt: skip
_names = st.one_of(
    st.sampled_from(["", "x", "serving_default", "no", "a" * 3000, "\0", "né", "\U0001f600"]),
    st.text(max_size=8),
)
_sizes = st.one_of(
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(-2, 70),
    st.sampled_from([-(2**63), -1, 2**15, 2**20, 2**26, 2**31 - 1, 2**31, 2**32, 2**61, 2**62, 2**63 - 1]),
)
_dimensions = st.one_of(
    st.lists(_sizes, max_size=5),
    st.lists(st.integers(0, 3), max_size=6),
    st.integers(0, 300).map(lambda rank: [1] * rank),
    st.tuples(st.integers(0, 300), _sizes).map(lambda pair: [1] * pair[0] + [pair[1]]),
)
_data_types = st.one_of(
    st.sampled_from([int(data_type) for data_type in DataType]),
    st.integers(-2, 140),
    st.sampled_from([2**31 - 1, -(2**31)]),
)
_numbers = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1, 2**32 - 1])
)


def _fill_field(tensor: Any, field: str, values: list[Any]) -> None:
    """Put *values* into *field* as far as they fit there."""
    container = getattr(tensor, field)
    for value in values:
        try:
            if field == "string_val":
                container.append(value if isinstance(value, bytes) else str(value).encode())
            elif field == "bool_val":
                container.append(bool(value))
            else:
                container.append(0 if isinstance(value, bytes) else value)
        except (ValueError, TypeError):
            container.append(1)


@st.composite
def _shapes(draw: st.DrawFn, spec: TensorSpec | None) -> list[int]:
    if spec is None or spec.shape is None or draw(st.integers(0, 3)) == 0:
        return draw(_dimensions)
    fitting = [draw(st.integers(0, 3)) if size is None else size for size in spec.shape]
    change = draw(st.integers(0, 5))
    if change == 0 and fitting:
        fitting[draw(st.integers(0, len(fitting) - 1))] = draw(_sizes)
    elif change == 1:
        fitting.insert(draw(st.integers(0, len(fitting))), draw(_sizes))
    elif change == 2 and fitting:
        del fitting[draw(st.integers(0, len(fitting) - 1))]
    return fitting


@st.composite
def _tensors(draw: st.DrawFn, spec: TensorSpec | None) -> Any:
    tensor = messages.TensorProto()
    wrong_type = spec is None or draw(st.integers(0, 4)) == 0
    data_type = draw(_data_types) if wrong_type else spec.data_type  # type: ignore[union-attr]
    tensor.dtype = data_type
    dimensions = draw(_shapes(spec))
    for size in dimensions:
        tensor.tensor_shape.dim.add(size=size)
    if draw(st.integers(0, 20)) == 0:
        tensor.tensor_shape.unknown_rank = True
    tensor.version_number = draw(st.sampled_from([0, 0, 0, 1, -1, 2**31 - 1]))
    elements = 1
    for size in dimensions:
        elements = min(elements * max(size, 0), 1 << 20)
    element = find_element_type(data_type)
    small = min(elements, 4000)
    count = draw(st.one_of(st.just(small), st.just(small), st.integers(0, 5), st.just(small + 1)))
    kind = draw(st.integers(0, 9))
    if kind < 4 and element is not None and element.field in _TYPED_FIELDS:
        value = draw(st.one_of(_numbers, st.floats(), st.binary(max_size=30)))
        _fill_field(tensor, element.field, [value] * count)
    elif kind < 7:
        width = 1 if element is None or element.numpy.itemsize == 0 else element.numpy.itemsize
        nbytes = small * width + draw(st.sampled_from([0, 0, 0, -1, 1, 8]))
        seed = draw(st.binary(max_size=16)) or b"\0"
        tensor.tensor_content = (seed * (max(nbytes, 0) // len(seed) + 1))[: max(nbytes, 0)]
    elif kind == 7:
        tensor.tensor_content = draw(st.binary(max_size=40))
    if kind >= 8 or draw(st.integers(0, 9)) == 0:
        for field in draw(st.lists(st.sampled_from(_TYPED_FIELDS), max_size=3)):
            _fill_field(tensor, field, draw(st.lists(st.one_of(_numbers, st.binary(max_size=5)), max_size=4)))
    if element is not None and element.field == "float8_val" and draw(st.booleans()):
        tensor.float8_val = draw(st.binary(max_size=8))
    return tensor


@st.composite
def _specs(draw: st.DrawFn, signatures: Signatures) -> tuple[Any, Signature | None]:
    """Return a ModelSpec, and the signature it names if there is one."""
    spec = messages.ModelSpec()
    name = draw(st.sampled_from(sorted(signatures)))
    key = draw(st.sampled_from(sorted(signatures[name])))
    spec.name = name if draw(st.integers(0, 30)) else draw(_names)
    spec.signature_name = key if draw(st.integers(0, 20)) else draw(_names)
    choice = draw(st.integers(0, 19))
    if choice == 0:
        spec.version.value = draw(st.sampled_from([0, 1, 2, -1, 2**63 - 1, -(2**63)]))
    elif choice == 1:
        spec.version_label = draw(_names)
    elif choice == 2:
        spec.version.SetInParent()
    return spec, signatures[name][key]


@st.composite
def _predict_messages(draw: st.DrawFn, signatures: Signatures) -> bytes:
    request = messages.PredictRequest()
    if draw(st.integers(0, 40)):
        spec, signature = draw(_specs(signatures))
        request.model_spec.CopyFrom(spec)
    else:
        signature = None
    inputs: dict[str, TensorSpec | None] = dict(signature.inputs) if signature is not None else {}
    change = draw(st.integers(0, 11))
    if change == 0:
        inputs[draw(_names)] = None
    elif change == 1 and inputs:
        del inputs[draw(st.sampled_from(sorted(inputs)))]
    for alias, tensor_spec in inputs.items():
        request.inputs[alias].CopyFrom(draw(_tensors(tensor_spec)))
    if draw(st.integers(0, 3)) == 0:
        known = sorted(signature.outputs) if signature is not None else []
        request.output_filter.extend(
            draw(st.lists(st.sampled_from(known) if known and draw(st.booleans()) else _names, max_size=4))
        )
    serialized: bytes = request.SerializeToString()
    if draw(st.integers(0, 9)) == 0:
        # The second part merges into the first: map keys that stand there twice, fields given again.
        serialized += draw(_predict_messages(signatures))
    return serialized


@st.composite
def _unknown_fields(draw: st.DrawFn) -> bytes:
    number = draw(st.sampled_from([1, 2, 3, 4, 15, 16, 100, 2**29 - 1]))
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return encode_varint(number << 3) + draw(st.binary(max_size=12))
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
        return encode_varint(number << 3 | 2) + encode_varint(
            draw(st.sampled_from([2**31 - 1, 2**31, 2**35, 2**63]))
        )
    body = draw(st.binary(max_size=20))
    return encode_length_delimited_header(number, len(body)) + body


@st.composite
def _mutated(draw: st.DrawFn, valid: SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([1, 1, 1, 2, 5, 40, 400])))
        kind = draw(st.integers(0, 6))
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
            if kind == 5:
                data[start] ^= 1 << draw(st.integers(0, 7))
            else:
                data[start] = draw(st.integers(0, 255))
    return bytes(data)


def predict_requests(signatures: Signatures) -> SearchStrategy[bytes]:
    """Return a strategy for the bytes of a PredictRequest, valid in part."""
    valid = _predict_messages(signatures)
    unknown = st.tuples(valid, _unknown_fields()).map(b"".join)
    return st.one_of(valid, valid, valid, _mutated(valid), _mutated(valid), unknown, st.binary(max_size=200))


@st.composite
def _metadata_messages(draw: st.DrawFn, signatures: Signatures) -> bytes:
    request = messages.GetModelMetadataRequest()
    if draw(st.integers(0, 9)):
        request.model_spec.CopyFrom(draw(_specs(signatures))[0])
    request.metadata_field.extend(draw(st.lists(st.one_of(st.just("signature_def"), _names), max_size=3)))
    serialized: bytes = request.SerializeToString()
    return serialized


def metadata_requests(signatures: Signatures) -> SearchStrategy[bytes]:
    """Return a strategy for the bytes of a GetModelMetadataRequest, valid in part."""
    valid = _metadata_messages(signatures)
    return st.one_of(valid, valid, _mutated(valid), st.binary(max_size=100))


# --- values of a Python caller --------------------------------------------------------------------

_DTYPES = [
    "'?'", "'i1'", "'u1'", "'<i2'", "'>i2'", "'<i4'", "'>i4'", "'<u4'", "'<i8'", "'>i8'", "'<u8'", "'<f2'", "'<f4'",
    "'>f4'", "'<f8'", "'>f8'", "'g'", "'<c8'", "'>c8'", "'<c16'", "'G'", "'S3'", "'U3'", "'>U3'", "'M8[s]'", "'m8[ns]'",
    "'V5'", "'O'", "[('a', 'i4')]", "[('qint8', 'i1')]", "[('a', 'f4', (2,)), ('b', 'O')]", "'f4,f4'",
    "ml_dtypes.bfloat16", "ml_dtypes.float8_e4m3fn", "ml_dtypes.float8_e5m2", "ml_dtypes.int4", "ml_dtypes.uint2",
    "ml_dtypes.float4_e2m1fn", "np.dtypes.StringDType()",
]  # fmt: skip

_SCALARS = [
    "0", "1", "-1", "2.5", "True", "None", "2**31", "2**63", "2**64", "-2**63 - 1", "10**400", "10**5000", "1e400",
    "float('nan')", "float('inf')", "1j", "b''", "b'a\\0b'", "b'\\xff'", "'text'", "'\\udcff'", "'a\\0'", "'\\U0001f600'",
    "b'x' * 100_000", "{}", "{1: 2}", "{1, 2}", "object()", "object", "...", "Fraction(1, 3)", "range(3)", "slice(3)",
    "np.float32('nan')", "np.int64(7)", "np.uint64(2**64 - 1)", "np.str_('s')", "np.bytes_(b's')", "np.datetime64('now')",
    "np.bool_(True)", "np.longdouble(1)", "np.void(b'abc')", "ml_dtypes.bfloat16(1)", "bytearray(b'ab')",
    "memoryview(b'abcd')", "array('f', [1, 2])", "iter([1])", "(value for value in [1])", "lambda: 1",
]  # fmt: skip

_ARRAY_SHAPES = [
    "()", "(0,)", "(1,)", "(2,)", "(3,)", "(2, 3)", "(3, 2)", "(1, 28, 28, 1)", "(0, 28, 28, 1)", "(1, 28, 28, 2)",
    "(0, 2**40)", "(2**20, 0, 2**20)", "(1,) * 30", "(1,) * 64", "(2, 2, 2)", "(28, 28)",
]  # fmt: skip
_HUGE_SHAPES = ["(2**34,)", "(2**40,)", "(2**50,)", "(2**60,)", "(2**62,)", "(2**40, 3)", "(2**20, 2**20)"]


def _arrays() -> SearchStrategy[str]:
    dtype = st.sampled_from(_DTYPES)
    shape = st.sampled_from(_ARRAY_SHAPES)
    plain = st.builds("np.zeros({}, {})".format, shape, dtype)
    full = st.builds("np.full({}, {}, object)".format, shape, st.sampled_from(_SCALARS))
    huge = st.builds(
        "np.broadcast_to(np.zeros((), {}), {})".format,
        dtype,
        st.sampled_from([*_ARRAY_SHAPES, *_HUGE_SHAPES]),
    )
    some = st.one_of(plain, full)
    return st.one_of(
        plain,
        full,
        huge,
        st.builds("{}.T".format, some),
        st.builds("np.repeat({}, 4)[::-2]".format, some),
        st.builds("np.lib.stride_tricks.as_strided(np.zeros(9, {}), (3,), (0,))".format, dtype),
        st.builds("np.asfortranarray({})".format, some),
        st.builds("{}.view(Subclass)".format, some),
        st.builds("np.ma.masked_array({}, True)".format, some),
        st.builds("np.asmatrix(np.zeros((2, 3), {}))".format, dtype),
        st.builds("np.rec.array([(1, 2.0)] * {})".format, st.integers(0, 3)),
        st.builds("mapped(np.zeros({}, '<f4'))".format, st.sampled_from(["(1,)", "(3,)", "(1, 28, 28, 1)"])),
    )


def _values() -> SearchStrategy[str]:
    scalars = st.sampled_from(_SCALARS)
    leaves = st.one_of(scalars, scalars, _arrays())
    lists = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        max_leaves=5,
    )
    deep = st.builds("nested({}, {})".format, scalars, st.sampled_from([1, 2, 31, 32, 33, 64, 65, 500, 2000]))
    return st.one_of(leaves, lists, deep, _arrays())


@st.composite
def calls(draw: st.DrawFn, signatures: Signatures) -> str:
    """Return a Python expression: the arguments and options of one ``server.predict``."""
    model = draw(st.sampled_from(sorted(signatures)))
    key = draw(st.sampled_from(sorted(signatures[model])))
    signature = signatures[model][key]
    aliases = list(signature.inputs)
    if draw(st.integers(0, 15)) == 0:
        aliases.append(draw(_names))
    values = [f"{alias!r}: {draw(_values())}" for alias in aliases]
    options = [f"'signature': {key!r}", "'timeout': 60.0"]
    if draw(st.integers(0, 9)) == 0:
        options.append(f"'output_filter': {draw(st.lists(_names, max_size=2))!r}")
    if draw(st.integers(0, 9)) == 0:
        options.append(f"'version': {draw(st.sampled_from(['0', '1', '-1', '2**70', '2**63 - 1']))}")
    if draw(st.integers(0, 15)) == 0:
        options.append(f"'label': {draw(_names)!r}")
    return f"(({model!r}, {{{', '.join(values)}}}), {{{', '.join(options)}}})"
