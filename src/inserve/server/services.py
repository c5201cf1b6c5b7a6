"""The handlers of a server and the gRPC methods that reach them; front-ends are built on these."""

from __future__ import annotations

from collections.abc import Callable

from inserve.frontends.grpc_api.method import MethodTable, TogetherTable
from inserve.frontends.grpc_api.model_service import model_service_methods
from inserve.frontends.grpc_api.prediction_service import predict_together_method, prediction_service_methods
from inserve.frontends.grpc_api.profiler_service import TENSORFLOW_PROFILER, profiler_service_methods
from inserve.frontends.grpc_api.session_service import session_service_methods
from inserve.handlers.classify import ClassifyHandler
from inserve.handlers.health import HealthHandler
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.model_spec import ServableFinder
from inserve.handlers.model_status import AnswersModelStatus, KnownStates, ModelStatusHandler
from inserve.handlers.multi_inference import MultiInferenceHandler
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_together import PredictTogether
from inserve.handlers.regress import RegressHandler
from inserve.handlers.reload_config import ReloadConfigHandler
from inserve.handlers.request_tap import RequestTap
from inserve.handlers.session_run import SessionRunHandler
from inserve.metrics.registry import Registry
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.protos import messages
from inserve.server.models import Models
from inserve.server.options import ServerOptions
from inserve.server.workers.parent_link import ParentLink, off_receiving_thread

__all__ = ["Services"]


class Services:
    """One handler for each RPC, over the servables that *finder* finds; built once, called by many threads.

    *reload* applies a ModelServerConfig, within so many seconds. *states* are those that status calls
    show. *model_state* tells whether a model is available, None where there is no such model. What
    concerns all processes of a server is left to *parent*, if there is one.
    """

    def __init__(
        self,
        options: ServerOptions,
        finder: ServableFinder,
        models: Models,
        states: KnownStates,
        reload: Callable[[messages.ModelServerConfig, float | None], None],
        model_state: Callable[[str], bool | None],
        parent: ParentLink | None = None,
    ) -> None:
        check_method = options.enable_signature_method_name_check
        self._options = options
        self._parent = parent
        self.models = models
        self.metrics = ServingMetrics(Registry())
        self.request_tap = RequestTap()
        self.predict = PredictHandler(
            finder, options.serialize_as_tensor_content, check_method, self.request_tap
        )
        self._predict_together = PredictTogether(
            finder, options.serialize_as_tensor_content, self.request_tap
        )
        self.classify = ClassifyHandler(finder, check_method, self.request_tap)
        self.regress = RegressHandler(finder, check_method, self.request_tap)
        self.multi_inference = MultiInferenceHandler(finder, check_method, self.request_tap)
        self.model_metadata = ModelMetadataHandler(finder)
        self.model_status: AnswersModelStatus = (
            ModelStatusHandler(states, models.waiting) if parent is None else parent
        )
        self.reload_config = ReloadConfigHandler(
            reload if parent is None else parent.reload, counter=self.metrics.value
        )
        self.session_run = SessionRunHandler(finder, options.serialize_as_tensor_content)
        self.health = HealthHandler(model_state)

    @property
    def predict_together(self) -> PredictTogether | None:
        """What answers several Predict requests at once; None to the letter of TensorFlow Serving."""
        batching = self._options.batching_options()
        is_strict = batching is not None and batching.strict
        if is_strict or self._options.enable_signature_method_name_check:
            return None
        return self._predict_together

    def together_methods(self) -> TogetherTable:
        """Return the gRPC methods that take several calls at once."""
        together = self.predict_together
        return {} if together is None else predict_together_method(together, self.metrics)

    def grpc_methods(self, allow_reload: bool) -> MethodTable:
        """Return the gRPC methods by path, bytes to bytes.

        Without *allow_reload* ``HandleReloadConfigRequest`` is refused.
        """
        model_service = model_service_methods(
            self.model_status, self.reload_config, allow_reload=allow_reload
        )
        if self._parent is not None:
            model_service = {path: off_receiving_thread(method) for path, method in model_service.items()}
        methods = {
            **prediction_service_methods(
                self.predict,
                self.classify,
                self.regress,
                self.multi_inference,
                self.model_metadata,
                self.metrics,
            ),
            **model_service,
        }
        if self._options.enable_session_service:
            methods.update(session_service_methods(self.session_run))
        if self._options.enable_profiler:
            methods.update(profiler_service_methods(TENSORFLOW_PROFILER))
        return methods
