"""Signatures: the ways to call a SavedModel, and the checks of what a caller sends.

Order, codes and texts of the checks follow TensorFlow Serving
(``servables/tensorflow/predict_util.cc``); the shape check is ours, because TensorFlow Serving hands
any shape to the kernels and some kernels end the process over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.tensors.dtypes import DataType, data_type_name, element_type_of, find_element_type
from inserve.tensors.tensor_proto import MAX_FILLED_BYTES, HandleTensorError, tensor_from_message

__all__ = ["Signature", "TensorSpec", "parse_signature"]

Source = TypeVar("Source")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature (``tensorflow.TensorInfo``)."""

    alias: str
    """The key callers use."""
    tensor_name: str
    """The tensor of the graph, ``operation:index``; empty for sparse and composite tensors."""
    data_type: int
    """The ``DataType`` number as the signature states it."""
    shape: tuple[int | None, ...] | None
    """None for a dimension of any size; None as a whole for a shape of any rank."""
    dtype: Any = field(init=False, repr=False, compare=False)
    """The NumPy dtype of its arrays, ``object`` for strings; None where no array can hold it."""

    def __post_init__(self) -> None:
        element = find_element_type(self.data_type)
        object.__setattr__(self, "dtype", None if element is None else element.numpy)

    def type_name(self) -> str:
        """Return TensorFlow's text name of the element type."""
        return data_type_name(self.data_type)

    def shape_text(self) -> str:
        """Return the shape as TensorFlow writes it: ``[?,28,28,1]``, or ``<unknown>``."""
        if self.shape is None:
            return "<unknown>"
        return f"[{','.join('?' if size is None else str(size) for size in self.shape)}]"

    def accepts_shape(self, shape: Sequence[int]) -> bool:
        """Return whether *shape* has the stated rank and every stated size."""
        wanted = self.shape
        if wanted is None:
            return True
        return len(wanted) == len(shape) and all(
            want is None or want == size for want, size in zip(wanted, shape, strict=True)
        )


