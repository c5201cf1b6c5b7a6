from __future__ import annotations

from pathlib import Path

import pytest

from inserve.batching.options import BatchingOptions
from inserve.metrics.registry import Registry
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.server.model_config import ModelConfig
from inserve.server.model_loading import ModelLoading
from inserve.server.options import ServerOptions

HALF_PLUS_TWO = Path(__file__).resolve().parents[1] / "golden" / "models" / "half_plus_two" / "1"


def is_row_wise(options: ServerOptions, devices: tuple[str, ...] = ("CPU:0",)) -> bool:
    """Return whether calls of a model with a graph that allows it are merged without batching."""
    loading = ModelLoading(options, ServingMetrics(Registry()))
    loading.see_devices(devices)
    loader = loading.loader("m", str(HALF_PLUS_TWO))
    loader.load()
    try:
        servable = loader.servable()
        assert isinstance(servable, SavedModelServable)
        return servable.signature_run(servable.signatures["serving_default"], ()).is_row_wise
    finally:
        loader.unload()


def test_calls_may_be_merged_by_what_the_graph_proves() -> None:
    assert is_row_wise(ServerOptions(tune=False))


def test_no_proof_is_sought_where_there_is_another_device_than_processors() -> None:
    assert not is_row_wise(ServerOptions(tune=False), ("CPU:0", "GPU:0"))


def test_no_proof_is_sought_where_a_compiler_may_replace_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2")
    assert not is_row_wise(ServerOptions(tune=False))


def test_no_proof_is_sought_where_the_session_changes_graphs_in_its_own_way() -> None:
    config = messages.ConfigProto()
    config.graph_options.optimizer_options.global_jit_level = 1
    assert not is_row_wise(ServerOptions(tune=False, session_config=config.SerializeToString()))


def test_no_proof_is_sought_where_shapes_are_not_checked() -> None:
    assert not is_row_wise(ServerOptions(tune=False, check_shapes=False))


def slots(devices: tuple[str, ...], batching: BatchingOptions) -> str:
    """Return what is said of the batches of a version where TensorFlow sees *devices*."""
    loading = ModelLoading(ServerOptions(tune=False, batching=batching), ServingMetrics(Registry()))
    loading.see_devices(devices)
    loader = loading.loader("m", str(HALF_PLUS_TWO))
    loader.load()
    try:
        return loading.explain_batching("m").splitlines()[0].rpartition(": ")[2]
    finally:
        loader.unload()
        loading.stop(5)


def test_a_gpu_is_given_two_batches_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert slots(("CPU:0",), BatchingOptions()) == "at most 8 batches at a time."
    assert slots(("CPU:0", "GPU:0", "GPU:1"), BatchingOptions()) == "at most 2 batches at a time."
    assert slots(("CPU:0", "GPU:0"), BatchingOptions(num_batch_threads=5)) == "at most 5 batches at a time."


@pytest.mark.parametrize(
    ("replicas", "number"), [({"GPU:0": 3}, 1), ({"GPU:0": 1, "GPU:1": 1, "CPU:0": 1}, 2), ({"CPU:0": 2}, 0)]
)
def test_the_devices_of_replicas_count(replicas: dict[str, int], number: int) -> None:
    loading = ModelLoading(ServerOptions(batching=BatchingOptions()), ServingMetrics(Registry()))
    loading.see_devices(("CPU:0", "GPU:0", "GPU:1"))
    loading.prepare([ModelConfig("m", "/models/m", replicas=replicas)])
    loading.loader("m", "/models/m/1")
    assert loading._num_accelerators("/models/m/1") == number
    loading.stop(5)


def test_a_tflite_model_runs_on_processors(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").touch()
    for prefers, number in ((True, 0), (False, 1)):
        options = ServerOptions(batching=BatchingOptions(), prefer_tflite_model=prefers)
        loading = ModelLoading(options, ServingMetrics(Registry()))
        loading.see_devices(("CPU:0", "GPU:0"))
        assert loading._num_accelerators(str(tmp_path)) == number
        loading.stop(5)
