"""From flags to the models and options of a server: reads every config file and makes the start checks.

Order, texts and rules: TensorFlow Serving, ``model_servers/server.cc``. Nothing here opens TensorFlow's
library, so what is wrong with flags and files is said at once.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from inserve.cli.flags import Flags, flag_table
from inserve.errors import InvalidArgumentError

if TYPE_CHECKING:
    from inserve.batching.options import BatchingOptions
    from inserve.protos.messages import ModelServerConfig
    from inserve.server.model_server import Server
    from inserve.server.options import ServerOptions
    from inserve.server.platform_config import PlatformSettings

__all__ = ["BIND_FAILED", "ServerPlan", "channel_arguments", "flags_without_effect", "plan_server"]

_logger = logging.getLogger("inserve.server")

_MICROS_PER_S = 1e6
_MILLIS_PER_S = 1e3
_INT32 = range(-(2**31), 2**31)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_PORTS = ("port", "rest_api_port")
_PORT_NUMBERS = range(65536)

BIND_FAILED = "Failed to BuildAndStart gRPC server"
"""What is said where a gRPC address cannot be bound."""

_REPLACED_BY_PLATFORM_CONFIG = (
    "enable_batching",
    "batching_parameters_file",
    "enable_per_model_batching_parameters",
    "tensorflow_session_config_file",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
    "per_process_gpu_memory_fraction",
    "saved_model_tags",
    "enable_model_warmup",
    "num_request_iterations_for_warmup",
    "remove_unused_fields_from_bundle_metagraph",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "mixed_precision",
    "gpu_memory_growth",
)


@dataclass(frozen=True)
class ServerPlan:
    """What a server is made of, all checked."""

    models: dict[str, str] | str
    """The base path of the one model by its name, or the path of the model config file."""
    model_names: tuple[str, ...] | None
    """The configured models; None if the config file says neither list nor custom config."""
    options: ServerOptions

    def make_server(self) -> Server:
        """Return the server, not started."""
        from inserve.server.model_server import Server

        return Server.of_options(self.options, self.models)


def plan_server(flags: Flags, given: Collection[str]) -> ServerPlan:
    """Return the plan that *flags* make, of which those named by *given* were set on the command line.

    Raises:
        InserveError: A flag is out of its range, or a file is wrong; what a parser found is in the log.
    """
    _check_ranges(flags)
    if not flags.port and not flags.grpc_socket_path:
        raise InvalidArgumentError(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if flags.port not in _PORT_NUMBERS:
        raise InvalidArgumentError(BIND_FAILED)
    if flags.use_alts_credentials and flags.ssl_config_file:
        raise InvalidArgumentError(
            "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )
    if not flags.model_base_path and not flags.model_config_file:
        raise InvalidArgumentError(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    from inserve.server.config_files import model_configs

    with _parser_errors_logged():
        config = _model_server_config(flags)
        platform = _platform_settings(flags)
        models = model_configs(config, platforms=() if platform is None else ("tensorflow",))
        if flags.thread_pool_factory_config_file:
            from inserve.server.thread_pool_config import check_thread_pool_factory_config

            check_thread_pool_factory_config(flags.thread_pool_factory_config_file)
        options = _options(flags, given, platform)
    return ServerPlan(
        flags.model_config_file or {flags.model_name: flags.model_base_path},
        None if config.WhichOneof("config") is None else tuple(model.name for model in models),
        options,
    )


def flags_without_effect(flags: Flags, given: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each flag of *given* that changes nothing."""
    for info in flag_table():
        if info.name not in given:
            continue
        if info.no_effect and getattr(flags, info.name) != info.default:
            yield f"--{info.name} has no effect: {info.no_effect}"
        elif flags.platform_config_file and info.name in _REPLACED_BY_PLATFORM_CONFIG:
            yield f"--{info.name} has no effect beside --platform_config_file"


def channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """Return the ``key=value`` items of *text*; a value that reads as int32 becomes one.

    Raises:
        InvalidArgumentError: An item has no ``=`` or no key.
    """
    arguments: list[tuple[str, int | str]] = []
    for item in text.split(",") if text else ():
        key, has_value, value = item.partition("=")
        if not has_value or not key:
            raise InvalidArgumentError(f"grpc_channel_arguments has the item {item!r}, expected key=value")
        is_number = bool(_INTEGER.fullmatch(value)) and len(value) < 16 and int(value) in _INT32
        arguments.append((key, int(value) if is_number else value))
    return tuple(arguments)


def _check_ranges(flags: Flags) -> None:
    """Check every flag except the ports, about which more than the range is checked elsewhere."""
    for info in flag_table():
        value = getattr(flags, info.name)
        if info.minimum is None or info.name in _PORTS or value >= info.minimum:
            continue
        if info.name == "rest_api_num_threads" and not flags.rest_api_port:
            continue
        raise InvalidArgumentError(f"{info.name} is {value}, expected at least {info.minimum}")


@contextmanager
def _parser_errors_logged() -> Iterator[None]:
    """Log where and why a text file cannot be parsed; the error that goes on names the file only."""
    from inserve.server.config_files import ConfigSyntaxError

    try:
        yield
    except ConfigSyntaxError as error:
        _logger.error("%s", error.parser_line)  # noqa: TRY400 - the traceback says nothing more
        raise InvalidArgumentError(error.summary) from error


def _model_server_config(flags: Flags) -> ModelServerConfig:
    from inserve.protos import messages
    from inserve.server.config_files import read_text_proto

    if flags.model_config_file:
        return read_text_proto(flags.model_config_file, messages.ModelServerConfig)
    _logger.info(
        "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
        flags.model_name,
        flags.model_base_path,
    )
    config = messages.ModelServerConfig()
    config.model_config_list.config.add(
        name=flags.model_name, base_path=flags.model_base_path, model_platform="tensorflow"
    )
    return config


