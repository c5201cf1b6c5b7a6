from __future__ import annotations

from typing import Any

import pytest

from inserve.replicas.replica_devices import MOST_REPLICAS, replicated_bytes, spread_replicas


@pytest.mark.parametrize(
    ("replicas", "devices"),
    [
        ({"GPU:0": 1}, ("GPU:0",)),
        ({"GPU:0": 1, "GPU:1": 1}, ("GPU:0", "GPU:1")),
        ({"GPU:0": 3, "GPU:1": 1, "GPU:2": 2}, ("GPU:0", "GPU:1", "GPU:2", "GPU:0", "GPU:2", "GPU:0")),
    ],
)
def test_devices_stand_in_turn(replicas: dict[str, int], devices: tuple[str, ...]) -> None:
    assert spread_replicas(replicas) == devices


@pytest.mark.parametrize(
    ("replicas", "error", "text"),
    [
        ({}, ValueError, "expected 1 to 64 replicas, got 0"),
        ({"GPU:0": 0}, ValueError, "expected at least 1 replica on GPU:0, got 0"),
        ({"GPU:0": MOST_REPLICAS, "GPU:1": 1}, ValueError, "expected 1 to 64 replicas, got 65"),
        ({"GPU:0": True}, TypeError, "expected a number of replicas on GPU:0, got True"),
        ({"GPU:0": "2"}, TypeError, "expected a number of replicas on GPU:0, got '2'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    replicas: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        spread_replicas(replicas)


@pytest.mark.parametrize(
    ("devices", "taken"),
    [
        (["CPU:0"], {"main": 100}),
        (["CPU:0", "CPU:1"], {"main": 200}),
        (["GPU:0", "GPU:1", "GPU:0"], {"gpu:0": 200, "gpu:1": 100, "main": 100}),
        (["GPU:0", "CPU:0"], {"gpu:0": 100, "main": 100}),
    ],
)
def test_each_replica_takes_the_bytes_of_the_model_on_its_device(
    devices: list[str], taken: dict[str, int]
) -> None:
    assert replicated_bytes(100, devices) == taken
