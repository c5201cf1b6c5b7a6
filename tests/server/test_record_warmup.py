from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inserve
from inserve.protos import messages
from inserve.saved_model.tf_record import read_records
from inserve.saved_model.warmup import warmup_file
from inserve.tensors.dtypes import DataType
from inserve.tensors.tensor_proto import tensor_from_message

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
SERVICE = "/tensorflow.serving.PredictionService/"


@pytest.fixture(scope="module")
def server() -> Iterator[inserve.Server]:
    models = {name: MODELS / name for name in ("half_plus_two", "tf1_examples", "lookup")}
    with inserve.Server(models=models, poll_interval=None) as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records"


def logs(path: str | Path) -> list[messages.PredictionLog]:
    return [messages.PredictionLog.FromString(record) for record in read_records(str(path))]


def ask(server: inserve.Server, times: int = 1) -> None:
    for _ in range(times):
        server.predict("half_plus_two", {"x": [1.0]})


def call(server: inserve.Server, method: str, request: bytes) -> None:
    channel: Any = server.channel()
    with channel:
        channel.unary_unary(SERVICE + method)(request, timeout=30)


def with_examples(
    request: messages.ClassificationRequest | messages.RegressionRequest, signature: str
) -> bytes:
    request.model_spec.name = "tf1_examples"
    request.model_spec.signature_name = signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return request.SerializeToString()


def test_a_call_of_this_process_is_recorded_as_a_client_would_have_sent_it(
    server: inserve.Server, file: Path
) -> None:
    with inserve.record_warmup(server, "half_plus_two", file):
        server.predict("half_plus_two", {"x": [1, 2.5]}, version=2, output_filter=["y"])
    (log,) = logs(file)
    request = log.predict_log.request
    assert (request.model_spec.name, request.model_spec.version.value) == ("half_plus_two", 2)
    assert list(request.output_filter) == ["y"]
    assert request.inputs["x"].dtype == DataType.DT_FLOAT
    assert np.frombuffer(request.inputs["x"].tensor_content, "<f4").tolist() == [1.0, 2.5]


def test_strings_are_recorded_as_bytes(server: inserve.Server, file: Path) -> None:
    with inserve.record_warmup(server, "lookup", file):
        server.predict("lookup", {"word": ["a", b"b"]})
    (log,) = logs(file)
    assert tensor_from_message(log.predict_log.request.inputs["word"]).tolist() == [b"a", b"b"]


def test_requests_of_every_api_are_recorded_byte_for_byte(server: inserve.Server, file: Path) -> None:
    classify = with_examples(messages.ClassificationRequest(), "classify_scores")
    regress = with_examples(messages.RegressionRequest(), "regress_x_to_y")
    multi = messages.MultiInferenceRequest()
    task = multi.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = "tf1_examples"
    task.model_spec.signature_name = "regress_x_to_y"
    multi.input.CopyFrom(messages.RegressionRequest.FromString(regress).input)
    predict = messages.PredictRequest()
    predict.model_spec.name = "tf1_examples"
    predict.inputs["x"].dtype = DataType.DT_FLOAT
    predict.inputs["x"].tensor_shape.dim.add(size=1)
    predict.inputs["x"].tensor_shape.dim.add(size=1)
    sent = {
        "Classify": classify,
        "Regress": regress,
        "MultiInference": multi.SerializeToString(),
        "Predict": predict.SerializeToString(),
    }
    with inserve.record_warmup(server, "tf1_examples", file):
        for method, request in sent.items():
            call(server, method, request)
    found = [log.WhichOneof("log_type") for log in logs(file)]
    assert found == ["classify_log", "regress_log", "multi_inference_log", "predict_log"]
    for record, request in zip(read_records(str(file)), sent.values(), strict=True):
        assert request in record


def test_requests_to_other_models_and_those_that_fail_are_left_out(
    server: inserve.Server, file: Path
) -> None:
    with inserve.record_warmup(server, "tf1_examples", file) as recording:
        ask(server)
        with pytest.raises(inserve.InvalidArgumentError):
            server.predict("tf1_examples", {"no": [1.0]})
        assert recording.num_recorded == 0
    assert not file.exists()


