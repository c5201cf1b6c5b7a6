"""One LiteRT interpreter, for one thread at a time."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inserve.errors import (
    InserveError,
    InternalError,
    InvalidArgumentError,
    MissingExtraError,
    UnimplementedError,
)
from inserve.tensors.tensor_proto import MAX_FILLED_BYTES

__all__ = ["RunPlan", "TfliteInterpreter", "load_litert"]

_MAX_RANK = 6
"""XNNPACK's tensors have so many dimensions; LiteRT writes past the end of them for more."""

_MAX_SIZE = (1 << 31) - 1

_MAX_REPORTED = 1 << 16
"""Characters of errors that LiteRT may have collected in an interpreter before it is replaced."""

_NUM_THREADS = 1
"""TensorFlow Serving's choice: a server has its parallelism between requests."""


class RunPlan(NamedTuple):
    """Which tensors of which subgraph a run feeds and fetches."""

    subgraph: int
    feeds: tuple[int, ...]
    fetches: tuple[int, ...]
    signature_key: str
    """A signature that is this subgraph; used for all but the main one."""
    feed_aliases: tuple[str, ...]
    """The names of the feeds in that signature."""
    fetch_aliases: tuple[str, ...]
    feed_shapes: tuple[tuple[int, ...], ...]
    """What the model states for each feed; -1 for a dimension of any size."""
    keeps_shapes: bool
    """Whether inputs of other shapes must not reach LiteRT: memory is kept from run to run."""


class TfliteInterpreter:
    """The model *content* with memory for its tensors; the bytes are shared, not copied.

    Raises:
        MissingExtraError: LiteRT is not installed.
        InvalidArgumentError: Not a model, or a damaged one.
        UnimplementedError: The model has operations that this LiteRT does not; *custom_operations* are
            those of them that no TensorFlow Lite brings.
        InternalError: LiteRT cannot make an interpreter of it.
    """

    def __init__(self, content: bytes, custom_operations: Sequence[str] = ()) -> None:
        make = load_litert()
        self._reported = ""
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._is_allocated = True
        try:
            self._interpreter = make(model_content=content, num_threads=_NUM_THREADS)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _load_error(str(error), custom_operations) from None

    def run(self, plan: RunPlan, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run a subgraph once on *arrays*, in the order of ``plan.feeds``; returns copies of its outputs.

        The interpreter lock is not held while LiteRT computes.

        Raises:
            InvalidArgumentError: A shape that LiteRT must not see.
            InternalError: What LiteRT said.
        """
        run = self._run_subgraph if plan.subgraph else self._run_main
        return [_as_array(value) for value in run(plan, arrays)]

    def _run_main(self, plan: RunPlan, arrays: Sequence[NDArray[Any]]) -> list[Any]:
        interpreter, shapes = self._interpreter, self._shapes
        what = "Failed to resize input tensor"
        try:
            for index, array, stated in zip(plan.feeds, arrays, plan.feed_shapes, strict=True):
                if shapes.get(index) != array.shape:
                    _check_shape(array, stated, plan.keeps_shapes)
                    shapes.pop(index, None)
                    self._is_allocated = False
                    interpreter.resize_tensor_input(index, array.shape)
                    shapes[index] = array.shape
            if not self._is_allocated:
                what = "Failed to allocate tensors"
                interpreter.allocate_tensors()
                self._is_allocated = True
            what = "Failed to set an input tensor"
            for index, array in zip(plan.feeds, arrays, strict=True):
                interpreter.set_tensor(index, array)
            what = "Failed to invoke TfLite interpreter"
            interpreter.invoke()
            what = "Failed to read an output tensor"
            return [interpreter.get_tensor(index) for index in plan.fetches]
        except (ValueError, RuntimeError) as error:
            raise InternalError(f"{what}: {self._news_in(str(error))}") from None

    def _run_subgraph(self, plan: RunPlan, arrays: Sequence[NDArray[Any]]) -> list[Any]:
        for array, stated in zip(arrays, plan.feed_shapes, strict=True):
            _check_shape(array, stated, plan.keeps_shapes)
        try:
            # It holds what the interpreter must be alone in holding, so it is made for each run.
            signature = self._interpreter.get_signature_runner(plan.signature_key)
            outputs = signature(**dict(zip(plan.feed_aliases, arrays, strict=True)))
            return [outputs[alias] for alias in plan.fetch_aliases]
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            raise InternalError(f"Failed to invoke TfLite interpreter: {self._news_in(str(error))}") from None

    def _news_in(self, text: str) -> str:
        """Return *text* without what LiteRT has said before: it repeats all its errors in each."""
        if not text.startswith(self._reported):
            return text  # said by the Python side of LiteRT
        before, self._reported = self._reported, text
        return text[len(before) :] or text

    def is_worn(self) -> bool:
        """Return whether LiteRT's collection of errors has grown so far that a new one is better."""
        return len(self._reported) > _MAX_REPORTED


def _check_shape(array: NDArray[Any], stated: tuple[int, ...], must_be_kept: bool) -> None:
    """Refuse what makes LiteRT write past the end of its memory, or take all there is.

    Raises:
        InvalidArgumentError: That is so.
    """
    shape = array.shape
    if (len(shape) > _MAX_RANK and len(shape) != len(stated)) or max(shape, default=0) > _MAX_SIZE:
        wanted = f"at most {_MAX_RANK} dimensions of at most {_MAX_SIZE}"
    elif 0 in shape and prod(size for size in shape if size) * array.itemsize > MAX_FILLED_BYTES:
        # Outputs may have the other dimensions.
        wanted = f"at most {MAX_FILLED_BYTES} bytes beside the dimensions of size 0"
    elif must_be_kept and not _fits(shape, stated):
        wanted = f"[{','.join('?' if size < 0 else str(size) for size in stated)}]"
    else:
        return
    raise InvalidArgumentError(f"an input has the shape [{','.join(map(str, shape))}], expected {wanted}")


def _fits(shape: tuple[int, ...], stated: tuple[int, ...]) -> bool:
    return len(shape) == len(stated) and all(
        want in (-1, size) for size, want in zip(shape, stated, strict=True)
    )


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    array: NDArray[Any] = np.empty((), np.object_ if isinstance(value, (bytes, str)) else value.dtype)
    array[()] = value
    return array


def load_litert() -> Any:
    """Return LiteRT's class ``Interpreter``; its library is opened by the first call.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError as error:
        raise MissingExtraError(
            f"LiteRT, which runs model.tflite, cannot be imported ({error}): pip install 'inserve[tflite]'"
        ) from error


def _load_error(text: str, custom_operations: Sequence[str]) -> InserveError:
    """Return the error for what LiteRT says about a model; codes as in ``tflite_session.cc``."""
    if "unresolved custom op" in text or "Select TensorFlow op" in text:
        return UnimplementedError(
            f"the model needs operations that LiteRT does not have: {', '.join(custom_operations)}. Convert "
            "it with TFLITE_BUILTINS alone, or serve the SavedModel (prefer_tflite_model off, or no "
            f"model.tflite in the version). LiteRT says: {text}"
        )
    if "Didn't find op for builtin opcode" in text:
        return UnimplementedError(
            "the model needs an operation that this LiteRT does not have yet; try a newer ai-edge-litert. "
            f"LiteRT says: {text}"
        )
    if "failed to prepare" in text or "Node number" in text:
        return InternalError(f"Cannot build Interpreter from buffer. LiteRT says: {text}")
    return InvalidArgumentError(f"Cannot build FlatBufferModel from buffer. LiteRT says: {text}")
