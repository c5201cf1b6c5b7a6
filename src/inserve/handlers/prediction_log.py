"""``tensorflow.serving.PredictionLog``: requests as they are kept in files, and run again.

Only the requests matter here. Source: TensorFlow Serving, ``servables/tensorflow/saved_model_warmup.cc``.
"""

from __future__ import annotations

from collections.abc import Callable

from inserve.handlers.classify import classify
from inserve.handlers.inference_codec import (
    decode_classification_request,
    decode_multi_inference_request,
    decode_regression_request,
)
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec
from inserve.handlers.multi_inference import multi_inference
from inserve.handlers.predict import decode_input
from inserve.handlers.predict_codec import decode_predict_request
from inserve.handlers.regress import regress
from inserve.handlers.request_tap import LogType
from inserve.handlers.run_signature import run_signature
from inserve.metrics.request_record import RequestRecord
from inserve.metrics.serving_metrics import MULTI_INFERENCE
from inserve.protos.wire import encode_length_delimited_header
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.warmup import Replay

__all__ = ["encode_prediction_log", "prediction_log_replay"]

_REQUEST = 1


def encode_prediction_log(log_type: LogType, request: bytes) -> bytes:
    """Return a serialized PredictionLog that holds the serialized *request* as it is, and no response."""
    log = encode_length_delimited_header(_REQUEST, len(request)) + request
    return encode_length_delimited_header(log_type, len(log)) + log


def prediction_log_replay(
    check_method_name: bool = False, on_run: Callable[[RequestRecord, str], None] | None = None
) -> Replay:
    """Return the function that runs a request of a PredictionLog; see ``saved_model.warmup.Replay``.

    The model and version a request names are not looked at, its signature is. *on_run* hears of each
    request that was run: what is known of it, and its API.
    """

    def replay(servable: SavedModelServable, log_type: int, request: bytes) -> None:
        record = RequestRecord()
        if log_type == LogType.PREDICT:
            spec, inputs, output_filter = decode_predict_request(request)
            run_signature(
                servable,
                _signature_name(spec),
                inputs,
                decode_input,
                output_filter,
                check_method_name=check_method_name,
                record=record,
            )
            api = "Predict"
        elif log_type == LogType.MULTI_INFERENCE:
            tasks, rows = decode_multi_inference_request(request)
            multi_inference(servable, tasks, rows, check_method_name=check_method_name, record=record)
            spec, api = tasks[0].spec if tasks else None, MULTI_INFERENCE
        elif log_type == LogType.CLASSIFY:
            spec, rows = decode_classification_request(request)
            classify(servable, _signature_name(spec), rows, check_method_name, record=record)
            api = "Classify"
        else:
            spec, rows = decode_regression_request(request)
            regress(servable, _signature_name(spec), rows, check_method_name, record=record)
            api = "Regress"
        if on_run is not None:
            record.model_name = "" if spec is None else spec.name
            on_run(record, api)

    return replay


def _signature_name(spec: ModelSpec | None) -> str:
    return (spec.signature_name if spec is not None else "") or DEFAULT_SIGNATURE_NAME
