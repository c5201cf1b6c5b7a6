"""The JSON body of a Predict request, and of its answer.

A body is parsed first and bound to a signature later, when the model is known: an error of the document comes
before one of the model, and which kind of tensor a value is only the signature says.

Source: TensorFlow Serving, ``util/json_tensor.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InserveError, InvalidArgumentError
from inserve.tensors.flat_tensor import shaped
from inserve.tensors.json_dense import MIN_BYTES, DenseList, load_with_dense_lists
from inserve.tensors.json_document import load_document, members, parse_document
from inserve.tensors.json_dump import dump
from inserve.tensors.json_response import (
    encode_plain_response,
    encode_plain_row,
    encode_predict_response,
)
from inserve.tensors.json_values import (
    TooManyDimensionsError,
    convert_plain,
    fill_tensor,
    first_element_shape,
    is_b64_object,
    to_array,
)
from inserve.tensors.tensor_shape import MAX_DIMENSIONS

__all__ = [
    "PredictBody",
    "bind_rows_together",
    "encode_plain_response",
    "encode_plain_row",
    "encode_predict_response",
    "parse_predict_body",
    "read_signature_name",
]


class PredictBody:
    """A parsed body, without a look at its tensors yet."""

    signature_name = ""
    """Empty where the body names none."""

    _body: bytes | None = None  # where the document holds dense lists
    _types: Mapping[str, int] | None = None
    _arrays: dict[str, NDArray[Any]]

    def __init__(self, document: dict[str, Any], body: bytes | None = None) -> None:
        self._document = document
        if body is not None:
            self._body = body
        if "signature_name" in document:
            self.signature_name = read_signature_name(document)
        self.is_row = "instances" in document
        """Whether the tensors come row by row, and the answer shall; False without any."""

    def bind(self, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Return the arrays of the inputs by alias.

        *data_types* are the ``DataType`` numbers of the signature's inputs by alias, at least one; asked
        again with the same mapping, this returns the same arrays. The arrays have the dtypes of the table
        in ``dtypes``. Where the first instance is a b64 object, only one of several inputs is returned, as
        TensorFlow Serving feeds only one then.

        Raises:
            InvalidArgumentError: The body does not fit the signature; the text is TensorFlow Serving's.
            UnimplementedError: JSON knows no values of such a type.
        """
        if data_types is self._types:
            return self._arrays
        document = self._document
        arrays = None
        if self.is_row:
            if "inputs" not in document:
                arrays = _bind_plain_rows(document["instances"], data_types)
        elif "inputs" in document:
            arrays = _bind_plain_columns(document["inputs"], data_types)
        if arrays is None:
            arrays = _bind(self._exact_document(), data_types)
        self._arrays = arrays
        self._types = data_types
        return arrays

    def _exact_document(self) -> dict[str, Any]:
        """Return the document with all its values."""
        if self._body is not None:
            self._document, self._body = parse_document(self._body), None
        return self._document


def parse_predict_body(body: bytes) -> PredictBody:
    """Return the body of a Predict request.

    Raises:
        InvalidArgumentError: It is no JSON object, or ``signature_name`` is no string.
    """
    if len(body) >= MIN_BYTES:
        document = load_with_dense_lists(body)
        if document is not None and isinstance(document.get("signature_name", ""), str):
            return PredictBody(document, body)
    document = load_document(body)
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"JSON Value: {dump(document)} Is not object")
    return PredictBody(document)


