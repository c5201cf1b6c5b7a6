"""Replicas through ``Server``, on the virtual processors that every machine can have."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import inserve
from inserve.metrics.registry import Registry
from inserve.metrics.serving_metrics import ServingMetrics
from inserve.protos import messages
from inserve.saved_model.saved_model_loader import SavedModelLoader, SavedModelOptions
from inserve.server.model_loading import ModelLoading
from inserve.server.options import ServerOptions
from inserve.tensorflow_c.devices import list_devices
from inserve.tensorflow_c.load_saved_model import load_saved_model

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


@pytest.fixture(scope="module")
def two_processors() -> bytes:
    """A session config with two processors; skipped where this process has made its devices before."""
    config = messages.ConfigProto()
    config.device_count["CPU"] = 2
    serialized = config.SerializeToString()
    if len([device for device in list_devices(serialized) if device.device_type == "CPU"]) < 2:
        pytest.skip("TensorFlow made one processor only for this session config")
    return serialized


@pytest.fixture(scope="module")
def server(two_processors: bytes) -> Iterator[inserve.Server]:
    models = [
        inserve.ModelConfig("half_plus_two", MODELS / "half_plus_two", replicas={"cpu:0": 1, "/CPU:1": 1}),
        inserve.ModelConfig("multi", MODELS / "multi"),
    ]
    with inserve.Server(models=models, session_config=two_processors) as server:
        yield server


def test_the_devices_of_a_server_are_listed(server: inserve.Server) -> None:
    assert [device.short_name for device in server.devices][:2] == ["CPU:0", "CPU:1"]


def test_a_model_with_replicas_answers_many_callers_at_once(server: inserve.Server) -> None:
    def ask(number: int) -> float:
        outputs = server.predict("half_plus_two", {"x": np.array([number], np.float32)})
        return float(outputs["y"][0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [number / 2 + 3 for number in range(200)]


def test_only_the_model_that_asks_for_replicas_has_them_and_takes_their_memory(two_processors: bytes) -> None:
    loading = ModelLoading(ServerOptions(session_config=two_processors), ServingMetrics(Registry()))
    loading.prepare([inserve.ModelConfig("twice", "/models", replicas={"CPU:0": 1, "CPU:1": 1})])
    path = str(MODELS / "half_plus_two" / "2")
    taken, replicas = [], []
    for loader in (loading.loader("twice", path), loading.loader("once", str(MODELS / "multi" / "1"))):
        taken.append(loader.estimate_resources())
        loader.load()
        replicas.append(getattr(loader.servable().model, "num_replicas", 1))
        loader.unload()
    assert replicas == [2, 1]
    alone = SavedModelLoader(path, SavedModelOptions(), load_saved_model).estimate_resources()
    assert taken[0].bytes_on("main") == 2 * alone.bytes_on("main")


def test_a_device_that_is_not_there_fails_the_start_and_names_those_that_are(two_processors: bytes) -> None:
    server = inserve.Server(
        models={"half_plus_two": MODELS / "half_plus_two"}, devices=["CPU:7"], session_config=two_processors
    )
    with pytest.raises(inserve.UnknownError, match="no device CPU:7: TensorFlow sees CPU:0, CPU:1"):
        server.start()


def test_a_model_that_changes_its_variables_has_no_replicas(two_processors: bytes) -> None:
    server = inserve.Server(
        models={"counter": MODELS / "counter"}, devices=["CPU:0", "CPU:1"], session_config=two_processors
    )
    with pytest.raises(inserve.UnknownError, match="replica"):
        server.start()


def test_names_and_numbers_of_replicas_are_checked() -> None:
    with pytest.raises(ValueError, match="model m: expected the name of a device"):
        inserve.ModelConfig("m", "/m", replicas={"": 1})
    with pytest.raises(ValueError, match="model m: expected at least 1 replica on GPU:0, got 0"):
        inserve.ModelConfig("m", "/m", replicas={"gpu:0": 0})
    with pytest.raises(ValueError, match="share of a GPU's memory is 2"):
        inserve.Server(gpu_memory_fraction=2)


def test_memory_of_gpus_grows_unless_told_otherwise() -> None:
    def growth(server: inserve.Server) -> bool:
        config = messages.ConfigProto.FromString(server.options.complete_session_config())
        return bool(config.gpu_options.allow_growth)

    assert growth(inserve.Server())
    assert not growth(inserve.Server(gpu_memory_growth=False))
