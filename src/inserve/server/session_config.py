"""``tensorflow.ConfigProto`` of every session: a text file, and what flags write over it.

Rules: TensorFlow Serving, ``model_servers/server.cc`` and
``servables/tensorflow/saved_model_bundle_factory.cc``.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from inserve.errors import InvalidArgumentError
from inserve.protos import messages
from inserve.server.config_files import read_text_proto

__all__ = ["SessionSettings", "session_config", "set_mixed_precision"]

_logger = logging.getLogger("inserve.server")
_INT32_MAX = 2**31 - 1
_BFLOAT16_ON = b"\xf8\x01\x01"
"""``RewriterConfig.auto_mixed_precision_onednn_bfloat16`` (field 31) = ON (1), serialized."""


@dataclass(frozen=True)
class SessionSettings:
    """What is written over the session config file, with TensorFlow Serving's names and defaults."""

    tensorflow_session_parallelism: int = 0
    """Threads for both of the following, used only if neither is above 0; 0: as many as processors."""
    tensorflow_intra_op_parallelism: int = 0
    """Threads inside one operation."""
    tensorflow_inter_op_parallelism: int = 0
    """Operations that run at the same time."""
    per_process_gpu_memory_fraction: float = 0.0
    """Share of the GPU's memory, 0 to 1; 0: TensorFlow decides."""
    gpu_memory_growth: bool = False
    """Take GPU memory as it is needed instead of nearly all at once."""
    mixed_precision: str = ""
    """``bfloat16``, or empty."""


def session_config(file: str | os.PathLike[str] | None, settings: SessionSettings) -> bytes:
    """Return the serialized ``ConfigProto`` of *file* (None: an empty one) with *settings* over it.

    Parallelism and the share of GPU memory are always overwritten, also with their defaults.

    Raises:
        InvalidArgumentError: all three parallelism settings are above 0, or one does not fit.
        InserveError: what ``read_text_proto`` raises.
    """
    config = messages.ConfigProto() if file is None else read_text_proto(file, messages.ConfigProto)
    intra, inter = _parallelism(settings)
    config.intra_op_parallelism_threads = intra
    config.inter_op_parallelism_threads = inter
    if settings.per_process_gpu_memory_fraction or config.HasField("gpu_options"):
        config.gpu_options.per_process_gpu_memory_fraction = settings.per_process_gpu_memory_fraction
    if settings.gpu_memory_growth:
        config.gpu_options.allow_growth = True
    set_mixed_precision(config, settings.mixed_precision)
    return config.SerializeToString(deterministic=True)


def set_mixed_precision(config: messages.ConfigProto, mode: str) -> None:
    """Switch on mixed precision in *config*; a *mode* that is not known is said in the log and ignored."""
    if mode == "bfloat16":
        config.graph_options.rewrite_options.MergeFromString(_BFLOAT16_ON)
    elif mode:
        _logger.warning("%s auto mixed precision is not supported. Valid option: bfloat16", mode)


def _parallelism(settings: SessionSettings) -> tuple[int, int]:
    """Return the threads inside an operation, and the operations at the same time."""
    both = settings.tensorflow_session_parallelism
    intra = settings.tensorflow_intra_op_parallelism
    inter = settings.tensorflow_inter_op_parallelism
    if both > 0 and intra > 0 and inter > 0:
        raise InvalidArgumentError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    chosen = (intra, inter) if intra > 0 or inter > 0 else (both, both)
    for threads in chosen:
        if abs(threads) > _INT32_MAX:
            raise InvalidArgumentError(f"{threads} threads asked for, expected at most {_INT32_MAX}")
    return chosen
