"""What a ``model.tflite`` says of itself: subgraphs, their inputs and outputs, signatures, operations.

Slots and numbers: TensorFlow Lite's ``schema.fbs``. LiteRT verifies the structure of a file itself; the
numbers that it follows unchecked are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from inserve.errors import InvalidArgumentError
from inserve.tensors.dtypes import DataType
from inserve.tflite.flatbuffer import FlatBuffer, Table

__all__ = ["Subgraph", "TableSignature", "TfliteFile", "TfliteTensor", "parse_tflite_file"]

_IDENTIFIER = b"TFL3"

_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_MODEL_METADATA, _MODEL_SIGNATURE_DEFS = 6, 7
_CODE_DEPRECATED_BUILTIN, _CODE_CUSTOM, _CODE_BUILTIN = 0, 1, 3
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 1, 2, 3
_TENSOR_QUANTIZATION, _TENSOR_SHAPE_SIGNATURE = 4, 7
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO_POINT = 2, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_INTERMEDIATES = 0, 1, 2, 8
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_KEY, _SIGNATURE_SUBGRAPH = 0, 1, 2, 4
_TENSOR_MAP_NAME, _TENSOR_MAP_INDEX = 0, 1

_TENSOR_IS_VARIABLE = 5
_CUSTOM = 32
_KEEPING_STATE = frozenset({144, 146, 148, 149})
"""ASSIGN_VARIABLE, RANDOM_STANDARD_NORMAL, RANDOM_UNIFORM, MULTINOMIAL."""
_ABSENT = -1
"""The index of an optional tensor that is left out."""

_DATA_TYPES: Mapping[int, DataType] = {
    0: DataType.DT_FLOAT,
    1: DataType.DT_HALF,
    2: DataType.DT_INT32,
    3: DataType.DT_UINT8,
    4: DataType.DT_INT64,
    5: DataType.DT_STRING,
    6: DataType.DT_BOOL,
    7: DataType.DT_INT16,
    8: DataType.DT_COMPLEX64,
    9: DataType.DT_INT8,
    10: DataType.DT_DOUBLE,
    11: DataType.DT_COMPLEX128,
    12: DataType.DT_UINT64,
    15: DataType.DT_UINT32,
    16: DataType.DT_UINT16,
}
"""``TensorType`` to the type of the arrays that LiteRT takes and gives."""

_WHOLE_NUMBERS: Mapping[int, range] = {
    2: range(-(1 << 31), 1 << 31),
    3: range(256),
    7: range(-(1 << 15), 1 << 15),
    9: range(-128, 128),
    17: range(-8, 8),
    21: range(16),
}
"""The zero points that a quantised ``TensorType`` may have; any other type has 0. LiteRT makes tables with
them and writes past those for others."""


class TfliteTensor(NamedTuple):
    """One tensor of a subgraph."""

    name: str
    data_type: DataType | None
    """None for a type that no array can have."""
    type_number: int
    """The ``TensorType``."""
    shape: tuple[int, ...]
    """-1 for a dimension of any size."""


class Subgraph(NamedTuple):
    """One function of a model; 0 is the main one."""

    tensors: Sequence[TfliteTensor]
    inputs: tuple[int, ...]
    """Indices into ``tensors``, each of them valid."""
    outputs: tuple[int, ...]
    keeps_state: bool
    """Whether it has operations whose result depends on earlier runs."""


class TableSignature(NamedTuple):
    """A signature as today's converter writes it: names of the inputs and outputs of one subgraph."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


class TfliteFile(NamedTuple):
    """A model file, without weights."""

    subgraphs: Sequence[Subgraph]
    signatures: Sequence[TableSignature]
    metadata: Mapping[str, bytes]
    custom_operations: tuple[str, ...]
    """Names of the operations that the model uses and TensorFlow Lite does not define."""


def parse_tflite_file(data: bytes) -> TfliteFile:
    """Return what the bytes of a ``model.tflite`` say.

    Raises:
        InvalidArgumentError: Not such a file, or one that refers to what it does not have.
    """
    model = FlatBuffer(data, _IDENTIFIER).root()
    codes = [_builtin_code(code) for code in model.tables(_MODEL_OPERATOR_CODES)]
    buffers = model.tables(_MODEL_BUFFERS)
    subgraphs = [
        _subgraph(table, number, [code for code, _ in codes], len(buffers))
        for number, table in enumerate(model.tables(_MODEL_SUBGRAPHS))
    ]
    if not subgraphs:
        raise InvalidArgumentError("the model has no subgraph")
    metadata = {}
    for entry in model.tables(_MODEL_METADATA):
        buffer = entry.number(_METADATA_BUFFER, "I")
        if buffer >= len(buffers):
            raise InvalidArgumentError(f"metadata is in buffer {buffer} of {len(buffers)}")
        metadata[entry.text(_METADATA_NAME)] = buffers[buffer].octets(_BUFFER_DATA)
    return TfliteFile(
        subgraphs,
        [_signature(table, subgraphs) for table in model.tables(_MODEL_SIGNATURE_DEFS)],
        metadata,
        tuple(sorted({name for code, name in codes if code == _CUSTOM})),
    )


