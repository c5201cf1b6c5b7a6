"""The one table of flags: ``tensorflow_model_server`` and ``inserve serve`` are both made from it.

Names, types, order and defaults are TensorFlow Serving's (``model_servers/main.cc``); where ``inserve
serve`` has a safer default, or a flag is ours alone, the table says so. Importing this loads nothing heavy.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["FlagInfo", "FlagKind", "FlagValue", "Flags", "flag_table"]

FlagKind: TypeAlias = Literal["int32", "int64", "bool", "float", "string"]
FlagValue: TypeAlias = int | bool | float | str

_NETWORK, _MODELS, _LOADING = "Network", "Models", "Loading"
_BATCHING, _RUNTIME, _DIAGNOSTICS = "Batching", "Runtime", "Diagnostics"
_INFO = "flag"


@dataclass(frozen=True)
class FlagInfo:
    """What the parsers know of a flag."""

    name: str
    kind: FlagKind
    group: str
    help: str
    default: FlagValue
    """What ``tensorflow_model_server`` takes."""
    library_default: FlagValue
    """What ``inserve serve`` takes."""
    is_extra: bool
    """It is not one of TensorFlow Serving's."""
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...]
    """The only texts that are accepted; empty: any."""
    is_repeatable: bool
    """Given more than once it collects its values, separated by commas, instead of taking the last."""
    no_effect: str
    """Why setting it changes nothing here; empty: it does."""


def _flag(
    default: FlagValue,
    kind: FlagKind,
    group: str,
    help: str,
    *,
    library_default: FlagValue | None = None,
    is_extra: bool = False,
    minimum: int | None = None,
    maximum: int | None = None,
    choices: tuple[str, ...] = (),
    is_repeatable: bool = False,
    no_effect: str = "",
) -> Any:
    """Return a field of ``Flags``; its name is filled in by ``flag_table``."""
    info = FlagInfo(
        "",
        kind,
        group,
        help,
        default,
        default if library_default is None else library_default,
        is_extra,
        minimum,
        maximum,
        choices,
        is_repeatable,
        no_effect,
    )
    return field(default=default, metadata={_INFO: info})


def _num_cpus() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


_CPUS = _num_cpus()
_PORT = 65535


