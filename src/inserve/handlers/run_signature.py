"""The one way a request reaches a signature: look up, bind, check, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError
from inserve.handlers.placement import WouldBlock
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import TensorSpec

__all__ = ["SignatureResult", "run_signature"]

Source = TypeVar("Source")


class SignatureResult(NamedTuple):
    """Outputs of one run; ``arrays[i]`` is the output named ``aliases[i]``."""

    aliases: tuple[str, ...]
    arrays: list[NDArray[Any]]


def run_signature(
    servable: SavedModelServable,
    signature_name: str,
    inputs: Mapping[str, Source],
    to_array: Callable[[Source, TensorSpec], NDArray[Any]],
    output_filter: Sequence[str] = (),
    timeout_s: float | None = None,
    may_block: bool = True,
) -> SignatureResult:
    """Run signature *signature_name* of *servable* on *inputs*, by alias, and return its outputs.

    The checks stand in TensorFlow Serving's order (``predict_util.cc``): signature, names, values
    (*to_array*), outputs, dtypes, shapes.

    Raises:
        FailedPreconditionError: The model has no such signature.
        InvalidArgumentError: The inputs or the filter do not fit the signature.
        WouldBlock: The run is not known to be short, and not *may_block*.
        InserveError: What TensorFlow said.
    """
    signature = servable.signatures.get(signature_name)
    if signature is None:
        raise FailedPreconditionError(f'Serving signature key "{signature_name}" not found.')
    arrays = signature.bind(inputs, to_array)
    run = servable.signature_run(signature, output_filter)
    signature.check(arrays, servable.check_shapes)
    if not may_block and not run.is_short(arrays):
        raise WouldBlock
    return SignatureResult(run.output_aliases, run.run(arrays, timeout_s))