def test_the_file_is_there_once_enough_requests_have_come(server: inserve.Server, file: Path) -> None:
    recording = inserve.record_warmup(server, "half_plus_two", file, num_records=2)
    ask(server, 3)
    assert recording.wait(timeout=30) == str(file)
    assert len(logs(file)) == 2
    assert server.request_tap.listeners == ()
    recording.close()


def test_waiting_can_be_given_up_and_the_recording_goes_on(server: inserve.Server, file: Path) -> None:
    with inserve.record_warmup(server, "half_plus_two", file, num_records=2) as recording:
        ask(server)
        with pytest.raises(inserve.DeadlineExceededError, match="1 of 2 requests to half_plus_two"):
            recording.wait(timeout=0)
        ask(server)
        recording.wait(timeout=30)
    assert len(logs(file)) == 2


def test_requests_of_many_threads_give_as_many_records_as_asked(server: inserve.Server, file: Path) -> None:
    recording = inserve.record_warmup(server, "half_plus_two", file, num_records=50)
    threads = [threading.Thread(target=ask, args=(server, 20)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording.wait(timeout=30)
    assert len(logs(file)) == 50


def test_the_recording_is_over_where_the_next_request_would_not_fit(
    server: inserve.Server, file: Path
) -> None:
    with inserve.record_warmup(server, "half_plus_two", file, max_bytes=1000) as recording:
        server.predict("half_plus_two", {"x": np.zeros(1000, np.float32)})
        assert recording.num_recorded == 0
        ask(server)
        server.predict("half_plus_two", {"x": np.zeros(1000, np.float32)})
        recording.wait(timeout=30)
    assert len(logs(file)) == 1


def test_a_file_that_cannot_be_written_is_an_error_for_who_recorded(
    server: inserve.Server, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    recording = inserve.record_warmup(server, "half_plus_two", tmp_path / "file" / "below")
    ask(server)
    with pytest.raises(OSError, match="file"):
        recording.close()


@pytest.mark.parametrize("num_records", [0, 1001])
def test_more_records_than_a_server_replays_are_refused(
    server: inserve.Server, file: Path, num_records: int
) -> None:
    with pytest.raises(ValueError, match=f"num_records is {num_records}, expected 1 to 1000"):
        inserve.record_warmup(server, "half_plus_two", file, num_records)


def test_a_recording_tells_how_far_it_is(server: inserve.Server, file: Path) -> None:
    with inserve.record_warmup(server, "half_plus_two", file, 5) as recording:
        ask(server)
        assert repr(recording) == "<WarmupRecording half_plus_two 1/5 under way>"
    assert repr(recording) == "<WarmupRecording half_plus_two 1/5 over>"


def test_what_was_recorded_is_replayed_when_the_version_is_loaded(
    server: inserve.Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = tmp_path / "tf1_examples" / "1"
    shutil.copytree(MODELS / "tf1_examples" / "1", version)
    with inserve.record_warmup(server, "tf1_examples", version):
        call(server, "Classify", with_examples(messages.ClassificationRequest(), "classify_scores"))
        server.predict("tf1_examples", {"x": [[1.0]]})
    with (
        caplog.at_level("INFO", "inserve.saved_model"),
        inserve.Server(models={"m": version.parent}, poll_interval=None),
    ):
        pass
    assert f"at {warmup_file(str(version))}. Number of warmup records read: 2." in caplog.text


def test_a_bad_recorded_request_fails_the_load_with_its_own_words(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    shutil.copytree(MODELS / "half_plus_two" / "1", version)
    records = Path(warmup_file(str(version)))
    records.parent.mkdir()
    # A record of a real file: Predict of a signature "zz".
    records.write_bytes(
        bytes.fromhex("220000000000000078113dfd32200a1e0a070a016d1a027a7a12130a0178120e080112041202")
        + bytes.fromhex("08012a040000803fd30693d9")
    )
    with pytest.raises(inserve.UnknownError, match='Serving signature key "zz" not found'):
        inserve.Server(models={"m": tmp_path / "m"}, poll_interval=None).start()
