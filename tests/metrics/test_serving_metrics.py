from __future__ import annotations

import re
from pathlib import Path

import pytest

from inserve.errors import Code
from inserve.metrics.prometheus_page import prometheus_page
from inserve.metrics.registry import MAX_CELLS, HistogramValue, Registry
from inserve.metrics.request_record import RequestRecord
from inserve.metrics.serving_metrics import (
    GRPC,
    MAX_UNKNOWN_NAMES,
    MULTI_INFERENCE,
    OTHER_NAMES,
    REST,
    ServingMetrics,
)

TEXT = Path(__file__).resolve().parents[1] / "golden" / "text"
RECORDED = (TEXT / "prometheus_after.txt").read_text()
SERVING = ":tensorflow:serving:"


@pytest.fixture
def metrics() -> ServingMetrics:
    return ServingMetrics(Registry())


def record(
    model_name: str | None = "m",
    version: int | None = 1,
    signature_name: str = "s",
    run_s: float | None = None,
    num_examples: int | None = None,
) -> RequestRecord:
    made = RequestRecord(model_name)
    made.version, made.signature_name = version, signature_name
    made.run_s, made.num_examples = run_s, num_examples
    return made


def lines(metrics: ServingMetrics, *names: str) -> list[str]:
    """Return the samples of the metrics with these exported names, without buckets and sums."""
    page = prometheus_page(metrics.registry.snapshot()).decode()
    return [
        line
        for line in page.splitlines()
        if re.match(f"({'|'.join(names)})(_count)?{{", line) and "_bucket{" not in line
    ]


def recorded_block(name: str) -> list[str]:
    """Return what the C++ server's page has for one metric, its TYPE line first."""
    start = RECORDED.index(f"# TYPE {name} ")
    return RECORDED[start : RECORDED.index("# TYPE", start + 1)].splitlines()


def our_block(metrics: ServingMetrics, name: str) -> list[str]:
    page = prometheus_page(metrics.registry.snapshot()).decode() + "# TYPE"
    start = page.index(f"# TYPE {name} ")
    return page[start : page.index("# TYPE", start + 1)].splitlines()


def test_the_metrics_of_a_server_that_was_asked_nothing_are_those_of_the_recorded_page() -> None:
    page = (TEXT / "prometheus_before.txt").read_text()
    wanted = [
        line
        for line in page.splitlines()
        if line.startswith(f"# TYPE {SERVING}") and ":serving:batching:" not in line
    ]
    ours = prometheus_page(ServingMetrics(Registry()).registry.snapshot()).decode().splitlines()
    assert [line for line in ours if SERVING in line] == wanted


def test_request_counts_are_printed_as_recorded(metrics: ServingMetrics) -> None:
    block = recorded_block(SERVING + "request_count")
    for line in reversed(block[1:]):
        found = re.fullmatch(r'.*\{model_name="(.*)",status="(.*)"\} (\d+)', line)
        assert found is not None
        name = found[1].replace(r"\"", '"').replace(r"\\", "\\")
        for _ in range(int(found[3])):
            metrics.request(name, "predict", REST, Code[found[2]], 1e-4)
    assert our_block(metrics, SERVING + "request_count") == block


@pytest.mark.parametrize("name", ["request_example_counts", "request_example_count_total"])
def test_example_counts_are_printed_as_recorded(metrics: ServingMetrics, name: str) -> None:
    metrics.example_count("tf1_examples", 2)
    assert our_block(metrics, SERVING + name) == recorded_block(SERVING + name)


@pytest.mark.parametrize("name", ["request_latency", "runtime_latency"])
def test_latencies_have_the_recorded_labels_and_bounds(metrics: ServingMetrics, name: str) -> None:
    metrics.answered(record("half_plus_two", run_s=1e-5), "Predict", GRPC, Code.OK, 2e-5)
    stem = f'{SERVING}{name}_bucket{{model_name="half_plus_two",API="Predict",'

    def shape(block: list[str]) -> list[str]:
        return [line.rpartition(" ")[0] for line in block if line.startswith(stem)]

    assert len(shape(our_block(metrics, SERVING + name))) == 34
    assert shape(our_block(metrics, SERVING + name)) == shape(recorded_block(SERVING + name))


def test_latencies_are_counted_in_microseconds(metrics: ServingMetrics) -> None:
    metrics.answered(record(run_s=12e-6), "Predict", GRPC, Code.OK, 40e-6)
    latency = our_block(metrics, SERVING + "request_latency")
    runtime = our_block(metrics, SERVING + "runtime_latency")
    assert SERVING + 'request_latency_sum{model_name="m",API="Predict",entrypoint="GRPC"} 40' in latency
    assert (
        SERVING + 'request_latency_bucket{model_name="m",API="Predict",entrypoint="GRPC",le="32.4"} 0'
        in latency
    )
    assert SERVING + 'runtime_latency_sum{model_name="m",API="Predict",runtime="TF1"} 12' in runtime