@dataclass(frozen=True)
class Flags:
    """The value of every flag; the order is that of the usage text."""

    port: int = _flag(
        8500, "int32", _NETWORK, "gRPC port; 0 for none, then --grpc_socket_path is needed.",
        minimum=0, maximum=_PORT,
    )  # fmt: skip
    grpc_socket_path: str = _flag("", "string", _NETWORK, "Also answer gRPC on this Unix socket.")
    rest_api_port: int = _flag(
        0, "int32", _NETWORK, "REST port; 0 for no REST and no Prometheus page. Not the same as --port.",
        minimum=0, maximum=_PORT,
    )  # fmt: skip
    rest_api_num_threads: int = _flag(
        4 * _CPUS, "int32", _NETWORK, "Threads for REST requests.", minimum=1,
        no_effect="REST requests run on the same threads as gRPC calls, see --grpc_max_threads",
    )  # fmt: skip
    rest_api_timeout_in_ms: int = _flag(
        30000, "int32", _NETWORK, "How long a model may run for one REST request; 0 or less: without limit."
    )
    rest_api_enable_cors_support: bool = _flag(
        False, "bool", _NETWORK, "Let web pages of any origin use the REST API."
    )
    enable_batching: bool = _flag(False, "bool", _BATCHING, "Merge concurrent requests into batches.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "bool", _MODELS, "Let a new label name a version that is not available yet.",
        library_default=True,
    )  # fmt: skip
    batching_parameters_file: str = _flag(
        "", "string", _BATCHING, "Text BatchingParameters; needs --enable_batching."
    )
    enable_per_model_batching_parameters: bool = _flag(
        False, "bool", _BATCHING,
        "Take queue parameters from batching_params.pbtxt of each version; one without it is not batched.",
    )  # fmt: skip
    model_config_file: str = _flag(
        "", "string", _MODELS,
        "Text ModelServerConfig that lists the models; --model_name and --model_base_path do not count then.",
    )  # fmt: skip
    model_config_file_poll_wait_seconds: int = _flag(
        0, "int32", _MODELS, "How often to apply --model_config_file again; 0 or less: never."
    )
    model_name: str = _flag("default", "string", _MODELS, "Name of the one model.")
    model_base_path: str = _flag(
        "", "string", _MODELS, "Folder, or URL of a store, that holds its version folders."
    )
    num_load_threads: int = _flag(
        0, "int32", _LOADING, "Versions that may load at once; 0 is one. 4 per processor during the start.",
        library_default=2, minimum=0,
    )  # fmt: skip
    num_unload_threads: int = _flag(
        0, "int32", _LOADING, "Versions that may unload at once; 0 is one.", library_default=1, minimum=0
    )
    max_num_load_retries: int = _flag(
        5, "int32", _LOADING, "How often a failed load is repeated before the version has failed.",
        library_default=0, minimum=0,
    )  # fmt: skip
    load_retry_interval_micros: int = _flag(
        60_000_000, "int64", _LOADING, "Pause before each of these repetitions; negative: none."
    )
    file_system_poll_wait_seconds: int = _flag(
        1, "int32", _LOADING, "How often to look for new versions; 0: once, negative: never."
    )
    flush_filesystem_caches: bool = _flag(
        True, "bool", _LOADING, "Drop cached files after a load.",
        no_effect="model files are not cached beyond the system's own cache",
    )  # fmt: skip
    tensorflow_session_parallelism: int = _flag(
        0, "int64", _RUNTIME,
        "Threads for both --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism; "
        "0: by processors.",
    )  # fmt: skip
    tensorflow_session_config_file: str = _flag(
        "",
        "string",
        _RUNTIME,
        "Text tensorflow.ConfigProto; the flags for threads and GPU memory win over it.",
    )
    tensorflow_intra_op_parallelism: int = _flag(
        0, "int64", _RUNTIME, "Threads inside one operation; 0: by processors."
    )
    tensorflow_inter_op_parallelism: int = _flag(
        0, "int64", _RUNTIME, "Operations that run at the same time; 0: by processors."
    )
    use_alts_credentials: bool = _flag(False, "bool", _NETWORK, "Google's ALTS on the gRPC addresses.")
    ssl_config_file: str = _flag("", "string", _NETWORK, "Text SSLConfig: TLS on the gRPC addresses.")
    platform_config_file: str = _flag(
        "", "string", _RUNTIME,
        "Text PlatformConfigMap: says how models are loaded, in place of the flags about that.",
    )  # fmt: skip
    per_process_gpu_memory_fraction: float = _flag(
        0.0, "float", _RUNTIME, "Share of the GPU's memory, 0 to 1; 0: TensorFlow decides."
    )
    saved_model_tags: str = _flag("serve", "string", _MODELS, "Comma-separated tags of the graph to load.")
    grpc_channel_arguments: str = _flag(
        "", "string", _NETWORK, "gRPC's own arguments, such as grpc.max_connection_age_ms=2000,name=value."
    )
    grpc_max_threads: int = _flag(
        4 * _CPUS,
        "int32",
        _NETWORK,
        "Threads for calls that take long; short ones need none.",
        library_default=max(32, 4 * _CPUS),
        minimum=1,
    )
    enable_model_warmup: bool = _flag(
        True, "bool", _LOADING, "Run each version before it is available, on its recorded requests."
    )
    num_request_iterations_for_warmup: int = _flag(
        0, "int32", _LOADING, "How often each recorded request is run; 0 or less is once."
    )
    version: bool = _flag(False, "bool", _DIAGNOSTICS, "Print the versions and end.")
    monitoring_config_file: str = _flag(
        "", "string", _DIAGNOSTICS, "Text MonitoringConfig: a page for Prometheus on the REST port."
    )
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True, "bool", _RUNTIME, "Keep only the signatures of a graph's description in memory.",
        no_effect="only the signatures are kept in memory anyway",
    )  # fmt: skip
    prefer_tflite_model: bool = _flag(
        False, "bool", _RUNTIME, "Serve model.tflite of a version where there is one."
    )
    num_tflite_pools: int = _flag(
        _CPUS, "int32", _RUNTIME, "Pools of interpreters for each TFLite model.", minimum=1
    )
    num_tflite_interpreters_per_pool: int = _flag(
        1, "int32", _RUNTIME, "Interpreters in each of these pools.", minimum=1
    )
    enable_signature_method_name_check: bool = _flag(
        False, "bool", _MODELS, "Refuse signatures whose method_name is not that of the API that calls them."
    )
    xla_cpu_compilation_enabled: bool = _flag(
        False, "bool", _RUNTIME, "Let models compile with XLA on the CPU; here they always may."
    )
    xla_gpu_compilation_enabled: bool = _flag(
        False, "bool", _RUNTIME, "Let models compile with XLA on CPU and GPU; here they always may."
    )
    enable_profiler: bool = _flag(
        True, "bool", _DIAGNOSTICS, "Answer the profiler service, which TensorBoard asks.",
        library_default=False,
    )  # fmt: skip
    thread_pool_factory_config_file: str = _flag(
        "", "string", _RUNTIME, "Text ThreadPoolFactoryConfig; it is checked, but there are no factories."
    )
    mixed_precision: str = _flag("", "string", _RUNTIME, "bfloat16: compute with it where oneDNN can.")
    skip_initialize_tpu: bool = _flag(
        False, "bool", _RUNTIME, "Do not set up TPUs.", no_effect="TPUs are never set up"
    )
    enable_grpc_healthcheck_service: bool = _flag(False, "bool", _NETWORK, "Answer grpc.health.v1.Health.")
    enable_serialization_as_tensor_content: bool = _flag(
        False, "bool", _MODELS, "Send the values of Predict responses in tensor_content."
    )

    host: str = _flag(
        "", "string", _NETWORK, "Address to listen on; 0.0.0.0 for all of this machine's.",
        library_default="127.0.0.1", is_extra=True,
    )  # fmt: skip
    grpc_transport: str = _flag(
        "auto", "string", _NETWORK, "What carries gRPC; auto takes native where it can serve.",
        choices=("auto", "native", "grpcio"), is_extra=True,
    )  # fmt: skip
    drain_seconds: float = _flag(
        30.0, "float", _NETWORK, "How long running requests may take after SIGTERM or SIGINT.",
        minimum=0, is_extra=True,
    )  # fmt: skip
    enable_reflection: bool = _flag(
        True, "bool", _NETWORK, "Answer gRPC server reflection, which tools ask.",
        library_default=False, is_extra=True,
    )  # fmt: skip
    enable_session_service: bool = _flag(
        False, "bool", _NETWORK, "Answer SessionService: runs of tensors by their names.", is_extra=True
    )
    allow_remote_reload: bool = _flag(
        True, "bool", _MODELS, "Let remote callers replace the models (HandleReloadConfigRequest).",
        library_default=False, is_extra=True,
    )  # fmt: skip
    check_input_shapes: bool = _flag(
        False, "bool", _MODELS, "Refuse inputs whose shape differs from the signature.",
        library_default=True, is_extra=True,
    )  # fmt: skip
    strict_batching: bool = _flag(
        True, "bool", _BATCHING,
        "Batch exactly as TensorFlow Serving does: wait for the timeout also while a thread is free, fail "
        "a batch as a whole.",
        library_default=False, is_extra=True,
    )  # fmt: skip
    auto_batching: bool = _flag(
        False, "bool", _BATCHING,
        "Batch, without a parameter file, in the sizes that measurably pay; not with strict_batching.",
        is_extra=True,
    )  # fmt: skip
    workers: int = _flag(
        1, "int32", _RUNTIME,
        "Processes that serve the same models at the same ports, each with a copy of every model.",
        minimum=1, is_extra=True,
    )  # fmt: skip
    devices: str = _flag(
        "", "string", _RUNTIME,
        "Load each model once on each of these devices, GPU:0,GPU:1 for instance, and spread its requests "
        "over them.",
        is_extra=True,
    )  # fmt: skip
    low_priority_pool: bool = _flag(
        True, "bool", _RUNTIME,
        "Let long runs yield to everything else that wants a processor, so that a slow model delays no "
        "fast one.",
        is_extra=True,
    )  # fmt: skip
    tune: bool = _flag(
        True, "bool", _LOADING,
        "Measure, when a version is loaded, where its graphs run fastest and with how many threads.",
        is_extra=True,
    )  # fmt: skip
    tuning_cache_dir: str = _flag(
        "", "string", _LOADING,
        "Where these measurements are kept for the next start; empty: a folder in the user's cache.",
        is_extra=True,
    )  # fmt: skip
    custom_ops: str = _flag(
        "", "string", _RUNTIME,
        "Libraries of custom operations: paths, or packages that contain them; separated by commas, or "
        "given more than once.",
        is_repeatable=True, is_extra=True,
    )  # fmt: skip
    gpu_memory_growth: bool = _flag(
        False, "bool", _RUNTIME, "Take GPU memory as it is needed instead of nearly all at once.",
        library_default=True, is_extra=True,
    )  # fmt: skip
    generate_warmup: bool = _flag(
        True, "bool", _LOADING, "Warm up versions without recorded requests on inputs made from signatures.",
        is_extra=True,
    )  # fmt: skip
    memory_budget_bytes: int = _flag(
        0, "int64", _LOADING,
        "What all loaded versions together may be estimated at; 0: the memory of the machine or the control "
        "group.",
        minimum=0, is_extra=True,
    )  # fmt: skip
    check_complete: bool = _flag(
        False, "bool", _LOADING, "Wait until the files of a version are complete and no longer change.",
        library_default=True, is_extra=True,
    )  # fmt: skip
    initial_wait: str = _flag(
        "settled", "string", _LOADING,
        "When to open the ports. available: each model answers; none may be missing. settled, as TensorFlow "
        "Serving: however long a model is missing, and no version found may still be loading.",
        library_default="available", choices=("available", "settled"), is_extra=True,
    )  # fmt: skip
    reload_failed_after_seconds: float = _flag(
        0.0, "float", _LOADING,
        "Load a failed version that is still there anew after this, then after twice that, up to an hour; "
        "0: never.",
        library_default=30.0, minimum=0, is_extra=True,
    )  # fmt: skip


def _named(entry: dataclasses.Field[Any]) -> FlagInfo:
    info: FlagInfo = entry.metadata[_INFO]
    return dataclasses.replace(info, name=entry.name)


_TABLE = {entry.name: _named(entry) for entry in dataclasses.fields(Flags)}


def flag_table() -> Iterator[FlagInfo]:
    """Yield every flag, in the order of the usage text; those of inserve alone come last."""
    return iter(_TABLE.values())
