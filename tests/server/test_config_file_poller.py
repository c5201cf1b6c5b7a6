from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from inserve.errors import InvalidArgumentError
from inserve.server.config_file_poller import ConfigFilePoller, file_fingerprint
from inserve.testing import ManualClock

LIMIT_S = 30.0


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the poller logged; threads of other tests may still be logging."""
    return [record.getMessage() for record in caplog.records if record.name == "inserve.server"]


class Scene:
    """A poller of a file whose application notes the text, and fails on ``bad``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text("first")
        self.clock = ManualClock()
        self.applied: list[str] = []
        self.poller = ConfigFilePoller(path, 10.0, self.apply, file_fingerprint(path), self.clock)

    def apply(self) -> None:
        text = self.path.read_text() if self.path.exists() else "bad: no file"
        self.applied.append(text)
        if text.startswith("bad"):
            raise InvalidArgumentError(f"cannot use\n{text}")

    def write(self, text: str) -> None:
        """Put the whole text there at once: the thread may be looking."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    def poll(self) -> None:
        self.poller.refresh(LIMIT_S)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "models.config")
    made.poller.start()
    made.poll()
    yield made
    assert made.poller.stop(LIMIT_S)


def test_a_file_that_stays_as_it_is_is_not_applied_again(scene: Scene) -> None:
    for _ in range(3):
        scene.poll()
    scene.write("first")
    scene.poll()
    assert scene.applied == []


def test_a_changed_file_is_applied_once(scene: Scene) -> None:
    scene.write("second")
    scene.poll()
    scene.poll()
    assert scene.applied == ["second"]


def test_the_file_is_looked_at_every_interval(scene: Scene) -> None:
    scene.poll()
    scene.write("second")
    scene.clock.block_until_waiting(1)
    scene.clock.advance(9.0)
    assert scene.applied == []
    scene.clock.advance(1.0)
    scene.clock.block_until_waiting(1)
    assert scene.applied == ["second"]


def test_a_file_that_cannot_be_applied_is_tried_at_each_poll_and_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inserve.server")
    scene.write("bad text")
    scene.poll()
    scene.poll()
    assert scene.applied == ["bad text", "bad text"]
    assert messages(caplog) == [
        f"Model config file {scene.path}: cannot use bad text; the models stay as they are"
    ]
    scene.write("good")
    scene.poll()
    assert messages(caplog)[1:] == [f"Applied the changed model config file {scene.path}"]


def test_a_file_that_vanishes_is_logged_once_and_applied_when_it_is_back_changed(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.path.unlink()
    scene.poll()
    scene.poll()
    assert len(messages(caplog)) == 1
    scene.write("first")
    scene.applied.clear()
    scene.poll()
    assert scene.applied == []
    scene.write("second")
    scene.poll()
    assert scene.applied == ["second"]


def test_the_content_of_before_applies_again_after_another(scene: Scene) -> None:
    for text in ("second", "first"):
        scene.write(text)
        scene.poll()
    assert scene.applied == ["second", "first"]


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan")])
def test_the_interval_is_above_0(tmp_path: Path, interval_s: float) -> None:
    with pytest.raises(ValueError, match="expected above 0"):
        ConfigFilePoller(tmp_path, interval_s, lambda: None, None)


def test_a_file_that_cannot_be_read_has_no_fingerprint(tmp_path: Path) -> None:
    assert file_fingerprint(tmp_path / "none") is None
    assert file_fingerprint(tmp_path) is None