def test_only_answers_have_a_latency_and_only_runs_a_runtime(metrics: ServingMetrics) -> None:
    metrics.answered(record(), "Regress", GRPC, Code.INVALID_ARGUMENT, 1e-3)
    metrics.answered(record(run_s=1e-3), "Regress", GRPC, Code.INVALID_ARGUMENT, 1e-3)
    metrics.answered(record(run_s=1e-3), "regress", REST, Code.OK, 1e-3)
    assert lines(metrics, SERVING + "request_latency", SERVING + "runtime_latency") == [
        SERVING + 'request_latency_count{model_name="m",API="regress",entrypoint="REST"} 1',
        SERVING + 'runtime_latency_count{model_name="m",API="Regress",runtime="TF1"} 2',
    ]


def test_versions_and_signatures_are_told_apart_under_our_own_name(metrics: ServingMetrics) -> None:
    metrics.answered(record(version=1), "Predict", GRPC, Code.OK, 1e-3)
    metrics.answered(record(version=2), "Predict", GRPC, Code.OK, 1e-3)
    metrics.answered(record(version=2), "predict", REST, Code.INTERNAL, 1e-3)
    metrics.answered(record(version=None, signature_name=""), "Predict", GRPC, Code.NOT_FOUND, 1e-3)
    labels = 'model_name="m",version="{}",signature_name="s",entrypoint="{}",status="{}"'
    assert lines(metrics, ":inserve:request_count") == [
        f":inserve:request_count{{{labels.format(*values)}}} 1"
        for values in ((1, "GRPC", "OK"), (2, "GRPC", "OK"), (2, "REST", "INTERNAL"))
    ]


def test_of_multi_inference_only_the_examples_count_beside_the_version(metrics: ServingMetrics) -> None:
    answer = record("m", 3, "", run_s=1e-3, num_examples=5)
    metrics.answered(answer, MULTI_INFERENCE, GRPC, Code.OK, 1e-3)
    names = ("request_count", "request_latency", "runtime_latency", "request_example_count_total")
    assert lines(metrics, *(SERVING + name for name in names), ":inserve:request_count") == [
        ':inserve:request_count{model_name="m",version="3",signature_name="",'
        'entrypoint="GRPC",status="OK"} 1',
        SERVING + 'request_example_count_total{model="m"} 5',
    ]


def test_a_request_that_was_not_understood_is_not_counted(metrics: ServingMetrics) -> None:
    metrics.answered(record(None, None, ""), "Predict", GRPC, Code.INTERNAL, 1e-3)
    assert lines(metrics, SERVING + "request_count") == []


def test_names_that_clients_make_up_have_a_bound(metrics: ServingMetrics) -> None:
    for number in range(MAX_UNKNOWN_NAMES + 50):
        metrics.request(f"name {number:03}", "predict", REST, Code.NOT_FOUND, 1e-3)
    samples = lines(metrics, SERVING + "request_count")
    assert len(samples) == MAX_UNKNOWN_NAMES + 1
    assert samples[0] == f'{SERVING}request_count{{model_name="{OTHER_NAMES}",status="NOT_FOUND"}} 50'


def test_a_long_name_that_no_model_has_is_not_kept(metrics: ServingMetrics) -> None:
    metrics.request("x" * 1000, "predict", REST, Code.NOT_FOUND, 1e-3)
    assert lines(metrics, SERVING + "request_count") == [
        f'{SERVING}request_count{{model_name="{OTHER_NAMES}",status="NOT_FOUND"}} 1'
    ]


def test_a_model_is_counted_by_name_however_many_names_were_made_up(metrics: ServingMetrics) -> None:
    for number in range(MAX_UNKNOWN_NAMES + 1):
        metrics.request(f"name {number}", "predict", REST, Code.NOT_FOUND, 1e-3)
    metrics.answered(record("late"), "Predict", GRPC, Code.INVALID_ARGUMENT, 1e-3)
    metrics.request("late", "predict", REST, Code.NOT_FOUND, 1e-3)
    assert [line for line in lines(metrics, SERVING + "request_count") if '"late"' in line] == [
        SERVING + 'request_count{model_name="late",status="INVALID_ARGUMENT"} 1',
        SERVING + 'request_count{model_name="late",status="NOT_FOUND"} 1',
    ]


def test_a_version_whose_cell_was_dropped_is_counted_anew(metrics: ServingMetrics) -> None:
    for version in range(MAX_CELLS + 1):
        metrics.answered(record(version=version), "Predict", GRPC, Code.OK, 1e-3)
    for _ in range(2):
        metrics.answered(record(version=0), "Predict", GRPC, Code.OK, 1e-3)
    old = [line for line in lines(metrics, ":inserve:request_count") if 'version="0"' in line]
    assert [line.rpartition(" ")[2] for line in old] == ["2"]
    assert lines(metrics, SERVING + "request_count") == [
        f'{SERVING}request_count{{model_name="m",status="OK"}} {MAX_CELLS + 3}'
    ]