def _builtin_code(table: Table) -> tuple[int, str]:
    """Return number and custom name of an operation; numbers above 127 are in a field of their own."""
    number = max(table.number(_CODE_DEPRECATED_BUILTIN, "b"), table.number(_CODE_BUILTIN, "i"))
    return number, table.text(_CODE_CUSTOM)


def _subgraph(table: Table, number: int, codes: Sequence[int], num_buffers: int) -> Subgraph:
    where = f"subgraph {number}"
    tensors = []
    keeps_state = False
    for tensor in table.tables(_SUBGRAPH_TENSORS):
        buffer = tensor.number(_TENSOR_BUFFER, "I")
        if buffer >= num_buffers:
            raise InvalidArgumentError(f"a tensor of {where} is in buffer {buffer} of {num_buffers}")
        keeps_state |= bool(tensor.number(_TENSOR_IS_VARIABLE, "B"))
        tensors.append(_tensor(tensor, where))
    inputs = table.numbers(_SUBGRAPH_INPUTS)
    outputs = table.numbers(_SUBGRAPH_OUTPUTS)
    _check_indices(inputs, 0, len(tensors), f"an input of {where}")
    _check_indices(outputs, 0, len(tensors), f"an output of {where}")
    for operator in table.tables(_SUBGRAPH_OPERATORS):
        code = operator.number(_OPERATOR_CODE, "I")
        if code >= len(codes):
            raise InvalidArgumentError(f"an operator of {where} has code {code} of {len(codes)}")
        keeps_state |= codes[code] in _KEEPING_STATE
        what = f"an operator of {where}"
        _check_indices(operator.numbers(_OPERATOR_INPUTS), _ABSENT, len(tensors), what)
        _check_indices(operator.numbers(_OPERATOR_OUTPUTS), _ABSENT, len(tensors), what)
        _check_indices(operator.numbers(_OPERATOR_INTERMEDIATES), _ABSENT, len(tensors), what)
    return Subgraph(tensors, inputs, outputs, keeps_state)


def _tensor(table: Table, where: str) -> TfliteTensor:
    type_number = table.number(_TENSOR_TYPE, "b")
    name = table.text(_TENSOR_NAME)
    allowed = _WHOLE_NUMBERS.get(type_number, range(1))
    for quantization in table.tables_of_field(_TENSOR_QUANTIZATION):
        for scale in quantization.numbers(_QUANTIZATION_SCALE, "f"):
            if not 0 <= scale < inf:
                raise InvalidArgumentError(f"tensor {name} of {where} has the scale {scale}")
        for zero_point in quantization.numbers(_QUANTIZATION_ZERO_POINT, "q"):
            if zero_point not in allowed:
                raise InvalidArgumentError(f"tensor {name} of {where} has the zero point {zero_point}")
    shape = table.numbers(_TENSOR_SHAPE_SIGNATURE) or table.numbers(_TENSOR_SHAPE)
    return TfliteTensor(name, _DATA_TYPES.get(type_number), type_number, shape)


def _signature(table: Table, subgraphs: Sequence[Subgraph]) -> TableSignature:
    key = table.text(_SIGNATURE_KEY)
    number = table.number(_SIGNATURE_SUBGRAPH, "I")
    if number >= len(subgraphs):
        raise InvalidArgumentError(f"signature {key} is subgraph {number} of {len(subgraphs)}")
    subgraph = subgraphs[number]
    return TableSignature(
        key,
        number,
        _tensor_map(table, _SIGNATURE_INPUTS, subgraph.inputs, f"an input of signature {key}"),
        _tensor_map(table, _SIGNATURE_OUTPUTS, subgraph.outputs, f"an output of signature {key}"),
    )


def _tensor_map(table: Table, slot: int, known: Sequence[int], what: str) -> Mapping[str, int]:
    tensors = {}
    for entry in table.tables(slot):
        index = entry.number(_TENSOR_MAP_INDEX, "I")
        if index not in known:
            raise InvalidArgumentError(f"{what} is tensor {index}, which its subgraph does not have there")
        tensors[entry.text(_TENSOR_MAP_NAME)] = index
    return tensors


def _check_indices(indices: Sequence[int], lowest: int, end: int, what: str) -> None:
    if indices and not lowest <= min(indices) <= max(indices) < end:
        wrong = next(index for index in indices if not lowest <= index < end)
        raise InvalidArgumentError(f"{what} is tensor {wrong} of {end}")
