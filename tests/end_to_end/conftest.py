"""What the tests of swaps and faults share: a model whose versions can be told apart, a server's story."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.server import model_server

WRITE_MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "versioned_model.py"
LONGEST_WAIT_S = 120.0
TENSORFLOW = "inserve.tensorflow"


class Story(logging.Handler):
    """What a server publishes and logs, as it happens.

    *newest_loading* and *newest_available* are the highest version that was published to be so.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._told = threading.Condition()
        self._num_told = 0
        self.newest_loading = 0
        self.newest_available = 0
        self.told: list[ServableState | str] = []
        """Events and lines in the order in which they came."""

    def bus(self) -> EventBus[ServableState]:
        bus: EventBus[ServableState] = EventBus()
        bus.subscribe(self.on_event)
        return bus

    def on_event(self, event: ServableState) -> None:
        if event.state is ManagerState.LOADING:
            self.newest_loading = max(self.newest_loading, event.id.version)
        elif event.state is ManagerState.AVAILABLE:
            self.newest_available = max(self.newest_available, event.id.version)
        self.told.append(event)
        self.tell()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and record.name != TENSORFLOW:
            self.told.append(record.getMessage())
        self.tell()

    def tell(self) -> None:
        """Have whoever waits look again."""
        with self._told:
            self._num_told += 1
            self._told.notify_all()

    @property
    def events(self) -> list[ServableState]:
        return [each for each in self.told if isinstance(each, ServableState)]

    @property
    def lines(self) -> list[str]:
        """What was logged as a warning or worse, TensorFlow's own lines left out."""
        return [each for each in self.told if isinstance(each, str)]

    def lines_before(self, event: ServableState) -> list[str]:
        return [each for each in self.told[: self.told.index(event)] if isinstance(each, str)]

    def has(self, version: int, state: ManagerState) -> bool:
        """Return whether *version* is in *state*, as far as was published."""
        states = [event.state for event in self.events if event.id.version == version]
        return states[-1:] == [state]

    def lines_with(self, *texts: str) -> list[str]:
        """Return the lines that contain every one of *texts*."""
        return [line for line in self.lines if all(text in line for text in texts)]

    def wait_until(self, is_so: Callable[[], object]) -> None:
        """Return once *is_so*; it is asked at once, after each event or line, and when told to."""
        deadline = time.monotonic() + LONGEST_WAIT_S
        while True:
            with self._told:
                num_told = self._num_told
            if is_so():
                return
            with self._told:
                while self._num_told == num_told:
                    if not self._told.wait(max(0.0, deadline - time.monotonic())):
                        pytest.fail(f"after {LONGEST_WAIT_S} s not so: {self.told}")


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    """Listen to the server that the test makes, and to the loggers of the library."""
    story = Story()
    monkeypatch.setattr(model_server, "EventBus", story.bus)
    logger = logging.getLogger("inserve")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(story)
    yield story
    logger.removeHandler(story)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def versioned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel that answers ``y`` = the number in its ``assets/version.txt``, here 1."""
    folder = tmp_path_factory.mktemp("versioned") / "1"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run(
        [sys.executable, str(WRITE_MODEL), str(folder)], check=True, env=environment, capture_output=True
    )
    return folder
