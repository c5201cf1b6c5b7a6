"""What is known of tensors while a graph is read for whether it keeps rows apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from inserve.protos import messages
from inserve.tensors.dtypes import DataType

__all__ = [
    "FLOATS",
    "INTEGERS",
    "SAME_BITS_TYPES",
    "Constant",
    "Dimensions",
    "Known",
    "Operation",
    "Rows",
    "Rule",
    "Sizes",
    "Table",
    "UnprovenError",
    "Variable",
    "are_constants",
    "constant_of",
    "equal_inner",
    "equal_size",
    "full_sizes",
    "integer_of",
    "integers_of",
    "require_scalars",
    "require_usual_kernels",
    "rows_of",
    "rows_of_one_rank",
    "shape_of",
    "sizes_of",
    "values_of",
]

Sizes: TypeAlias = "tuple[int | None, ...]"

FLOATS = frozenset({DataType.DT_FLOAT, DataType.DT_DOUBLE})
INTEGERS = frozenset(
    {
        *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
        *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
    }
)
SAME_BITS_TYPES = FLOATS | INTEGERS | {DataType.DT_BOOL, DataType.DT_STRING}
"""The element types that rules hold for."""

_HANDLED_TYPES = SAME_BITS_TYPES | {DataType.DT_RESOURCE}
_OTHER_KERNELS = ("_Xla", "_xla", "_tpu", "_kernel", "api_implements")
"""First letters of attributes by which a compiler, another kernel or another function may compute."""

_MOST_OUTPUTS = 1024
_MOST_DIMENSIONS = 64


class UnprovenError(Exception):
    """The graph is not row-wise, or not in a way that is known here."""


@dataclass(frozen=True)
class Rows:
    """A tensor ``[N, *inner]``, where N is the number of rows of the run."""

    inner: Sizes
    """None for a dimension of any size."""

    @property
    def rank(self) -> int:
        return 1 + len(self.inner)

    def axis(self, axis: int, added: int = 0) -> int:
        """Return *axis* counted from the front, with *added* dimensions more.

        Raises:
            UnprovenError: It is the dimension of the rows, or none.
        """
        rank = self.rank + added
        resolved = axis + rank if axis < 0 else axis
        if not 1 <= resolved < rank:
            raise UnprovenError
        return resolved


@dataclass(frozen=True)
class Constant:
    """A tensor that is the same in every run, as long as nobody assigns to a variable."""

    shape: tuple[int, ...] | None
    """None where it is not known."""
    values: tuple[Any, ...] | None = None
    """The numbers one after the other, where they are few and written in the graph."""


@dataclass(frozen=True)
class Variable:
    """The handle of a variable."""

    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Table:
    """The handle of a table whose keys and values are scalars."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes out of the shape of a tensor with rows: integers, one or a list of them."""

    sizes: Sizes
    """None for the number of rows."""
    is_scalar: bool = False


Known: TypeAlias = "Rows | Constant | Variable | Table | Dimensions"


class Operation:
    """The attributes of one node, each asked for with the kind it must have."""

    def __init__(self, node: messages.NodeDef) -> None:
        self._attributes: Mapping[str, messages.AttrValue] = node.attr

    def _get(self, name: str, kind: str, default: Any) -> Any:
        value = self._attributes.get(name)
        if value is None and default is not None:
            return default
        if value is None or value.WhichOneof("value") != kind:
            raise UnprovenError
        return getattr(value, kind)

    def data_type(self, name: str = "T", default: int | None = None) -> int:
        return int(self._get(name, "type", default))

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._get(name, "i", default))

    def count(self, name: str) -> int:
        """Return the number of outputs that the attribute *name* states, if it is a sensible one."""
        count = self.integer(name)
        if not 0 <= count <= _MOST_OUTPUTS:
            raise UnprovenError
        return count

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._get(name, "b", default))

    def text(self, name: str, default: bytes) -> bytes:
        return bytes(self._get(name, "s", default))

    def tensor(self, name: str) -> messages.TensorProto:
        tensor: messages.TensorProto = self._get(name, "tensor", None)
        return tensor

    def list_of(self, name: str) -> messages.AttrValue.ListValue:
        """Return the list *name*, empty where there is none."""
        listed: messages.AttrValue.ListValue = self._get(name, "list", messages.AttrValue.ListValue())
        return listed

    def shape(self, name: str) -> Sizes | None:
        return sizes_of(self._get(name, "shape", None))


def require_usual_kernels(attributes: Mapping[str, messages.AttrValue]) -> None:
    """Refuse types that no rule holds for, and what something other than the usual kernels may compute."""
    for name, value in attributes.items():
        kind = value.WhichOneof("value")
        if kind == "type":
            types: Sequence[int] = (value.type,)
        elif kind == "list":
            types = value.list.type
        elif kind == "placeholder":
            raise UnprovenError
        else:
            types = ()
        if types and not _HANDLED_TYPES.issuperset(types):
            raise UnprovenError
        if name.startswith(_OTHER_KERNELS) and not (kind == "b" and not value.b):
            raise UnprovenError


Rule: TypeAlias = Callable[[Operation, Sequence[Known]], "tuple[Known, ...]"]


def sizes_of(shape: messages.TensorShapeProto) -> Sizes | None:
    if shape.unknown_rank:
        return None
    if len(shape.dim) > _MOST_DIMENSIONS:
        raise UnprovenError
    return tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)


def full_sizes(sizes: Sizes | None) -> tuple[int, ...] | None:
    """Return the sizes where each is known, else None."""
    if sizes is None:
        return None
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def rows_of(known: Known) -> Rows:
    if not isinstance(known, Rows):
        raise UnprovenError
    return known


def constant_of(known: Known) -> Constant:
    if not isinstance(known, Constant):
        raise UnprovenError
    return known


def shape_of(known: Known) -> tuple[int, ...]:
    shape = constant_of(known).shape
    if shape is None:
        raise UnprovenError
    return shape


def values_of(known: Known) -> tuple[Any, ...]:
    values = constant_of(known).values
    if values is None:
        raise UnprovenError
    return values


def integers_of(known: Known) -> tuple[int, ...]:
    return tuple(int(value) for value in values_of(known))


def integer_of(known: Known) -> int:
    (value,) = integers_of(known)
    return value


def are_constants(inputs: Sequence[Known]) -> bool:
    return all(isinstance(known, Constant) for known in inputs)


def require_scalars(inputs: Sequence[Known]) -> None:
    if any(shape_of(known) != () for known in inputs):
        raise UnprovenError


def rows_of_one_rank(inputs: Sequence[Known]) -> list[Rows]:
    rows = [rows_of(known) for known in inputs]
    if len({one.rank for one in rows}) != 1:
        raise UnprovenError
    return rows


def equal_size(sizes: Sequence[int | None]) -> int | None:
    """Return the size of dimensions that must be equal for the operation to succeed."""
    return next((size for size in sizes if size is not None), None)


def equal_inner(rows: Sequence[Rows]) -> Sizes:
    return tuple(equal_size(sizes) for sizes in zip(*(one.inner for one in rows), strict=True))
