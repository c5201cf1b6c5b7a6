"""The platform config file: how models are loaded, in place of the flags that say it otherwise.

Rules: TensorFlow Serving, ``config/platform_config.proto``, ``model_servers/platform_config_util.cc`` and
``servables/tensorflow/session_bundle_config.proto``. Unset fields have protobuf's defaults, not the flags':
no warm-up, one interpreter, no batching.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from inserve.batching.options import BatchingOptions, batching_options_from_message
from inserve.errors import InserveError, InvalidArgumentError, UnimplementedError
from inserve.protos import messages
from inserve.server.config_files import read_text_proto
from inserve.server.session_config import set_mixed_precision

__all__ = ["PlatformSettings", "read_platform_config"]

_PLATFORM = "tensorflow"
_WITHOUT_EFFECT = (
    "session_run_load_threadpool_index",
    "experimental_transient_ram_bytes_during_load",
    "in_graph_batching_parameters",
    "experimental_fixed_input_tensors",
    "enable_session_metadata",
    "remove_unused_fields_from_bundle_metagraph",
    "resource_estimation_uses_validation_result",
)
"""Fields of ``SessionBundleConfig`` that are read by nothing here."""


@dataclass(frozen=True)
class PlatformSettings:
    """How models of the platform ``tensorflow`` are loaded; the fields are those of ``ServerOptions``."""

    session_config: bytes = b""
    tags: tuple[str, ...] = ("serve",)
    batching: BatchingOptions | None = None
    enable_per_model_batching_parameters: bool = False
    enable_model_warmup: bool = False
    num_request_iterations_for_warmup: int = 1
    prefer_tflite_model: bool = False
    num_tflite_pools: int = 1
    num_tflite_interpreters_per_pool: int = 1
    without_effect: tuple[str, ...] = ()
    """Fields that the file sets and that change nothing here."""


def read_platform_config(path: str | os.PathLike[str], strict_batching: bool) -> PlatformSettings | None:
    """Return what the ``PlatformConfigMap`` text file *path* says; None: it has no platform at all.

    Raises:
        UnimplementedError: it configures another platform or kind of servable, or something that the C++
            server refuses too.
        InvalidArgumentError: a value is out of its range.
        InserveError: what ``read_text_proto`` raises.
    """
    name = os.fspath(path)
    platforms = read_text_proto(path, messages.PlatformConfigMap).platform_configs
    for platform in sorted(platforms):
        if platform != _PLATFORM:
            raise UnimplementedError(
                f"'{name}' configures the platform {platform!r}, expected only {_PLATFORM!r}"
            )
    if _PLATFORM not in platforms:
        return None
    packed = platforms[_PLATFORM].source_adapter_config
    adapter = messages.SavedModelBundleSourceAdapterConfig()
    if packed.type_url.rpartition("/")[2] != adapter.DESCRIPTOR.full_name:
        kind = packed.type_url or "an empty config"
        raise UnimplementedError(
            f"source_adapter_config of '{name}' is {kind}, expected {adapter.DESCRIPTOR.full_name}"
        )
    try:
        adapter.ParseFromString(packed.value)
    except DecodeError as error:
        raise InvalidArgumentError(
            f"source_adapter_config of '{name}' is no {adapter.DESCRIPTOR.full_name}"
        ) from error
    try:
        return _settings(adapter.legacy_config, strict_batching)
    except (InserveError, ValueError) as error:
        kind_of_error = type(error) if isinstance(error, InserveError) else InvalidArgumentError
        raise kind_of_error(f"{error} (in '{name}')") from error


def _settings(config: messages.SessionBundleConfig, strict_batching: bool) -> PlatformSettings:
    if config.session_target:
        raise UnimplementedError(
            f"session_target is {config.session_target!r}, expected it empty: models run in this process"
        )
    if config.enable_saved_model_config:
        raise UnimplementedError("Saved model config functionality is not implemented.")
    session = messages.ConfigProto()
    session.CopyFrom(config.session_config)
    set_mixed_precision(session, config.mixed_precision)
    batching = None
    if config.HasField("batching_parameters") and not config.wrap_session_with_no_threading_params:
        batching = batching_options_from_message(config.batching_parameters, strict_batching)
    iterations = config.model_warmup_options.num_request_iterations.value
    set_fields = {field.name for field, _ in config.ListFields()}
    return PlatformSettings(
        session_config=session.SerializeToString(deterministic=True),
        tags=tuple(config.saved_model_tags) or ("serve",),
        batching=batching,
        enable_per_model_batching_parameters=config.enable_per_model_batching_params,
        enable_model_warmup=config.enable_model_warmup,
        num_request_iterations_for_warmup=max(1, iterations),
        prefer_tflite_model=config.prefer_tflite_model,
        num_tflite_pools=max(1, config.num_tflite_pools or config.num_tflite_interpreters),
        num_tflite_interpreters_per_pool=max(1, config.num_tflite_interpreters_per_pool),
        without_effect=tuple(field for field in _WITHOUT_EFFECT if field in set_fields),
    )
