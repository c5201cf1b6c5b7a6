import pickle
from pathlib import Path
from typing import Any

import pytest

from inserve.errors import InvalidArgumentError
from inserve.server.model_config import ModelConfig, check_transition
from inserve.sources.servable_to_monitor import ServableToMonitor
from inserve.sources.version_selection import Latest


def test_a_name_and_a_path_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ModelConfig("m", "models/m")
    assert config.base_path == str(tmp_path / "models" / "m")
    assert config.servable_to_monitor() == ServableToMonitor("m", config.base_path, Latest(1), None)
    assert (config.labels, config.platform) == ({}, "tensorflow")


def test_a_config_can_be_sent_to_another_process() -> None:
    config = ModelConfig("m", "/m", Latest(2), {"stable": 1}, 0.5)
    assert pickle.loads(pickle.dumps(config)) == config


def test_labels_are_copied() -> None:
    labels = {"stable": 1}
    config = ModelConfig("m", "/m", labels=labels)
    labels["stable"] = 2
    assert config.labels == {"stable": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": ""}, ValueError, "a model needs a name"),
        ({"name": 1}, TypeError, "a model name is text, got 1"),
        ({"path": ""}, ValueError, "model m: a base path must not be empty"),
        ({"path": 1}, TypeError, "expected str, bytes or os.PathLike"),
        ({"path": b"/m"}, TypeError, "a base path is text or a path, got b'/m'"),
        ({"version_policy": 2}, TypeError, r"model m: version_policy is Latest\(n\), .* got 2"),
        ({"labels": {"a": "1"}}, TypeError, "model m: labels gives version numbers by label, got 'a': '1'"),
        ({"labels": {"": 1}}, ValueError, "model m: a label must not be empty"),
        ({"labels": {"a": 2**63}}, ValueError, "model m: label a needs a signed 64-bit version"),
        (
            {"poll_interval": float("nan")},
            ValueError,
            "model m: poll_interval is in seconds or None, got nan",
        ),
        ({"platform": ""}, ValueError, "model m needs a platform"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        ModelConfig(**{"name": "m", "path": "/m", **arguments})


def test_a_model_that_stays_keeps_its_platform() -> None:
    old = [ModelConfig("m", "/m"), ModelConfig("gone", "/gone", platform="other")]
    check_transition(old, [ModelConfig("m", "/elsewhere"), ModelConfig("new", "/new", platform="other")])
    with pytest.raises(InvalidArgumentError) as caught:
        check_transition(old, [ModelConfig("m", "/m", platform="other")])
    assert caught.value.message == (
        "Illegal to change a model's platform. For model m platform was tensorflow "
        "and new platform requested is other"
    )