class Signature:
    """One way to call a SavedModel (``tensorflow.SignatureDef``); immutable.

    *defaults* holds an array for each input a caller may leave out.
    """

    def __init__(
        self,
        key: str,
        method_name: str,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        defaults: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.key = key
        self.method_name = method_name
        self.inputs: Mapping[str, TensorSpec] = {
            spec.alias: spec for spec in sorted(inputs, key=lambda spec: spec.alias)
        }
        self.outputs: Mapping[str, TensorSpec] = {
            spec.alias: spec for spec in sorted(outputs, key=lambda spec: spec.alias)
        }
        self.defaults: Mapping[str, NDArray[Any]] = dict(defaults or {})
        self.input_types: Mapping[str, int] = {alias: spec.data_type for alias, spec in self.inputs.items()}
        """The ``DataType`` numbers of the inputs by alias."""
        self.output_aliases = tuple(self.outputs)
        self._feeds = tuple(self.inputs.items())
        self._checks = tuple(_checks_of(spec) for spec in self.inputs.values())
        self._plan = tuple((alias, spec, *_checks_of(spec)) for alias, spec in self._feeds)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{a}: {s.type_name()}{s.shape_text()}" for a, s in self.inputs.items())
        outputs = ", ".join(f"{a}: {s.type_name()}{s.shape_text()}" for a, s in self.outputs.items())
        return f"<Signature {self.key}({inputs}) -> ({outputs})>"

    def bind(
        self, inputs: Mapping[str, Source], to_array: Callable[[Source, TensorSpec], NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Return one array for each input of the signature, in the order of ``inputs``.

        *to_array* turns what the caller sent for one input into an array; it is called only once
        the names are known to be right, and may raise.

        Raises:
            InvalidArgumentError: An input is missing or is not one of the signature.
        """
        feeds = self._feeds
        if len(inputs) != len(feeds) and (len(inputs) > len(feeds) or not self.defaults):
            raise self._wrong_input_count(inputs)
        arrays: list[NDArray[Any]] = []
        used = 0
        for alias, spec in feeds:
            if alias in inputs:
                try:
                    arrays.append(to_array(inputs[alias], spec))
                except HandleTensorError as error:
                    raise _handle_fed(len(arrays), spec, error.data_type) from None
                used += 1
            else:
                arrays.append(self._default(spec, inputs))
        if used != len(inputs):
            known = sorted(alias for alias in self.inputs if alias in inputs)
            raise InvalidArgumentError(
                f"Inputs contains invalid name. Used request inputs: {','.join(known)}, "
                f"request input: {','.join(sorted(inputs))}"
            )
        return arrays

    def bind_checked(
        self,
        inputs: Mapping[str, Source],
        to_array: Callable[[Source, TensorSpec], NDArray[Any]],
        check_shapes: bool,
    ) -> list[NDArray[Any]]:
        """Return what ``bind`` returns, after ``check``; in one pass where nothing is amiss.

        Raises:
            InvalidArgumentError: As ``bind`` and ``check``.
        """
        arrays = []
        if len(inputs) == len(self._plan):
            try:
                for alias, spec, dtype, rank, fixed in self._plan:
                    array = to_array(inputs[alias], spec)
                    if array.dtype is not dtype and array.dtype != dtype:
                        break
                    if check_shapes:
                        shape = array.shape
                        if 0 in shape:
                            break
                        if rank is not None:
                            if len(shape) != rank:
                                break
                            for axis, size in fixed:
                                if shape[axis] != size:
                                    break
                            else:
                                arrays.append(array)
                                continue
                            break
                    arrays.append(array)
                else:
                    return arrays
            except (KeyError, HandleTensorError):
                pass  # the full way says what is amiss
        arrays = self.bind(inputs, to_array)
        self.check(arrays, check_shapes)
        return arrays

    def _default(self, spec: TensorSpec, inputs: Mapping[str, Any]) -> NDArray[Any]:
        try:
            return self.defaults[spec.alias]
        except KeyError:
            raise InvalidArgumentError(
                f"Signature input alias: {spec.alias}(feed name: {spec.tensor_name}) not found in "
                f"request and no default value provided. Inputs expected to be in the request "
                f"{{{','.join(sorted(inputs))}}}, or default input alias set: "
                f"{','.join(sorted(self.defaults))}"
            ) from None

    def _wrong_input_count(self, inputs: Mapping[str, Any]) -> InvalidArgumentError:
        sent, known = set(inputs), set(self.inputs)
        return InvalidArgumentError(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(known))}}}). "
            f"Sent extra: {{{','.join(sorted(sent - known))}}}. "
            f"Missing but required: {{{','.join(sorted(known - sent))}}}."
        )

    def choose_outputs(self, output_filter: Sequence[str]) -> tuple[str, ...]:
        """Return the aliases to fetch, in alias order; all of them for an empty filter.

        Raises:
            InvalidArgumentError: An entry is not an output, or stands there twice.
        """
        if not output_filter:
            return self.output_aliases
        chosen: set[str] = set()
        for alias in output_filter:
            if alias not in self.outputs:
                raise InvalidArgumentError(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {{{','.join(self.output_aliases)}}}."
                )
            if alias in chosen:
                raise InvalidArgumentError(f"duplicate output tensor alias: {alias}")
            chosen.add(alias)
        return tuple(sorted(chosen))

    def check(self, arrays: Sequence[NDArray[Any]], check_shapes: bool) -> None:
        """Refuse arrays that TensorFlow must not see; *arrays* in the order of ``inputs``.

        Raises:
            InvalidArgumentError: A dtype differs (text of TensorFlow's own check), or, with
                *check_shapes*, a rank or a stated dimension, or an array without elements has vast
                other dimensions.
        """
        for array, (dtype, rank, fixed) in zip(arrays, self._checks, strict=True):
            if array.dtype is not dtype and array.dtype != dtype:
                raise self._wrong_dtype(arrays)
            if not check_shapes:
                continue
            shape = array.shape
            if rank is not None:
                if len(shape) != rank:
                    raise self._wrong_shape(arrays)
                for axis, size in fixed:
                    if shape[axis] != size:
                        raise self._wrong_shape(arrays)
            if 0 in shape and _bytes_beside_zeros(array) > MAX_FILLED_BYTES:
                raise self._too_vast(arrays)

    def _wrong_dtype(self, arrays: Sequence[NDArray[Any]]) -> InvalidArgumentError:
        index, spec, array = next(
            (index, spec, array)
            for index, (spec, array) in enumerate(zip(self.inputs.values(), arrays, strict=True))
            if array.dtype != spec.dtype
        )
        came = element_type_of(array.dtype).name
        return InvalidArgumentError(f"Expects arg[{index}] to be {spec.type_name()} but {came} is provided")

    def _too_vast(self, arrays: Sequence[NDArray[Any]]) -> InvalidArgumentError:
        spec, array = next(
            (spec, array)
            for spec, array in zip(self.inputs.values(), arrays, strict=True)
            if 0 in array.shape and _bytes_beside_zeros(array) > MAX_FILLED_BYTES
        )
        return InvalidArgumentError(
            f"Input {spec.alias} of signature {self.key} has no elements and may have at most "
            f"{MAX_FILLED_BYTES} bytes in its other dimensions, got [{','.join(map(str, array.shape))}]"
        )

    def _wrong_shape(self, arrays: Sequence[NDArray[Any]]) -> InvalidArgumentError:
        spec, array = next(
            (spec, array)
            for spec, array in zip(self.inputs.values(), arrays, strict=True)
            if not spec.accepts_shape(array.shape)
        )
        came = ",".join(map(str, array.shape))
        return InvalidArgumentError(
            f"Input {spec.alias} of signature {self.key} must have shape {spec.shape_text()}, got [{came}]"
        )


def _bytes_beside_zeros(array: NDArray[Any]) -> int:
    """Return the bytes that *array* would have if its dimensions of size 0 had size 1.

    Operations count through the other dimensions, or give outputs of them: a product of
    ``[2**40,0,4]`` with a matrix ends the process.
    """
    return int(prod(size for size in array.shape if size) * array.dtype.itemsize)


def _checks_of(spec: TensorSpec) -> tuple[Any, int | None, tuple[tuple[int, int], ...]]:
    """Return the dtype, the rank (None for any) and the stated sizes by axis."""
    if spec.shape is None:
        return spec.dtype, None, ()
    return (
        spec.dtype,
        len(spec.shape),
        tuple((axis, size) for axis, size in enumerate(spec.shape) if size is not None),
    )


def _handle_fed(index: int, spec: TensorSpec, data_type: int) -> InvalidArgumentError:
    """Return TensorFlow's own refusal of a resource (``direct_session.cc``) or variant as a feed."""
    if data_type == DataType.DT_RESOURCE:
        return InvalidArgumentError(
            "Invalid resource type hash code: 0(name:  type: ). Perhaps a resource tensor was being "
            "provided as a feed? This is not currently allowed. Please file an issue at "
            "https://github.com/tensorflow/tensorflow/issues/new, ideally with a short code snippet "
            "that leads to this error message."
        )
    return InvalidArgumentError(
        f"Expects arg[{index}] to be {spec.type_name()} but {data_type_name(data_type)} is provided"
    )


def _spec(alias: str, info: Any) -> TensorSpec:
    proto = info.tensor_shape
    shape = (
        None
        if proto.unknown_rank or not info.HasField("tensor_shape")
        else tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)
    )
    return TensorSpec(alias, info.name, info.dtype, shape)


def parse_signature(key: str, proto: messages.SignatureDef) -> Signature:
    """Return the ``tensorflow.SignatureDef`` *proto* as the signature *key*.

    Raises:
        InvalidArgumentError: A default value is not a valid tensor.
    """
    return Signature(
        key,
        proto.method_name,
        [_spec(alias, info) for alias, info in proto.inputs.items()],
        [_spec(alias, info) for alias, info in proto.outputs.items()],
        {alias: tensor_from_message(value) for alias, value in proto.defaults.items()},
    )
