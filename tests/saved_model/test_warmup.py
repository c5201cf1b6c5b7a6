from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from inserve.errors import (
    DataLossError,
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    UnimplementedError,
    UnknownError,
)
from inserve.protos import messages
from inserve.saved_model.tf_record import write_records
from inserve.saved_model.warmup import MAX_WARMUP_RECORDS, replay_warmup_records, warmup_file

SERVABLE: Any = object()


class Replayed:
    """Keeps what it is told to run."""

    def __init__(self, error: InserveError | None = None) -> None:
        self.runs: list[tuple[int, bytes]] = []
        self.error = error

    def __call__(self, servable: object, log_type: int, request: bytes) -> None:
        assert servable is SERVABLE
        self.runs.append((log_type, request))
        if self.error is not None:
            raise self.error


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Iterable[bytes]], str]:
    def write(records: Iterable[bytes]) -> str:
        path = str(tmp_path / "records")
        write_records(path, records)
        return path

    return write


def predict_log(signature_name: str) -> bytes:
    log = messages.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature_name
    return log.SerializeToString()


def request_of(signature_name: str) -> bytes:
    request = messages.PredictRequest()
    request.model_spec.signature_name = signature_name
    return request.SerializeToString()


def test_the_file_lies_among_the_extra_assets() -> None:
    assert warmup_file("m/1") == "m/1/assets.extra/tf_serving_warmup_requests"


def test_each_request_runs_as_often_as_asked_in_a_row(write: Callable[[Iterable[bytes]], str]) -> None:
    replayed = Replayed()
    replay_warmup_records(SERVABLE, write([predict_log("a"), predict_log("b")]), replayed, num_iterations=2)
    a, b = (6, request_of("a")), (6, request_of("b"))
    assert replayed.runs == [a, a, b, b]


@pytest.mark.parametrize(
    ("field", "number"),
    [("classify_log", 2), ("regress_log", 3), ("multi_inference_log", 4), ("predict_log", 6)],
)
def test_every_api_is_replayed(write: Callable[[Iterable[bytes]], str], field: str, number: int) -> None:
    log = messages.PredictionLog()
    getattr(log, field).SetInParent()
    replayed = Replayed()
    replay_warmup_records(SERVABLE, write([log.SerializeToString()]), replayed)
    assert replayed.runs == [(number, b"")]


@pytest.mark.parametrize(("field", "number"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_other_logs_are_refused(write: Callable[[Iterable[bytes]], str], field: str, number: int) -> None:
    log = messages.PredictionLog()
    getattr(log, field).SetInParent()
    with pytest.raises(UnimplementedError) as caught:
        replay_warmup_records(SERVABLE, write([log.SerializeToString()]), Replayed())
    assert caught.value.message == f"Unsupported log_type for warmup: {number}"


def test_a_record_without_a_log_is_passed_over(write: Callable[[Iterable[bytes]], str]) -> None:
    replayed = Replayed()
    replay_warmup_records(SERVABLE, write([b"", predict_log("a")]), replayed)
    assert replayed.runs == [(6, request_of("a"))]


def test_what_is_no_prediction_log_is_refused(write: Callable[[Iterable[bytes]], str]) -> None:
    path = write([b"garbage"])
    with pytest.raises(InvalidArgumentError) as caught:
        replay_warmup_records(SERVABLE, path, Replayed())
    assert caught.value.message == f"Failed to parse warmup record: garbage from {path}"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_text("garbage garbage garbage")
    with pytest.raises(DataLossError) as caught:
        replay_warmup_records(SERVABLE, str(path), Replayed())
    assert caught.value.message == (
        "corrupted record at 0 (Is this even a TFRecord file?). "
        "Please verify your warmup data is in TFRecord format."
    )


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownError, match="cannot be read"):
        replay_warmup_records(SERVABLE, str(tmp_path), Replayed())


def test_a_request_that_fails_ends_the_warmup(write: Callable[[Iterable[bytes]], str]) -> None:
    replayed = Replayed(FailedPreconditionError("no"))
    with pytest.raises(FailedPreconditionError, match="no"):
        replay_warmup_records(SERVABLE, write([predict_log("a"), predict_log("b")]), replayed)
    assert replayed.runs == [(6, request_of("a"))]


def test_the_most_records_allowed_are_replayed(write: Callable[[Iterable[bytes]], str]) -> None:
    replayed = Replayed()
    replay_warmup_records(SERVABLE, write([predict_log("a")] * MAX_WARMUP_RECORDS), replayed)
    assert len(replayed.runs) == MAX_WARMUP_RECORDS


def test_one_record_more_is_refused_once_it_has_run(write: Callable[[Iterable[bytes]], str]) -> None:
    replayed = Replayed()
    path = write([predict_log("a")] * (MAX_WARMUP_RECORDS + 1))
    with pytest.raises(InvalidArgumentError) as caught:
        replay_warmup_records(SERVABLE, path, replayed)
    assert caught.value.message == f"Number of warmup records exceeds the maximum (1000) at {path}"
    assert len(replayed.runs) == MAX_WARMUP_RECORDS + 1


def test_one_line_says_how_many_records_were_read(
    write: Callable[[Iterable[bytes]], str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write([b"", predict_log("a")])
    with caplog.at_level(logging.INFO, "inserve.saved_model"):
        replay_warmup_records(SERVABLE, path, Replayed())
    (line,) = caplog.messages
    assert line.startswith(
        f"Finished reading warmup data for model at {path}. Number of warmup records read: 2. "
    )
