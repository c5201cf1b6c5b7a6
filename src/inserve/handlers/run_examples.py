"""What Classify, Regress and MultiInference share: signatures that take serialized ``tf.Example``.

Codes and texts: TensorFlow Serving, ``servables/tensorflow/{classifier,regressor,util}.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.handlers.placement import WouldBlock
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.signature import Signature
from inserve.tensors.dtypes import element_type_of

__all__ = [
    "EXAMPLES_ALIAS",
    "example_array",
    "run_on_examples",
    "shape_text",
    "signature_dump",
    "signature_for_examples",
    "type_text",
]

EXAMPLES_ALIAS = "inputs"
"""The alias of the one input, ``[N]`` serialized examples."""

_DUMP_MARK = "goo.gle/debugstr\n"
"""Stands before a message that C++ protobuf prints, to say that nobody may parse the text."""


def signature_for_examples(
    servable: SavedModelServable, name: str, record: RequestRecord | None = None
) -> Signature:
    """Return the signature that Classify or Regress asks for; *record* learns its name.

    Raises:
        InvalidArgumentError: There is none of that name.
    """
    signature = servable.signatures.get(name)
    if signature is None:
        raise InvalidArgumentError(f"No signature was found with the name: {name}")
    if record is not None:
        record.signature_name = name
    return signature


def example_array(examples: Sequence[bytes]) -> NDArray[np.object_]:
    """Return the serialized *examples* as the string array, ``[N]``, that a graph takes.

    Raises:
        InvalidArgumentError: There are none.
    """
    if not examples:
        raise InvalidArgumentError("Input is empty.")
    array = np.empty(len(examples), np.object_)
    array[:] = examples
    return array


def run_on_examples(
    servable: SavedModelServable,
    signature: Signature,
    aliases: Sequence[str],
    examples: Sequence[bytes],
    timeout_s: float | None,
    may_block: bool,
    record: RequestRecord | None = None,
) -> Mapping[str, NDArray[Any]]:
    """Run *signature*, which has one input, on *examples* and return the outputs named *aliases*.

    *record* learns what the run took.

    Raises:
        InvalidArgumentError: There are no examples, or the input does not take strings.
        WouldBlock: The run is not known to be short, and not *may_block*.
        InserveError: What TensorFlow said.
    """
    arrays = [example_array(examples)]
    run = servable.signature_run(signature, aliases)
    signature.check(arrays, servable.check_shapes)
    if not may_block and not run.is_short(arrays):
        raise WouldBlock
    started = perf_counter()
    outputs = run.run(arrays, timeout_s)
    if record is not None:
        record.run_s = perf_counter() - started
    return dict(zip(run.output_aliases, outputs, strict=True))


def signature_dump(servable: SavedModelServable, signature: Signature) -> str:
    """Return *signature* as text, for an error that is about all of it."""
    proto = messages.SignatureDefMap.FromString(servable.signature_def_map).signature_def[signature.key]
    return _DUMP_MARK + text_format.MessageToString(proto)


def type_text(array: NDArray[Any]) -> str:
    """Return the ``DataType`` of *array* by its name in the enum: ``DT_FLOAT``."""
    return element_type_of(array.dtype).data_type.name


def shape_text(array: NDArray[Any]) -> str:
    """Return the shape of *array* as TensorFlow writes it: ``[3,2]``."""
    return f"[{','.join(map(str, array.shape))}]"