def test_attempts_to_load_are_counted_by_path_and_outcome(metrics: ServingMetrics) -> None:
    metrics.load_attempt("/models/m/1", True, 0.5)
    metrics.load_attempt("/models/m/1", False, 0.25)
    name = ":tensorflow:cc:saved_model:load"
    assert lines(metrics, name + "_attempt_count", name + "_latency") == [
        name + '_attempt_count{model_path="/models/m/1",status="fail"} 1',
        name + '_attempt_count{model_path="/models/m/1",status="success"} 1',
        name + '_latency{model_path="/models/m/1"} 750000',
    ]
    assert metrics.value("/tensorflow/cc/saved_model/load_attempt_count") == 1


def test_a_warm_up_is_counted_by_path_and_whole_status(metrics: ServingMetrics) -> None:
    metrics.warmup("/models/m/1", "OK", 0.001, 3)
    metrics.warmup("/models/m/1", "DATA_LOSS: corrupted", 0.001, 0)
    assert lines(metrics, SERVING + "model_warmup_latency", SERVING + "model_warmup_records_read") == [
        SERVING + 'model_warmup_latency_count{model_path="/models/m/1",status="DATA_LOSS: corrupted"} 1',
        SERVING + 'model_warmup_latency_count{model_path="/models/m/1",status="OK"} 1',
        SERVING + 'model_warmup_records_read{model_path="/models/m/1",status="DATA_LOSS: corrupted"} 0',
        SERVING + 'model_warmup_records_read{model_path="/models/m/1",status="OK"} 3',
    ]


def test_a_run_outside_of_a_request_has_a_runtime_alone(metrics: ServingMetrics) -> None:
    metrics.runtime("m", "Classify", 1e-3)
    assert lines(metrics, SERVING + "request_count", SERVING + "runtime_latency") == [
        SERVING + 'runtime_latency_count{model_name="m",API="Classify",runtime="TF1"} 1'
    ]


def test_a_run_for_warm_up_counts_as_a_run_and_not_as_a_request(metrics: ServingMetrics) -> None:
    metrics.warmup_run(record(run_s=1e-3), "Predict")
    metrics.warmup_run(record(run_s=1e-3, num_examples=3), MULTI_INFERENCE)
    names = ("request_count", "runtime_latency", "request_example_count_total")
    assert lines(metrics, *(SERVING + name for name in names), ":inserve:request_count") == [
        SERVING + 'request_example_count_total{model="m"} 3',
        SERVING + 'runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 1',
    ]


def batching_cells(metrics: ServingMetrics, name: str) -> dict[tuple[str, ...], int | HistogramValue]:
    full_name = "/tensorflow/serving/batching_session/" + name
    return {
        values: value
        for metric in metrics.registry.snapshot()
        if metric.name == full_name
        for values, value in metric.cells.items()
    }


def test_a_batch_is_counted_by_its_size_and_padding(metrics: ServingMetrics) -> None:
    metrics.submitted(3, 2)
    metrics.queued(250e-6)
    metrics.ran(4, 1)
    assert batching_cells(metrics, "wrapped_run_count") == {(): 1}
    assert batching_cells(metrics, "input_batch_size") == {(): HistogramValue((0, 0, 2) + (0,) * 12, 6.0)}
    assert batching_cells(metrics, "processed_batch_size") == {
        (): HistogramValue((0, 0, 0, 1) + (0,) * 11, 4.0)
    }
    assert batching_cells(metrics, "padding_size") == {("4",): HistogramValue((0, 1) + (0,) * 13, 1.0)}
    (queued,) = batching_cells(metrics, "queuing_latency").items()
    assert queued[0] == ("",)
    assert isinstance(queued[1], HistogramValue)
    assert queued[1].sum == pytest.approx(250.0)
    assert len(queued[1].counts) == 53


def test_runs_that_were_told_in_one_lump_count_each(metrics: ServingMetrics) -> None:
    metrics.ran_directly(2, 3, 10)
    assert batching_cells(metrics, "wrapped_run_count") == {(): 10}
    assert batching_cells(metrics, "input_batch_size") == {(): HistogramValue((0, 0, 30) + (0,) * 12, 60.0)}
    assert batching_cells(metrics, "padding_size") == {("2",): HistogramValue((10,) + (0,) * 14, 0.0)}
    (queued,) = batching_cells(metrics, "queuing_latency").values()
    assert isinstance(queued, HistogramValue)
    assert (queued.counts[0], queued.sum) == (10, 0.0)