def read_signature_name(document: dict[str, Any]) -> str:
    """Return ``signature_name`` of a document, empty where it has none.

    Raises:
        InvalidArgumentError: It is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidArgumentError(
            f"JSON Value: {dump(document)} not formatted correctly."
            " 'signature_name' key must be a string value."
        )
    return name


def bind_rows_together(
    bodies: Sequence[bytes], data_types: Mapping[str, int]
) -> tuple[dict[str, NDArray[Any]], list[int]] | None:
    """Return the rows of several bodies one behind the other, by alias, and how many each of them has.

    The rows are those that ``PredictBody.bind`` returns for each body. None unless all of them hold nothing
    but ``instances``, a list of the same kind, for the only input there is.
    """
    if len(data_types) != 1:
        return None
    [(alias, data_type)] = data_types.items()
    parts: list[Any] = []
    for body in bodies:
        try:
            document = parse_predict_body(body)._document
            parts.append(document["instances"])
        except (InvalidArgumentError, KeyError):
            return None
        if len(document) != 1:
            return None
    kinds = set(map(type, parts))
    if kinds == {list}:
        if not all(parts):
            return None
        rows = list(map(len, parts))
        array = convert_plain([row for part in parts for row in part], data_type)
    elif kinds == {DenseList}:
        rows = [part.shape[0] for part in parts]
        array = _convert_joined(parts, data_type)
    else:
        return None
    return None if array is None else ({alias: array}, rows)


# --- what well-behaved clients send: None means that the general way must look --------------------


def _bind_plain_rows(instances: Any, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]] | None:
    if type(instances) is not list:
        return _one_plain(instances, data_types) if type(instances) is DenseList else None
    if not instances:
        return None
    if type(instances[0]) is not dict or is_b64_object(instances[0]):
        return _one_plain(instances, data_types)
    if "b64" in data_types or set(map(type, instances)) != {dict}:
        return None
    if set(map(len, instances)) != {len(data_types)}:
        return None
    arrays = {}
    for alias, data_type in data_types.items():
        try:
            column = [row[alias] for row in instances]
        except KeyError:
            return None
        array = _convert_column(column, data_type)
        if array is None:
            return None
        arrays[alias] = array
    return arrays


def _bind_plain_columns(inputs: Any, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]] | None:
    if not isinstance(inputs, dict) or is_b64_object(inputs):
        return _one_plain(inputs, data_types)
    arrays = {}
    for alias, data_type in data_types.items():
        array = _convert(inputs[alias], data_type) if alias in inputs else None
        if array is None:
            return None
        arrays[alias] = array
    return arrays


def _one_plain(value: Any, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]] | None:
    if len(data_types) != 1:
        return None
    [(alias, data_type)] = data_types.items()
    array = convert_plain(value, data_type) if type(value) is list else _convert(value, data_type)
    return None if array is None else {alias: array}


def _convert(value: Any, data_type: int) -> NDArray[Any] | None:
    if type(value) is not DenseList:
        return convert_plain(value, data_type)
    array = value.convert(data_type)
    return None if array is None else shaped(array, value.shape)


def _convert_column(column: list[Any], data_type: int) -> NDArray[Any] | None:
    if DenseList not in set(map(type, column)):
        return convert_plain(column, data_type)
    rows = []
    for value in column:
        if type(value) is not DenseList or value.shape != column[0].shape:
            return None
        row = value.convert(data_type)
        if row is None:
            return None
        rows.append(row)
    shape = (len(column), *column[0].shape)
    return shaped(np.concatenate(rows), shape) if len(shape) <= MAX_DIMENSIONS else None


def _convert_joined(lists: list[DenseList], data_type: int) -> NDArray[Any] | None:
    inner = lists[0].shape[1:]
    pieces = []
    for dense in lists:
        piece = dense.convert(data_type)
        if piece is None or dense.shape[1:] != inner:
            return None
        pieces.append(piece)
    return shaped(np.concatenate(pieces), (sum(dense.shape[0] for dense in lists), *inner))


# --- anything -------------------------------------------------------------------------------------


def _bind(document: dict[str, Any], data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    if "instances" in document:
        if "inputs" in document:
            raise InvalidArgumentError(
                f"JSON Value: {dump(document)} Not formatted correctly expecting only one of"
                " 'inputs' or 'instances' keys to exist "
            )
        return _bind_rows(document, data_types)
    if "inputs" not in document:
        raise InvalidArgumentError("Missing 'inputs' or 'instances' key")
    return _bind_columns(document["inputs"], data_types)


def _bind_columns(inputs: Any, data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    if isinstance(inputs, dict) and not is_b64_object(inputs):
        arrays = {}
        for alias, data_type in data_types.items():
            if alias not in inputs:
                raise InvalidArgumentError(f"Missing named input: {alias} in 'inputs' object.")
            arrays[alias] = _whole_tensor(alias, inputs[alias], data_type)
        return arrays
    if len(data_types) > 1:
        raise InvalidArgumentError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required"
            " as per tensorinfo_map"
        )
    return {alias: _whole_tensor(alias, inputs, data_type) for alias, data_type in data_types.items()}


def _whole_tensor(alias: str, value: Any, data_type: int) -> NDArray[Any]:
    try:
        shape = first_element_shape(value)
        elements = fill_tensor(value, shape, data_type)
    except TooManyDimensionsError:
        raise _too_many_dimensions(alias) from None
    return _tensor(alias, elements, shape, data_type)


def _tensor(alias: str, elements: list[Any], shape: tuple[int, ...], data_type: int) -> NDArray[Any]:
    if len(shape) > MAX_DIMENSIONS:
        raise _too_many_dimensions(alias)
    return shaped(to_array(elements, data_type), shape)


def _too_many_dimensions(alias: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"tensor parsing error: {alias}")


class _Rows:
    """The rows of one input so far."""

    def __init__(self, alias: str, data_type: int) -> None:
        self._alias = alias
        self._data_type = data_type
        self._elements: list[Any] = []
        self._size = -1
        self._shape: tuple[int, ...] = ()

    def append(self, value: Any) -> None:
        """Add the row *value*.

        Raises:
            InserveError: It is no tensor of the type, or not of the size and shape of the first row.
        """
        try:
            shape = first_element_shape(value)
            elements = fill_tensor(value, shape, self._data_type)
        except TooManyDimensionsError:
            raise _TooDeepRowError(self._alias) from None
        if self._size < 0:
            self._size, self._shape = len(elements), shape
        elif len(elements) != self._size:
            raise InvalidArgumentError(f"Expecting tensor size: {self._size} but got: {len(elements)}")
        elif shape != self._shape:
            raise InvalidArgumentError(f"Expecting shape {_text(self._shape)} but got: {_text(shape)}")
        self._elements += elements

    def tensor(self, rows: int) -> NDArray[Any]:
        """Return the tensor ``[rows, ...]``. Of a name written twice in a row, surplus values are dropped."""
        return _tensor(
            self._alias, self._elements[: rows * self._size], (rows, *self._shape), self._data_type
        )


class _TooDeepRowError(Exception):
    """A row is nested too deep; the text is the alias."""


def _text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _bind_rows(document: dict[str, Any], data_types: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    instances = document["instances"]
    if not isinstance(instances, list):
        raise InvalidArgumentError(f"JSON Value: {dump(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise InvalidArgumentError(f"JSON Value: {dump(document)} No values in 'instances' array")
    if len(data_types) > 1 and not isinstance(instances[0], dict):
        raise InvalidArgumentError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required"
            " as per tensorinfo_map"
        )
    inputs = {alias: _Rows(alias, data_type) for alias, data_type in data_types.items()}
    try:
        if _is_row_object(instances[0]):
            _append_objects(instances, inputs)
        else:
            alias = next(iter(inputs))
            inputs = {alias: inputs[alias]}
            _append_values(instances, inputs[alias])
    except _TooDeepRowError as error:
        raise _too_many_dimensions(str(error)) from None
    return {alias: rows.tensor(len(instances)) for alias, rows in inputs.items()}


def _is_row_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_b64_object(value)


def _append_values(instances: list[Any], rows: _Rows) -> None:
    for index, value in enumerate(instances):
        if _is_row_object(value):
            raise InvalidArgumentError(f"Expecting value/list but got object at item {index} of input list")
        _append(value, rows, f"{index}")


def _append_objects(instances: list[Any], inputs: Mapping[str, _Rows]) -> None:
    for index, row in enumerate(instances):
        if not _is_row_object(row):
            raise InvalidArgumentError(f"Expecting object but got list at item {index} of input list")
        for name, value in members(row):
            if name not in inputs:
                raise InvalidArgumentError(
                    f"Failed to process element: {index} key: {name} of 'instances' list."
                    f" Error: INVALID_ARGUMENT: JSON object: does not have named input: {name}"
                )
            _append(value, inputs[name], f"{index} key: {name}")
        if len(row) != len(inputs):
            raise InvalidArgumentError(
                f"Failed to process element: {index} of 'instances' list. JSON object: {dump(row)}"
                f" keys must be equal to: {','.join(sorted(inputs))}"
            )


def _append(value: Any, rows: _Rows, place: str) -> None:
    try:
        rows.append(value)
    except InserveError as error:
        raise InvalidArgumentError(
            f"Failed to process element: {place} of 'instances' list."
            f" Error: {error.code.name}: {error.message}"
        ) from None
