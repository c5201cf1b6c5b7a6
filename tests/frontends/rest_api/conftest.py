"""The REST API over handlers that remember what they were asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import Code, NotFoundError, ResourceExhaustedError
from inserve.frontends.rest_api.app import RestApp, RestHandlers, RestOptions
from inserve.handlers.inference_codec import Classification
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.metrics.request_record import RequestRecord
from inserve.protos import messages
from inserve.saved_model.signature import Signature, TensorSpec
from inserve.tensors.dtypes import DataType

FLOAT, STRING = DataType.DT_FLOAT.value, DataType.DT_STRING.value


class HeldPool:
    """Keeps what is submitted until the test runs it."""

    def __init__(self) -> None:
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.is_full = False
        self.was_given = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        if self.is_full:
            raise ResourceExhaustedError("too many calls")
        future: Future[Any] = Future()
        self.held.append((future, lambda: fn(*args)))
        self.was_given.set()
        return future

    def run_all(self) -> int:
        """Run what is held and was not cancelled; return how many that were."""
        held, self.held = self.held, []
        count = 0
        for future, run in held:
            if future.set_running_or_notify_cancel():
                count += 1
                future.set_result(run())
        return count

    def cancel_all(self) -> None:
        """Give up what is held, as a pool that stops."""
        held, self.held = self.held, []
        for future, _ in held:
            future.cancel()
            future.set_running_or_notify_cancel()


class Bench:
    """Handlers for a model ``m`` that adds 1 to ``x``; set *is_long* for a run that must not block."""

    is_quick = True  # its status never asks another process

    def __init__(self) -> None:
        self.pool = HeldPool()
        self.is_long = False
        self.error: BaseException | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.counted: list[tuple[str | None, str, Code]] = []
        self.signatures_by_name: dict[str, Signature] = {
            "serving_default": Signature(
                "serving_default",
                "tensorflow/serving/predict",
                [TensorSpec("x", "x:0", FLOAT, (None,))],
                [TensorSpec("y", "y:0", FLOAT, (None,))],
            ),
            "two": Signature(
                "two",
                "tensorflow/serving/predict",
                [TensorSpec("a", "a:0", FLOAT, (None,)), TensorSpec("b", "b:0", FLOAT, (None,))],
                [TensorSpec("y", "y:0", FLOAT, (None,))],
            ),
            "no_inputs": Signature("no_inputs", "", [], [TensorSpec("y", "y:0", FLOAT, ())]),
        }

    def app(self, options: RestOptions | None = None, **more: Any) -> RestApp:
        fake = cast(Any, self)
        more.setdefault("on_request", self._count)
        return RestApp(RestHandlers(fake, fake, fake, fake, fake, fake), self.pool, options, **more)

    def _count(self, record: RequestRecord, api: str, code: Code, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((record.model_name, api, code))

    # --- PredictHandler ---------------------------------------------------------------------------

    def predict_bound(
        self,
        spec: ModelSpec,
        bind: Callable[[Signature | None], Mapping[str, NDArray[Any]]],
        timeout_s: float | None,
        may_block: bool,
        record: RequestRecord | None,
    ) -> tuple[tuple[str, ...], list[NDArray[Any]]]:
        self._begin(spec, record)
        arrays = bind(self.signatures_by_name.get(spec.signature_name or "serving_default"))
        self.asked.append((spec, timeout_s, may_block))
        if self.is_long and not may_block:
            raise WouldBlock
        return ("y",), [next(iter(arrays.values())) + np.float32(1)]

    def predict_message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None
    ) -> bytes:
        message = messages.PredictRequest.FromString(request)
        self.asked.append((message, timeout_s, may_block))
        if self.is_long and not may_block:
            raise WouldBlock
        return messages.PredictResponse(model_spec=message.model_spec).SerializeToString()

    # --- ClassifyHandler, RegressHandler ----------------------------------------------------------

    def classify(
        self, spec: ModelSpec, examples: Sequence[bytes], timeout_s: Any, may_block: bool, record: Any
    ) -> Classification:
        self._begin(spec, record)
        self.asked.append((spec, list(examples), may_block))
        if self.is_long and not may_block:
            raise WouldBlock
        return Classification(np.array([[b"a"]] * len(examples), object), None)

    def regress(
        self, spec: ModelSpec, examples: Sequence[bytes], timeout_s: Any, may_block: bool, record: Any
    ) -> NDArray[np.float32]:
        self._begin(spec, record)
        self.asked.append((spec, list(examples), may_block))
        return np.full(len(examples), 1.5, np.float32)

    # --- the others -------------------------------------------------------------------------------

    def get_model_status_message(self, request: bytes) -> bytes:
        spec = messages.GetModelStatusRequest.FromString(request).model_spec
        if spec.name != "m":
            raise NotFoundError(f"Could not find any versions of model {spec.name}")
        response = messages.GetModelStatusResponse()
        entry = response.model_version_status.add(version=3, state=30)
        entry.status.SetInParent()
        return response.SerializeToString()

    def get_model_metadata_message(self, request: bytes) -> bytes:
        spec = messages.GetModelMetadataRequest.FromString(request).model_spec
        response = messages.GetModelMetadataResponse(model_spec=spec)
        signatures = messages.SignatureDefMap()
        signatures.signature_def["s"].method_name = "<m>"
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response.SerializeToString()

    def names(self) -> Sequence[str]:
        return ["empty", "m"]

    def signatures(self, spec: ModelSpec) -> tuple[int, Mapping[str, Signature]]:
        self._begin(spec, None)
        return 3, self.signatures_by_name

    def _begin(self, spec: ModelSpec, record: RequestRecord | None) -> None:
        if record is not None:
            record.model_name = spec.name
        if self.error is not None:
            raise self.error
        if spec.name != "m":
            raise NotFoundError(f"Servable not found for request: Latest({spec.name})")


@pytest.fixture
def bench() -> Bench:
    return Bench()
