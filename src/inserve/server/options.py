"""The options of a server, all parts together; immutable and checked when built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from inserve.frontends.grpc_api.grpc_server import TransportName
from inserve.sources.remote_source import RemoteSourceOptions
from inserve.tensorflow_c.devices import short_device_name, with_gpu_memory

if TYPE_CHECKING:
    from inserve.batching.options import BatchingOptions
    from inserve.frontends.grpc_api.credentials import SslOptions

__all__ = ["InitialWait", "ServerOptions", "addresses", "initial_load_threads"]

InitialWait: TypeAlias = Literal["available", "settled"]

_SEQUENCES = ("grpc", "rest", "grpc_channel_arguments", "custom_ops", "devices", "tags")


def _default_workers() -> int:
    return max(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class ServerOptions:
    """How a server loads models and where it listens. Durations are seconds.

    Raises:
        ValueError: A value is out of its range.
    """

    grpc: tuple[str, ...] = ()
    """Addresses of the gRPC server: ``host:port`` (port 0 takes a free one) or ``unix:path``."""
    grpc_transport: TransportName = "auto"
    """``native`` (pygrpc-native) or ``grpcio``; ``auto`` takes native where it can serve."""
    max_workers: int = _default_workers()
    """Threads for calls that take long; short ones run where they arrive."""
    max_queued: int = 1024
    """Long calls that may wait for such a thread; more are refused with RESOURCE_EXHAUSTED."""
    check_shapes: bool = True
    """Refuse inputs whose rank or sizes differ from the signature."""
    rest: tuple[str, ...] = ()
    """Addresses ``host:port`` of the REST server (port 0 takes a free one)."""
    rest_timeout: float | None = 30.0
    """How long a model may run for one REST request; None without limit."""
    rest_cors: bool = False
    """Send the headers that let pages of any origin use the REST API."""
    rest_max_body_bytes: int = 2**31 - 1
    """The largest body that the REST server reads."""
    prometheus_path: str | None = None
    """Path on the REST server of a page with the metrics for Prometheus; None: there is none."""
    ssl: SslOptions | None = None
    """Key and certificate for TLS on the gRPC addresses."""
    use_alts_credentials: bool = False
    """Google's ALTS on the gRPC addresses instead; works on Google Cloud only."""
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    """gRPC's own arguments (``grpc.max_concurrent_streams``, ...)."""
    enable_reflection: bool = False
    """Answer gRPC server reflection, so that tools need no definitions."""
    enable_profiler: bool = False
    """Answer ``tensorflow.ProfilerService``, which TensorBoard captures profiles with; the first capture
    imports TensorFlow."""
    enable_session_service: bool = False
    """Answer ``tensorflow.serving.SessionService``: runs of tensors by their names in the graph."""
    low_priority_pool: bool = True
    """Let long runs, which go to TensorFlow's pool, yield to everything else that wants a processor, so that
    a slow model does not delay a fast one."""
    gpu_memory_growth: bool = True
    """Take memory of GPUs as it is needed; not where *session_config* has ``gpu_options`` of its own."""
    gpu_memory_fraction: float | None = None
    """The most that this process takes of each GPU's memory, a share of it; None: no limit."""
    devices: tuple[str, ...] = ()
    """Load each model once on each of these (``GPU:0``, ``GPU:1``) and spread its requests over them; a
    device may stand there twice. Empty: TensorFlow chooses one place."""
    custom_ops: tuple[str, ...] = ()
    """Libraries of custom operations: paths, or packages that contain them."""
    batching: BatchingOptions | Literal["auto"] | None = None
    """Merge concurrent requests into batches; ``auto``: of the size that measurably pays; None: do not."""
    enable_per_model_batching_parameters: bool = False
    """Take the parameters of *batching* from the ``batching_params.pbtxt`` of each version that has one."""
    prefer_tflite_model: bool = False
    """Serve ``model.tflite`` of a version where there is one."""
    num_tflite_pools: int | None = None
    """Pools of interpreters for each TFLite model; None: as many as processors."""
    num_tflite_interpreters_per_pool: int = 1
    """Interpreters in each of these pools."""
    workers: int = 1
    """Processes that serve the same models at the same TCP ports, this one included; each loads its own
    copy of every model. Unix sockets are this one's alone."""
    reuse_port: bool = False
    """Let other processes listen on the same TCP ports (``SO_REUSEPORT``); always so with *workers*."""
    serialize_as_tensor_content: bool = False
    """Put the values of responses into ``tensor_content`` instead of typed fields."""
    enable_signature_method_name_check: bool = False
    """Refuse signatures whose ``method_name`` is not that of the API that calls them."""
    tags: tuple[str, ...] = ("serve",)
    """The meta graph with exactly these tags is loaded from each SavedModel."""
    session_config: bytes = b""
    """A serialized ``tensorflow.ConfigProto`` for every session."""
    enable_model_warmup: bool = True
    """Warm up each version before it is available; its own recorded requests are replayed, if it has
    any (``assets.extra/tf_serving_warmup_requests``), and one that fails, fails the load."""
    num_request_iterations_for_warmup: int = 1
    """How often each recorded request is replayed."""
    generate_warmup: bool = True
    """Warm up versions without recorded requests too, with inputs made from their signatures."""
    tune: bool = True
    """Measure, when a version is loaded, where its graphs run fastest and with how many threads."""
    tuning_budget: float = 1.0
    """What the measuring of a version may take; as much again for a second load of it."""
    cache_dir: str | None = None
    """The folder where measurements are kept for the next start; None: ``INSERVE_CACHE_DIR`` or a folder in
    the user's cache; empty: they are not kept."""
    poll_interval: float | None = 1.0
    """How often model folders are looked at; 0 once, None only on ``models.refresh()``."""
    check_complete: bool = True
    """Wait until a version's files are complete and have stopped changing."""
    config_poll_interval: float | None = None
    """How often the model config file is looked at and applied if it has changed; None never."""
    allow_remote_reload: bool = False
    """Let remote callers replace the models (``HandleReloadConfigRequest``)."""
    enable_grpc_healthcheck_service: bool = False
    """Answer ``grpc.health.v1.Health`` at the addresses of *grpc*."""
    initial_wait: InitialWait = "available"
    """What ``start`` waits for: ``available``, that each model answers, failing where none can; or
    ``settled``, as TensorFlow Serving does, see ``Models.wait_until_settled``."""
    num_load_threads: int = 2
    """How many versions may load at once; 4 per processor until the start is over."""
    num_unload_threads: int = 1
    """How many versions may unload at once."""
    max_num_load_retries: int = 0
    """How often a failed load is repeated before the version counts as failed."""
    load_retry_interval: float = 60.0
    """Pause before each of these repetitions."""
    reload_failed_after: float | None = 30.0
    """A failed version that is still there is tried anew after this, then after twice that, up to an
    hour; None: only when asked (``models.retry``)."""
    remote: RemoteSourceOptions | None = None
    """Where copies of remote models are kept and how their stores are polled; None: the defaults."""
    memory_budget: int | None = None
    """Bytes that all loaded versions, of all processes together, may be estimated at; None: the control
    group's limit or the machine's memory."""
    allow_version_labels_for_unavailable_models: bool = True
    """Let a new label name a version that is not available yet."""

    def __post_init__(self) -> None:
        for name in _SEQUENCES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, least in (
            ("max_workers", 1),
            ("workers", 1),
            ("max_queued", 0),
            ("rest_max_body_bytes", 0),
            ("num_tflite_interpreters_per_pool", 1),
            ("num_request_iterations_for_warmup", 1),
            ("num_load_threads", 0),
            ("num_unload_threads", 0),
            ("max_num_load_retries", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        if self.reload_failed_after is not None and self.reload_failed_after <= 0:
            raise ValueError(f"reload_failed_after is {self.reload_failed_after}, expected above 0 or None")
        if self.config_poll_interval is not None and not self.config_poll_interval > 0:
            raise ValueError(f"config_poll_interval is {self.config_poll_interval}, expected above 0 or None")
        if self.rest_timeout is not None and not self.rest_timeout > 0:
            raise ValueError(f"rest_timeout is {self.rest_timeout}, expected above 0 or None")
        if not self.tuning_budget >= 0:
            raise ValueError(f"tuning_budget is {self.tuning_budget}, expected at least 0")
        if isinstance(self.batching, str) and self.batching != "auto":
            raise ValueError(f"batching is {self.batching!r}, expected BatchingOptions, 'auto' or None")
        if self.num_tflite_pools is not None and self.num_tflite_pools < 1:
            raise ValueError(f"num_tflite_pools is {self.num_tflite_pools}, expected at least 1 or None")
        if self.prometheus_path is not None and not self.prometheus_path.startswith("/"):
            raise ValueError(f"prometheus_path is {self.prometheus_path!r}, expected it to start with /")
        object.__setattr__(self, "devices", tuple(map(short_device_name, self.devices)))
        self.complete_session_config()
        if self.ssl is not None and self.use_alts_credentials:
            raise ValueError("expected either ssl or use_alts_credentials, got both")
        if self.initial_wait not in get_args(InitialWait):
            raise ValueError(f"initial_wait is {self.initial_wait!r}, expected 'available' or 'settled'")
        if self.memory_budget is not None and self.memory_budget < 0:
            raise ValueError(f"memory_budget is {self.memory_budget}, expected at least 0 or None")

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the names of all options."""
        return frozenset(option.name for option in fields(cls))

    def complete_session_config(self) -> bytes:
        """Return the serialized ``ConfigProto`` of every session."""
        return with_gpu_memory(self.session_config, self.gpu_memory_growth, self.gpu_memory_fraction)

    def batching_options(self) -> BatchingOptions | None:
        """Return how requests are batched, None where they are not."""
        if self.batching == "auto":
            from inserve.batching.options import BatchingOptions

            return BatchingOptions.auto()
        return self.batching

    def budget(self) -> Mapping[str, int] | None:
        """Return the memory budget by device, or None for the machine's."""
        return None if self.memory_budget is None else {"main": self.memory_budget}


def addresses(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one address, several or none as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def initial_load_threads() -> int:
    """Return how many versions load at once during the start (``model_servers/server_core.h``)."""
    return 4 * (os.cpu_count() or 1)
