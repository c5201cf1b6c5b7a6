"""``inserve.Server``: builds the parts, starts them in order, stops them in reverse."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

from inserve.errors import NotFoundError
from inserve.frontends.grpc_api.add_to import add_methods_to
from inserve.frontends.grpc_api.grpc_server import TransportName
from inserve.frontends.grpc_api.inprocess_aio_channel import InprocessAioChannel
from inserve.frontends.grpc_api.inprocess_channel import InprocessChannel
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import MethodTable
from inserve.frontends.rest_api.app import RestApp
from inserve.handlers.model_spec import ServableFinder
from inserve.handlers.model_status import KnownStates
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManager, AspiredVersionsManagerOptions
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader_harness import RetryPolicy
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.servable_state import ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.source import ServableData
from inserve.lifecycle.version_labels import VersionLabels
from inserve.metrics.prometheus_page import prometheus_page
from inserve.metrics.registry import add_up
from inserve.protos import messages
from inserve.resources.tracker import ResourceTracker
from inserve.saved_model.tuning import Tuning
from inserve.server.config_file_poller import ConfigFilePoller, file_fingerprint
from inserve.server.config_files import model_configs, read_model_configs
from inserve.server.grpc_listener import grpc_transport_options, make_grpc_server
from inserve.server.inprocess_calls import InprocessCalls
from inserve.server.model_config import ModelConfig
from inserve.server.model_loading import ModelLoading
from inserve.server.models import Models
from inserve.server.options import InitialWait, ServerOptions, addresses, initial_load_threads
from inserve.server.rest_listener import RestListener
from inserve.server.services import Services
from inserve.server.workers.merged_states import MergedStates
from inserve.server.workers.parent_link import ParentLink
from inserve.server.workers.worker_group import WorkerStatus
from inserve.server.workers.workers import Workers, budget_of_process
from inserve.sources.remote_source import RemoteSourceOptions
from inserve.sources.storage_path_source import StoragePathSource
from inserve.tensorflow_c.devices import Device, list_devices
from inserve.tensorflow_c.pool_priority import lower_pool_priority

if TYPE_CHECKING:
    import grpc as grpc_package

    from inserve.batching.options import BatchingOptions
    from inserve.frontends.grpc_api.credentials import SslOptions

__all__ = ["ModelsArgument", "Server"]

ModelsArgument: TypeAlias = (
    Mapping[str, str | os.PathLike[str]] | Sequence[ModelConfig] | str | os.PathLike[str]
)
"""Base paths by name, configurations, or the path of a ``model_config_list`` text file."""

_STOP_LIMIT_S = 60.0


class Server(InprocessCalls):
    """Serves models in this process: to plain calls, to gRPC stubs without a socket, and over gRPC.

    Constructing checks the arguments and does nothing else. ``start`` (or entering a ``with`` or
    ``async with`` block) loads the models, waits until each answers, and opens the ports; ``stop``
    closes them, lets running requests finish and unloads. A server is started once. Any thread may
    call any method; no signal handler is installed.

    The arguments are the fields of ``ServerOptions``; *grpc* may also be one address or None.
    """

    def __init__(
        self,
        models: ModelsArgument = (),
        *,
        grpc: str | Sequence[str] | None = None,
        rest: str | Sequence[str] | None = None,
        grpc_transport: TransportName = "auto",
        grpc_channel_arguments: Sequence[tuple[str, int | str]] = (),
        ssl: SslOptions | None = None,
        use_alts_credentials: bool = False,
        rest_timeout: float | None = 30.0,
        rest_cors: bool = False,
        rest_max_body_bytes: int = ServerOptions.rest_max_body_bytes,
        prometheus_path: str | None = None,
        max_workers: int = ServerOptions.max_workers,
        max_queued: int = ServerOptions.max_queued,
        workers: int = 1,
        reuse_port: bool = False,
        check_shapes: bool = True,
        serialize_as_tensor_content: bool = False,
        enable_signature_method_name_check: bool = False,
        tags: Sequence[str] = ("serve",),
        session_config: bytes = b"",
        low_priority_pool: bool = True,
        gpu_memory_growth: bool = True,
        gpu_memory_fraction: float | None = None,
        devices: Sequence[str] = (),
        custom_ops: Sequence[str] = (),
        batching: BatchingOptions | Literal["auto"] | None = None,
        enable_per_model_batching_parameters: bool = False,
        prefer_tflite_model: bool = False,
        num_tflite_pools: int | None = None,
        num_tflite_interpreters_per_pool: int = 1,
        enable_model_warmup: bool = True,
        num_request_iterations_for_warmup: int = 1,
        generate_warmup: bool = True,
        tune: bool = True,
        tuning_budget: float = 1.0,
        cache_dir: str | None = None,
        poll_interval: float | None = 1.0,
        check_complete: bool = True,
        config_poll_interval: float | None = None,
        allow_remote_reload: bool = False,
        enable_grpc_healthcheck_service: bool = False,
        enable_reflection: bool = False,
        enable_profiler: bool = False,
        enable_session_service: bool = False,
        initial_wait: InitialWait = "available",
        num_load_threads: int = 2,
        num_unload_threads: int = 1,
        max_num_load_retries: int = 0,
        load_retry_interval: float = 60.0,
        reload_failed_after: float | None = 30.0,
        remote: RemoteSourceOptions | None = None,
        memory_budget: int | None = None,
        allow_version_labels_for_unavailable_models: bool = True,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in ServerOptions.names()}
        options = ServerOptions(**{**given, "grpc": addresses(grpc), "rest": addresses(rest)})
        self._set_up(options, models, None)

    @classmethod
    def of_options(
        cls, options: ServerOptions, models: ModelsArgument = (), parent: ParentLink | None = None
    ) -> Server:
        """Return the server with *options*; *parent* leads to the process it is a worker of, if any."""
        server = cls.__new__(cls)
        server._set_up(options, models, parent)
        return server

    def _set_up(self, options: ServerOptions, models: ModelsArgument, parent: ParentLink | None) -> None:
        self.options = options
        self._parent = parent
        self._config_poller = self._make_config_poller(models)
        self._initial_models = _model_configs(models)
        self._life_lock = threading.Lock()
        self._state = "not started"
        self._workers: Workers | None = None
        if options.workers > 1:
            self._workers = Workers(
                options.workers - 1,
                self._reload,
                lambda request: self._services.model_status.get_model_status_message(request),
                lambda: self._metrics_page(),
                self._available_models,
            )

        bus: EventBus[ServableState] = EventBus()
        self._monitor = ServableStateMonitor(bus)
        if parent is not None:
            bus.subscribe(parent.tell_state)
        self._tracker = ResourceTracker(budget_of_process(options))
        self._devices: tuple[Device, ...] = ()
        self._manager = AspiredVersionsManager(
            AspiredVersionsManagerOptions(
                num_load_threads=max(options.num_load_threads, initial_load_threads()),
                num_unload_threads=options.num_unload_threads,
                retry=RetryPolicy(
                    options.max_num_load_retries, options.load_retry_interval, options.reload_failed_after
                ),
            ),
            bus=bus,
            tracker=self._tracker,
        )
        labels = VersionLabels(
            self._monitor.is_available,
            allow_unavailable=options.allow_version_labels_for_unavailable_models,
        )
        self._source = StoragePathSource(
            poll_interval_s=options.poll_interval,
            check_complete=options.check_complete,
            remote=options.remote,
        )
        self._source.set_aspired_versions_callback(self._aspire)
        self.models = Models(
            self._source,
            self._monitor,
            labels,
            self._manager,
            followers=self._workers,
            on_change=lambda: self._services.health.changed(),
            prepare=lambda models: self._loading.prepare(models),
            tuning=self._tuning_of,
        )
        """The models served: add, remove, list, label them and ask for their status."""

        self._finder = ServableFinder(self._manager, labels)
        states: KnownStates = self._monitor
        if self._workers is not None:
            states = MergedStates(self._monitor, self._workers.states)
        self._services = Services(
            options, self._finder, self.models, states, self._reload, self._model_state, parent
        )
        health = self._services.health
        bus.subscribe(lambda _: health.changed())
        self.metrics = self._services.metrics
        """What this process has counted and measured."""
        self._loading = ModelLoading(options, self.metrics)
        self.request_tap = self._services.request_tap
        """Where answered requests can be listened to."""
        self._predict = self._services.predict
        self.grpc_methods: MethodTable = self._services.grpc_methods(options.allow_remote_reload)
        """The gRPC methods by path, bytes to bytes, as remote callers may use them."""
        transport_options = grpc_transport_options(options)
        self._inprocess = InprocessTarget(self._services.grpc_methods(allow_reload=True), transport_options)
        self._pool = self._inprocess.pool
        self._grpc_server = make_grpc_server(self._services, options, transport_options)
        self._rest = RestListener(self._services, self._finder, options, self._metrics_page)

    def __repr__(self) -> str:
        where = "" if self._grpc_server is None else f" grpc {', '.join(self.grpc_addresses)}"
        where += f" rest {', '.join(self.rest_addresses)}" if self.rest_addresses else ""
        return f"<Server {self._state}{where} {self.models!r}>"

    # --- life -------------------------------------------------------------------------------------

    def start(self, timeout: float | None = None) -> Server:
        """Load the models, wait until each has a version that answers, open the ports; return self.

        Nothing is left running when it raises.

        Raises:
            NotFoundError: A model's folder does not exist or holds no version.
            UnknownError: A model failed to load; the text says why, for each.
            DeadlineExceededError: *timeout* seconds have passed.
            UnavailableError: An address cannot be bound.
            MissingExtraError: TensorFlow is not installed.
            RuntimeError: The server was started before.
        """
        with self._life_lock:
            if self._state != "not started":
                raise RuntimeError(f"a server starts once, this one is {self._state}; make a new one")
            self._state = "starting"
            try:
                # TensorFlow's pools inherit the priority of the thread that first needs them, and
                # load threads have a low one.
                self._see_devices(list_devices(self.options.complete_session_config()))
                if self.options.low_priority_pool:
                    lower_pool_priority()
                if self._workers is not None:
                    self._workers.launch(self.options)
                self._manager.start()
                self.models.open()
                self.models.replace_all(self._initial_models)
                self._source.start()
                if self._parent is not None and self._parent.is_replacement:
                    self._parent.wait_for_models(self.models)
                elif self.options.initial_wait == "settled":
                    self.models.wait_until_settled(timeout)
                else:
                    self.models.wait_until_available(timeout=timeout)
                self._manager.set_num_load_threads(self.options.num_load_threads)
                self._finder.open()
                self._services.health.open()
                if self._config_poller is not None:
                    self._config_poller.start()
                if self._grpc_server is not None:
                    self._grpc_server.start()
                self._rest.start()
                if self._workers is not None:
                    self._workers.start(
                        self.options, self.grpc_addresses, self.rest_addresses, self.models.list(), timeout
                    )
            except BaseException:  # Ctrl-C during a load too leaves no thread and no process behind
                self._shut_down(0.0)
                raise
            self._state = "running"
        return self

    def stop(self, grace: float = 30.0) -> None:
        """Refuse new requests, let running ones finish for *grace* seconds, unload everything.

        Returns when that is done; more calls do nothing.
        """
        with self._life_lock:
            if self._state == "running":
                self._shut_down(grace)
            elif self._state == "not started":
                self._state = "stopped"

    def _shut_down(self, grace: float) -> None:
        self._state = "stopping"
        deadline = time.monotonic() + grace
        self._services.health.close()
        workers = self._workers
        draining = threading.Thread(target=workers.stop, args=(grace,)) if workers is not None else None
        try:
            if draining is not None:
                draining.start()
            if self._grpc_server is not None:
                self._grpc_server.stop(grace)
            self._rest.stop(max(0.0, deadline - time.monotonic()))
            self._finder.close()
            self.models.close()
            if self._config_poller is not None:
                self._config_poller.stop(_STOP_LIMIT_S)
            self._inprocess.stop(max(0.0, deadline - time.monotonic()))
            self._source.stop(_STOP_LIMIT_S)
            self._manager.stop(_STOP_LIMIT_S)
            self._loading.stop(_STOP_LIMIT_S)
            self._monitor.close()
            if draining is not None:
                draining.join()
        finally:
            self._state = "stopped"

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Server:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def channel(self) -> grpc_package.Channel:
        """Return a channel for any generated stub, which reaches this server without a socket."""
        return InprocessChannel(self._inprocess)

    def aio_channel(self) -> grpc_package.aio.Channel:
        """Return the asyncio twin of ``channel``, to be used on one event loop."""
        return InprocessAioChannel(self._inprocess)

    def set_batching(self, model: str, options: BatchingOptions) -> None:
        """Form the batches of *model* by *options* from now on, those of later versions too.

        Raises:
            FailedPreconditionError: This server was made without *batching*.
            InvalidArgumentError: A value is out of its range.
            ValueError: *options* differ in ``strict`` from those of the server.
        """
        self._loading.set_batching(model, options)
        if self._workers is not None:
            self._workers.set_batching(model, options)

    def explain_batching(self, model: str) -> str:
        """Return in words and numbers how full the batches of *model* are, and what to change.

        Raises:
            FailedPreconditionError: This server was made without *batching*.
            NotFoundError: No version of *model* is loaded with batching.
        """
        return self._loading.explain_batching(model)

    def add_to(self, server: grpc_package.Server | grpc_package.aio.Server) -> None:
        """Put this server's gRPC services on *server*, before that one is started.

        Stop this server after that one.
        """
        add_methods_to(server, self.grpc_methods, self._pool)

    # --- where ------------------------------------------------------------------------------------

    @property
    def grpc_port(self) -> int | None:
        """The TCP port of the gRPC server (what port 0 became), None without one or before the start."""
        return None if self._grpc_server is None else self._grpc_server.port

    @property
    def grpc_addresses(self) -> tuple[str, ...]:
        """The bound gRPC addresses, in the order asked for; empty before the start."""
        return () if self._grpc_server is None else self._grpc_server.addresses

    @property
    def grpc_transport(self) -> str | None:
        """The transport in use, ``native`` or ``grpcio``; None without a gRPC server."""
        return None if self._grpc_server is None else self._grpc_server.transport

    @property
    def asgi(self) -> RestApp:
        """The REST API as an ASGI application, to be mounted in another one, under any prefix.

        It answers while this server runs, whether or not this server has REST addresses of its own.
        """
        return self._rest.app

    @property
    def rest_port(self) -> int | None:
        """The port of the REST server (what port 0 became), None without one or before the start."""
        return self._rest.port

    @property
    def rest_addresses(self) -> tuple[str, ...]:
        """The bound REST addresses, in the order asked for; empty before the start."""
        return self._rest.addresses

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that TensorFlow sees; empty before the start."""
        return self._devices

    @property
    def workers(self) -> tuple[WorkerStatus, ...]:
        """How each of the processes that serve stands, this one first; empty unless there are several."""
        return () if self._workers is None else self._workers.status()

    def _make_config_poller(self, models: ModelsArgument) -> ConfigFilePoller | None:
        """Return what polls the config file; made before the file is read for the first time."""
        interval_s = self.options.config_poll_interval
        if interval_s is None:
            return None
        if not isinstance(models, (str, os.PathLike)):
            raise TypeError("config_poll_interval: expected models to be the path of a config file")
        path = os.fspath(models)

        def apply() -> None:
            self.models.replace_all(read_model_configs(path, current=self.models.list()))

        return ConfigFilePoller(path, interval_s, apply, file_fingerprint(path))

    def _see_devices(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        self._loading.see_devices(device.short_name for device in devices)
        if self.options.memory_budget is None:
            for device in devices:
                if device.device_type != "CPU":
                    self._tracker.limit(device.short_name.lower(), device.memory_bytes)

    def _tuning_of(self, id: ServableId) -> Tuning | None:
        try:
            handle = self._manager.servable_handle(ServableRequest.specific(*id))
        except NotFoundError:
            return None
        with handle:
            tuning: Tuning = handle.servable.tuning
            return tuning

    def _model_state(self, name: str) -> bool | None:
        if name not in self.models:
            return None
        return bool(self._manager.available_versions(name))

    def _available_models(self) -> list[str]:
        return [config.name for config in self.models.list() if self._model_state(config.name)]

    def _metrics_page(self) -> bytes:
        """Return the page that Prometheus reads, of all processes together."""
        if self._parent is not None:
            return self._parent.metrics_page()
        others = [] if self._workers is None else self._workers.metrics()
        return prometheus_page(add_up([self.metrics.registry.snapshot(), *others]))

    def _reload(self, config: messages.ModelServerConfig, timeout_s: float | None) -> None:
        configs = model_configs(config, current=self.models.list())
        self.models.replace_all(configs, wait=True, timeout=timeout_s)

    def _aspire(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        """Hand the source's list to the manager, with a loader in place of each path."""
        self._manager.set_aspired_versions(
            name,
            [
                ServableData(
                    data.id,
                    None if data.payload is None else self._loading.loader(name, data.payload),
                    data.error,
                )
                for data in versions
            ],
        )


def _model_configs(models: ModelsArgument) -> list[ModelConfig]:
    if isinstance(models, (str, os.PathLike)):
        return read_model_configs(models)
    if isinstance(models, Mapping):
        return [ModelConfig(name, path) for name, path in models.items()]
    configs = list(models)
    names = set()
    for config in configs:
        if not isinstance(config, ModelConfig):
            raise TypeError(f"models takes ModelConfig objects, got {config!r}")
        if config.name in names:
            raise ValueError(f"model {config.name} is listed twice, expected each name once")
        names.add(config.name)
    return configs