def _platform_settings(flags: Flags) -> PlatformSettings | None:
    """Return how models are loaded; None if the platform config file has no platform."""
    from inserve.server.platform_config import PlatformSettings, read_platform_config

    if flags.platform_config_file:
        platform = read_platform_config(flags.platform_config_file, flags.strict_batching)
        for name in () if platform is None else platform.without_effect:
            _logger.warning("%s of %s has no effect", name, flags.platform_config_file)
        return platform
    if flags.batching_parameters_file and not flags.enable_batching:
        raise InvalidArgumentError(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    batching = None
    if flags.auto_batching:
        batching = _auto_batching(flags)
    elif flags.enable_batching:
        from inserve.server.batching_config import read_batching_options

        batching = read_batching_options(flags.batching_parameters_file or None, flags.strict_batching)
    return PlatformSettings(
        session_config=_session_config(flags),
        tags=tuple(flags.saved_model_tags.split(",")) if flags.saved_model_tags else ("serve",),
        batching=batching,
        enable_per_model_batching_parameters=flags.enable_per_model_batching_parameters,
        enable_model_warmup=flags.enable_model_warmup,
        num_request_iterations_for_warmup=max(1, flags.num_request_iterations_for_warmup),
        prefer_tflite_model=flags.prefer_tflite_model,
        num_tflite_pools=flags.num_tflite_pools,
        num_tflite_interpreters_per_pool=flags.num_tflite_interpreters_per_pool,
    )


def _auto_batching(flags: Flags) -> BatchingOptions:
    from inserve.batching.options import BatchingOptions

    for name in ("strict_batching", "batching_parameters_file", "enable_per_model_batching_parameters"):
        if getattr(flags, name):
            raise InvalidArgumentError(f"expected either auto_batching or {name}, got both")
    return BatchingOptions.auto()


def _session_config(flags: Flags) -> bytes:
    from inserve.server.session_config import SessionSettings, session_config

    settings = SessionSettings(
        **{field.name: getattr(flags, field.name) for field in dataclasses.fields(SessionSettings)}
    )
    return session_config(flags.tensorflow_session_config_file or None, settings)


def _options(flags: Flags, given: Collection[str], platform: PlatformSettings | None) -> ServerOptions:
    ssl = prometheus_path = None
    if flags.ssl_config_file:
        from inserve.server.ssl_config import read_ssl_options

        ssl = read_ssl_options(flags.ssl_config_file)
    rest = _address(flags.host or "::", flags.rest_api_port)
    if rest and flags.monitoring_config_file:
        from inserve.server.monitoring_config import read_prometheus_path

        prometheus_path = read_prometheus_path(flags.monitoring_config_file)
    from inserve.server.options import ServerOptions
    from inserve.server.platform_config import PlatformSettings

    loading: dict[str, Any] = dataclasses.asdict(PlatformSettings() if platform is None else platform)
    del loading["without_effect"]
    loading["batching"] = None if platform is None else platform.batching
    try:
        return ServerOptions(
            grpc=_grpc_addresses(flags),
            grpc_transport=cast("Literal['auto', 'native', 'grpcio']", flags.grpc_transport),
            grpc_channel_arguments=channel_arguments(flags.grpc_channel_arguments),
            # The default of the C++ server, 4 per processor, would be few where calls wait for a batch.
            max_workers=(
                flags.grpc_max_threads if "grpc_max_threads" in given else ServerOptions.max_workers
            ),
            check_shapes=flags.check_input_shapes,
            rest=rest,
            rest_timeout=(
                flags.rest_api_timeout_in_ms / _MILLIS_PER_S if flags.rest_api_timeout_in_ms > 0 else None
            ),
            rest_cors=flags.rest_api_enable_cors_support,
            prometheus_path=prometheus_path,
            ssl=ssl,
            use_alts_credentials=flags.use_alts_credentials,
            enable_reflection=flags.enable_reflection,
            enable_profiler=flags.enable_profiler,
            enable_session_service=flags.enable_session_service,
            custom_ops=tuple(name for name in flags.custom_ops.split(",") if name),
            serialize_as_tensor_content=flags.enable_serialization_as_tensor_content,
            enable_signature_method_name_check=flags.enable_signature_method_name_check,
            poll_interval=(
                None if flags.file_system_poll_wait_seconds < 0 else flags.file_system_poll_wait_seconds
            ),
            generate_warmup=flags.generate_warmup,
            workers=flags.workers,
            # What the flags say of memory is in the session config.
            gpu_memory_growth=False,
            devices=tuple(name for name in flags.devices.split(",") if name),
            tune=flags.tune,
            low_priority_pool=flags.low_priority_pool,
            cache_dir=flags.tuning_cache_dir or None,
            memory_budget=flags.memory_budget_bytes or None,
            check_complete=flags.check_complete,
            config_poll_interval=(
                flags.model_config_file_poll_wait_seconds
                if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0
                else None
            ),
            allow_remote_reload=flags.allow_remote_reload,
            enable_grpc_healthcheck_service=flags.enable_grpc_healthcheck_service,
            initial_wait=cast("Literal['available', 'settled']", flags.initial_wait),
            num_load_threads=flags.num_load_threads,
            num_unload_threads=flags.num_unload_threads,
            max_num_load_retries=flags.max_num_load_retries,
            load_retry_interval=max(0, flags.load_retry_interval_micros) / _MICROS_PER_S,
            reload_failed_after=flags.reload_failed_after_seconds or None,
            allow_version_labels_for_unavailable_models=flags.allow_version_labels_for_unavailable_models,
            **loading,
        )
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error


def _grpc_addresses(flags: Flags) -> tuple[str, ...]:
    unix = (f"unix:{flags.grpc_socket_path}",) if flags.grpc_socket_path else ()
    return _address(flags.host or "0.0.0.0", flags.port) + unix


def _address(host: str, port: int) -> tuple[str, ...]:
    """Return the address of *port* on *host*, none for port 0."""
    if not port:
        return ()
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}",)
