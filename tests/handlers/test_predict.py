from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inserve.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnknownError
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_codec import encode_predict_request
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.signature import Signature
from inserve.tensors.dtypes import DataType, element_type_of

SPEC = ModelSpec("m")
ROWS = np.array([1.0, 2.0], np.float32)


@pytest.fixture
def handler(one_model: Any) -> PredictHandler:
    return PredictHandler(one_model, tap=one_model.tap)


def bind_rows(signature: Signature | None) -> Mapping[str, NDArray[Any]]:
    assert signature is not None
    return dict.fromkeys(signature.inputs, ROWS)


def known(record: RequestRecord) -> tuple[str | None, int | None, str]:
    return record.model_name, record.version, record.signature_name


def test_outputs_of_a_bound_run_stand_by_alias_with_dtypes_that_tell_their_types(
    handler: PredictHandler,
) -> None:
    aliases, arrays = handler.predict_bound(SPEC, bind_rows)
    assert aliases == ("a", "y")
    assert [element_type_of(array.dtype).data_type for array in arrays] == [
        DataType.DT_INT64,
        DataType.DT_FLOAT,
    ]


@pytest.mark.parametrize("form", ["bound", "message"])
def test_a_record_learns_who_answered_and_what_the_run_took(form: str, handler: PredictHandler) -> None:
    for _ in range(2):  # the second time the run is prepared
        record = RequestRecord()
        if form == "bound":
            handler.predict_bound(SPEC, bind_rows, record=record)
        else:
            handler.predict_message(encode_predict_request(SPEC, {"inputs": ROWS}), None, True, record)
        assert known(record) == ("m", 7, "serving_default")
        assert record.run_s is not None
        assert record.run_s >= 0.0


@pytest.mark.parametrize(
    ("spec", "inputs", "error", "expected"),
    [
        (ModelSpec("x"), {"inputs": ROWS}, NotFoundError, ("x", None, "")),
        (ModelSpec("m", None, None, "x"), {"inputs": ROWS}, FailedPreconditionError, ("m", 7, "")),
        (SPEC, {}, InvalidArgumentError, ("m", 7, "serving_default")),
    ],
)
def test_a_record_of_an_error_has_what_was_known_by_then(
    spec: ModelSpec,
    inputs: dict[str, NDArray[Any]],
    error: type[Exception],
    expected: tuple[str | None, int | None, str],
    handler: PredictHandler,
) -> None:
    by_message, by_value = RequestRecord(), RequestRecord()
    with pytest.raises(error):
        handler.predict_message(encode_predict_request(spec, inputs), None, True, by_message)
    with pytest.raises(error):
        handler.predict_bound(spec, lambda _: inputs, record=by_value)
    assert known(by_message) == known(by_value) == expected
    assert by_message.run_s is by_value.run_s is None


def test_a_request_without_a_spec_is_recorded_under_the_empty_name(handler: PredictHandler) -> None:
    record = RequestRecord()
    with pytest.raises(InvalidArgumentError, match="Missing ModelSpec"):
        handler.predict_message(b"", None, True, record)
    assert known(record) == ("", None, "")


def test_what_binding_raises_is_recorded_with_its_signature(handler: PredictHandler) -> None:
    def bind(signature: Signature | None) -> Mapping[str, NDArray[Any]]:
        raise InvalidArgumentError(str(signature))

    record = RequestRecord()
    with pytest.raises(InvalidArgumentError):
        handler.predict_bound(SPEC, bind, record=record)
    assert known(record) == ("m", 7, "serving_default")


def test_a_run_that_failed_took_nothing(handler: PredictHandler, one_model: Any) -> None:
    one_model.model.error = UnknownError("graph")
    record = RequestRecord()
    with pytest.raises(UnknownError, match="graph"):
        handler.predict_bound(SPEC, bind_rows, record=record)
    assert record.run_s is None


def test_a_thread_that_must_stay_free_does_not_run_what_may_be_long(handler: PredictHandler) -> None:
    with pytest.raises(WouldBlock):
        handler.predict_bound(SPEC, bind_rows, may_block=False)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (ROWS, "inputs: expected a mapping of input names to arrays, got ndarray"),
        ([1.0], "inputs: expected a mapping of input names to arrays, got list"),
        (None, "inputs: expected a mapping of input names to arrays, got NoneType"),
        ({1: ROWS}, "inputs: expected names of inputs as keys, got 1"),
    ],
)
def test_inputs_that_are_no_mapping_by_names_are_said_to_be_none(
    handler: PredictHandler, inputs: Any, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{message}$"):
        handler.predict(SPEC, inputs)
