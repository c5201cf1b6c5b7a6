from __future__ import annotations

from pathlib import Path

import pytest

from inserve.metrics.registry import Registry
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
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
