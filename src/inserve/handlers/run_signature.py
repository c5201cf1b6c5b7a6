"""The one way a request reaches a signature: look up, bind, check, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError, InternalError
from inserve.handlers.placement import WouldBlock
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import TensorSpec

__all__ = ["SignatureResult", "run_signature"]

Source = TypeVar("Source")

_METHOD_NAMES = (
    "tensorflow/serving/predict",
    "tensorflow/serving/classify",
    "tensorflow/serving/regress",
)


SignatureResult: TypeAlias = tuple[tuple[str, ...], list[NDArray[Any]]]
"""The aliases of the outputs of one run, and their arrays in the same order.

The dtype of an array tells the ``DataType`` of its tensor, quantised types and strings included:
``inserve.tensors.dtypes.element_type_of(array.dtype).data_type``. An array may be a ``FlatTensor``.
"""


def run_signature(
    servable: SavedModelServable,
    signature_name: str,
    inputs: Mapping[str, Source],
    to_array: Callable[[Source, TensorSpec], NDArray[Any]],
    output_filter: Sequence[str] = (),
    timeout_s: float | None = None,
    may_block: bool = True,
    check_method_name: bool = False,
    record: RequestRecord | None = None,
) -> SignatureResult:
    """Run signature *signature_name* of *servable* on *inputs*, by alias, and return its outputs.

    The checks stand in TensorFlow Serving's order (``predict_util.cc``): signature, its method name
    (with *check_method_name*), names, values (*to_array*), outputs, dtypes, shapes. *record* learns
    the signature and what the run took.

    Raises:
        FailedPreconditionError: The model has no such signature.
        InternalError: The method name of the signature is not one of TensorFlow Serving's.
        InvalidArgumentError: The inputs or the filter do not fit the signature.
        WouldBlock: The run is not known to be short, and not *may_block*.
        InserveError: What TensorFlow said.
    """
    run = None if check_method_name else servable.prepared_run(signature_name, output_filter)
    if run is not None and run.signature is not None:
        if record is not None:
            record.signature_name = signature_name
        arrays = run.signature.bind_checked(inputs, to_array, servable.check_shapes)
    else:
        signature = servable.signatures.get(signature_name)
        if signature is None:
            raise FailedPreconditionError(f'Serving signature key "{signature_name}" not found.')
        if record is not None:
            record.signature_name = signature_name
        if check_method_name and signature.method_name not in _METHOD_NAMES:
            raise InternalError(
                "Expected prediction signature method_name to be one of "
                f"{{{', '.join(_METHOD_NAMES)}}}. Was: {signature.method_name}"
            )
        arrays = signature.bind(inputs, to_array)
        run = servable.signature_run(signature, output_filter)
        signature.check(arrays, servable.check_shapes)
    if not may_block and not run.is_short(arrays):
        raise WouldBlock
    if record is None:
        return run.output_aliases, run.run(arrays, timeout_s)
    started = perf_counter()
    outputs = run.run(arrays, timeout_s)
    record.run_s = perf_counter() - started
    return run.output_aliases, outputs
