from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from inserve.errors import InserveError, InvalidArgumentError, NotFoundError
from inserve.frontends.grpc_api.method import CallContext, MethodTable
from inserve.frontends.grpc_api.prediction_service import prediction_service_methods
from inserve.handlers.placement import WouldBlock
from inserve.metrics.prometheus_page import prometheus_page
from inserve.metrics.registry import Registry
from inserve.metrics.request_record import RequestRecord
from inserve.metrics.serving_metrics import ServingMetrics

SERVICE = "/tensorflow.serving.PredictionService/"
COUNTED = ("Predict", "Classify", "Regress")


class Handler:
    """Stands for each of the handlers: every message method of it does what ``do`` does."""

    def __init__(self) -> None:
        self.do: Callable[[RequestRecord | None], bytes] = lambda _: b"answer"
        self.asked: list[tuple[bytes, float | None, bool]] = []

    def message(
        self, request: bytes, timeout_s: float | None, may_block: bool, record: RequestRecord | None
    ) -> bytes:
        self.asked.append((request, timeout_s, may_block))
        return self.do(record)

    predict_message = classify_message = regress_message = multi_inference_message = message


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def metrics() -> ServingMetrics:
    return ServingMetrics(Registry())


def methods(handler: Any, metrics: ServingMetrics | None) -> MethodTable:
    return prediction_service_methods(handler, handler, handler, handler, handler, metrics)


def counts(metrics: ServingMetrics, name: str) -> list[str]:
    page = prometheus_page(metrics.registry.snapshot()).decode()
    return [line.partition("{")[2] for line in page.splitlines() if line.startswith(f"{name}{{")]


def knows(
    model_name: str | None, version: int | None = None, error: Exception | None = None
) -> Callable[[RequestRecord | None], bytes]:
    """Return a handler's work: it fills in the record, and raises *error*."""

    def do(record: RequestRecord | None) -> bytes:
        assert record is not None
        record.model_name, record.version, record.signature_name = model_name, version, "s"
        if error is not None:
            raise error
        record.run_s = 1e-3
        return b"answer"

    return do


@pytest.mark.parametrize("api", COUNTED)
def test_an_answer_is_counted_with_its_latency(api: str, handler: Handler, metrics: ServingMetrics) -> None:
    handler.do = knows("m", 1)
    assert methods(handler, metrics)[SERVICE + api](b"request", CallContext()) == b"answer"
    assert counts(metrics, ":tensorflow:serving:request_count") == ['model_name="m",status="OK"} 1']
    assert counts(metrics, ":tensorflow:serving:request_latency_count") == [
        f'model_name="m",API="{api}",entrypoint="GRPC"}} 1'
    ]
    assert counts(metrics, ":tensorflow:serving:runtime_latency_count") == [
        f'model_name="m",API="{api}",runtime="TF1"}} 1'
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("no"), "NOT_FOUND"),
        (InserveError("no code of its own"), "UNKNOWN"),
        (MemoryError(), "RESOURCE_EXHAUSTED"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
def test_an_error_is_counted_by_the_code_the_caller_gets(
    error: Exception, status: str, handler: Handler, metrics: ServingMetrics
) -> None:
    handler.do = knows("m", error=error)
    with pytest.raises(type(error)):
        methods(handler, metrics)[SERVICE + "Predict"](b"", CallContext())
    assert counts(metrics, ":tensorflow:serving:request_count") == [f'model_name="m",status="{status}"}} 1']
    assert counts(metrics, ":tensorflow:serving:request_latency_count") == []


def test_a_request_that_names_no_model_counts_for_the_empty_name(
    handler: Handler, metrics: ServingMetrics
) -> None:
    handler.do = knows("", error=InvalidArgumentError("Missing ModelSpec"))
    with pytest.raises(InvalidArgumentError):
        methods(handler, metrics)[SERVICE + "Predict"](b"", CallContext())
    assert counts(metrics, ":tensorflow:serving:request_count") == [
        'model_name="",status="INVALID_ARGUMENT"} 1'
    ]


def test_what_would_block_is_counted_when_it_is_answered(handler: Handler, metrics: ServingMetrics) -> None:
    predict = methods(handler, metrics)[SERVICE + "Predict"]
    handler.do = knows("m", 1, WouldBlock())
    with pytest.raises(WouldBlock):
        predict(b"", CallContext(may_block=False))
    assert counts(metrics, ":tensorflow:serving:request_count") == []
    handler.do = knows("m", 1)
    predict(b"", CallContext())
    assert counts(metrics, ":tensorflow:serving:request_count") == ['model_name="m",status="OK"} 1']


@pytest.mark.parametrize("with_metrics", [True, False])
def test_the_callers_deadline_limits_the_run(
    with_metrics: bool, handler: Handler, metrics: ServingMetrics
) -> None:
    predict = methods(handler, metrics if with_metrics else None)[SERVICE + "Predict"]
    predict(b"one", CallContext(deadline=time.monotonic() - 1, may_block=False))
    predict(b"two", CallContext())
    assert handler.asked == [(b"one", 0.0, False), (b"two", None, True)]


def test_without_metrics_nothing_is_recorded(handler: Handler) -> None:
    records = []
    handler.do = lambda record: records.append(record) or b"answer"  # type: ignore[func-returns-value]
    methods(handler, None)[SERVICE + "Classify"](b"", CallContext())
    assert records == [None]
