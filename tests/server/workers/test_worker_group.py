from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from inserve.errors import DeadlineExceededError, InserveError, InternalError, UnavailableError, UnknownError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.server.model_config import ModelConfig
from inserve.server.workers.peer import Peer
from inserve.server.workers.worker_group import WorkerGroup, WorkerStart, WorkerState
from inserve.testing import ManualClock

LIMIT_S = 30.0
A, B = ModelConfig("a", "/models/a"), ModelConfig("b", "/models/b")


class FakeProcess:
    """A worker that is a thread: notes what it is asked, ends when its pipe does or when told to."""

    def __init__(self, pid: int, fails_to_start: InserveError | None) -> None:
        self.index = 0
        self.is_replacement = False
        self.pid = pid
        self.connection, theirs = Pipe()
        self.asked: list[tuple[Any, ...]] = []
        self.has_been_asked = threading.Event()
        self.may_start = threading.Event()
        self.may_start.set()
        self.ended = threading.Event()
        self.status: int | None = None
        self._fails_to_start = fails_to_start
        operations = {
            name: self._noting(name) for name in ("set_models", "set", "refresh", "stop", "metrics")
        } | {"start": self._start}
        self.peer = Peer(theirs, "the parent", operations, {}, lambda: self.end(0))
        self.peer.start()

    def _noting(self, name: str) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            self.asked.append((name, *arguments))
            return f"{name} of {self.index}"

        return note

    def _start(self, start: WorkerStart) -> None:
        self.index = start.index
        self.asked.append(("start", start.models))
        self.is_replacement = start.is_replacement
        self.has_been_asked.set()
        assert self.may_start.wait(LIMIT_S)
        if self._fails_to_start is not None:
            raise self._fails_to_start

    def end(self, status: int) -> None:
        if not self.ended.is_set():
            self.status = status
            self.ended.set()
            self.peer.close()

    def wait(self, timeout_s: float | None = None) -> int | None:
        return self.status if self.ended.wait(timeout_s) else None

    def kill(self) -> None:
        self.end(-9)


class Scene:
    def __init__(self, count: int = 2) -> None:
        self.clock = ManualClock()
        self.launched: SimpleQueue[FakeProcess] = SimpleQueue()
        self.failures: list[InserveError | None] = []
        self.waits_before_start = False
        self.spare: FakeProcess
        self.told: list[tuple[Any, ...]] = []
        self._pids = iter(range(100, 200))
        self.group = WorkerGroup(
            count, self.launch, {"double": lambda n: 2 * n}, {"log": self.note}, self.clock
        )

    def note(self, *arguments: Any) -> None:
        self.told.append(arguments)

    def launch(self) -> FakeProcess:
        failure = self.failures.pop(0) if self.failures else None
        process = FakeProcess(next(self._pids), failure)
        if self.waits_before_start:
            process.may_start.clear()
        self.launched.put(process)
        return process

    def started(self) -> list[FakeProcess]:
        """Start the group; return its processes by index."""
        self.group.launch()
        self.group.start("options", [A])
        processes = [self.launched.get(timeout=LIMIT_S) for _ in self.group.status()]
        self.spare = self.launched.get(timeout=LIMIT_S)
        return sorted(processes, key=lambda process: process.index)

    def wait_until_asked(self, process: FakeProcess) -> None:
        """Return once *process* has been asked to start."""
        assert process.has_been_asked.wait(LIMIT_S)

    def wait_until(self, *states: WorkerState) -> None:
        reached = threading.Event()
        for _ in range(int(LIMIT_S / 0.005)):
            if tuple(status.state for status in self.group.status()) == states:
                return
            reached.wait(0.005)
        pytest.fail(f"not {states}: {self.group.status()}")


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.group.stop(0.0)


def test_each_worker_starts_with_the_models_and_serves(scene: Scene) -> None:
    processes = scene.started()
    assert [process.asked for process in processes] == [[("start", [A])], [("start", [A])]]
    assert [(s.index, s.pid, s.state) for s in scene.group.status()] == [
        (1, processes[0].pid, WorkerState.SERVING),
        (2, processes[1].pid, WorkerState.SERVING),
    ]


def test_a_worker_that_cannot_start_fails_the_start_with_its_reason(scene: Scene) -> None:
    scene.failures = [UnknownError("no such model"), UnknownError("no such model")]
    scene.group.launch()
    with pytest.raises(UnknownError, match="no such model"):
        scene.group.start("options", [A])
    for _ in range(2):
        assert scene.launched.get(timeout=LIMIT_S).wait(LIMIT_S) is not None


def test_a_process_that_ends_at_its_start_fails_the_start_with_its_status(scene: Scene) -> None:
    scene.waits_before_start = True
    scene.group.launch()
    first, second = (scene.launched.get(timeout=LIMIT_S) for _ in range(2))
    first.end(-11)
    with pytest.raises(UnavailableError, match=r"worker \d ended with status -11 while it started"):
        scene.group.start("options", [A], timeout_s=LIMIT_S)
    for process in (first, second):
        process.may_start.set()


@pytest.mark.parametrize("index", [1, 2])
def test_the_start_fails_when_one_worker_does_whatever_the_others_are_at(scene: Scene, index: int) -> None:
    scene.waits_before_start = True
    scene.group.launch()
    processes = [scene.launched.get(timeout=LIMIT_S) for _ in range(2)]

    def end_one() -> None:
        for process in processes:
            scene.wait_until_asked(process)
        next(process for process in processes if process.index == index).end(-11)

    ending = threading.Thread(target=end_one)
    ending.start()
    with pytest.raises(UnavailableError, match=f"worker {index} ended with status -11 while it started"):
        scene.group.start("options", [A])
    ending.join()
    for process in processes:
        process.may_start.set()


def test_a_start_that_takes_too_long_is_an_error(scene: Scene) -> None:
    scene.waits_before_start = True
    scene.group.launch()
    errors: list[BaseException] = []

    def start() -> None:
        try:
            scene.group.start("options", [A], timeout_s=5.0)
        except DeadlineExceededError as error:
            errors.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    scene.clock.block_until_waiting(1)
    scene.clock.advance(5.0)
    starting.join(LIMIT_S)
    assert [str(error) for error in errors] == ["after 5.0 s worker 1 is still starting"]
    for _ in range(2):
        scene.launched.get(timeout=LIMIT_S).may_start.set()


def test_a_worker_that_dies_is_replaced_at_once_and_the_others_go_on(scene: Scene) -> None:
    first, second = scene.started()
    first.end(-9)
    assert scene.spare.has_been_asked.wait(LIMIT_S)
    assert scene.spare.index == 1
    scene.wait_until(WorkerState.SERVING, WorkerState.SERVING)
    assert [status.restarts for status in scene.group.status()] == [1, 0]
    assert not second.ended.is_set()


def test_another_process_is_kept_ready_once_the_spare_one_serves(scene: Scene) -> None:
    first, second = scene.started()
    first.end(-9)
    scene.wait_until_asked(scene.spare)
    spare = scene.launched.get(timeout=LIMIT_S)
    second.end(-9)
    scene.wait_until_asked(spare)
    assert spare.index == 2


def test_a_spare_process_that_has_died_is_not_used(scene: Scene) -> None:
    first, _ = scene.started()
    scene.spare.end(-9)
    first.end(-9)
    replacement = scene.launched.get(timeout=LIMIT_S)
    scene.wait_until_asked(replacement)
    assert replacement.index == 1


def test_a_worker_that_dies_soon_again_and_again_is_replaced_after_longer_and_longer_pauses() -> None:
    scene = Scene(count=1)
    (process,) = scene.started()
    process.end(1)
    process = scene.spare
    for pause_s in (0.5, 1.0, 2.0):
        scene.wait_until_asked(process)
        scene.wait_until(WorkerState.SERVING)
        spare = scene.launched.get(timeout=LIMIT_S)
        process.end(1)
        process = spare
        scene.clock.block_until_waiting(1)
        assert scene.group.status()[0].state is WorkerState.WAITING
        scene.clock.advance(pause_s - 0.1)
        assert not process.asked
        scene.clock.advance(0.1)
    scene.wait_until_asked(process)
    scene.wait_until(WorkerState.SERVING)
    spare = scene.launched.get(timeout=LIMIT_S)
    scene.clock.advance(10.0)
    process.end(1)
    scene.wait_until_asked(spare)  # without a pause
    scene.group.stop(0.0)


def test_a_replacement_gets_the_models_of_now(scene: Scene) -> None:
    first, second = scene.started()
    scene.group.set_models([A, B])
    assert first.asked[1:] == second.asked[1:] == [("set_models", [A, B])]
    first.end(-9)
    replacement = scene.spare
    scene.wait_until_asked(replacement)
    assert replacement.asked == [("start", [A, B])]


def test_a_change_during_the_start_of_a_replacement_reaches_it(scene: Scene) -> None:
    first, _ = scene.started()
    scene.spare.may_start.clear()
    first.end(-9)
    replacement = scene.spare
    scene.wait_until_asked(replacement)
    scene.group.set_models([B])
    replacement.may_start.set()
    scene.wait_until(WorkerState.SERVING, WorkerState.SERVING)
    assert replacement.asked == [("start", [A]), ("set_models", [B])]


def test_only_a_replacement_is_told_that_it_is_one(scene: Scene) -> None:
    first, second = scene.started()
    first.end(-9)
    scene.wait_until_asked(scene.spare)
    assert (second.is_replacement, scene.spare.is_replacement) == (False, True)


def test_what_holds_for_good_is_asked_of_replacements_too_with_the_last_arguments(scene: Scene) -> None:
    first, second = scene.started()
    scene.group.ask_all_for_good("set", "a", "a", 1)
    scene.group.ask_all_for_good("set", "b", "b", 2)
    scene.group.ask_all_for_good("set", "a", "a", 3)
    assert second.asked[1:] == [("set", "a", 1), ("set", "b", 2), ("set", "a", 3)]
    first.end(-9)
    scene.wait_until_asked(scene.spare)
    scene.wait_until(WorkerState.SERVING, WorkerState.SERVING)
    assert scene.spare.asked[1:] == [("set", "a", 3), ("set", "b", 2)]


def test_questions_of_a_worker_are_answered_and_its_notices_carry_its_number(scene: Scene) -> None:
    _, second = scene.started()
    second.peer.tell("log", "hello")
    assert second.peer.ask("double", 21, timeout_s=LIMIT_S) == 42
    assert scene.told == [(2, "hello")]


def test_states_are_those_of_workers_that_serve(scene: Scene) -> None:
    first, second = scene.started()
    state = ServableState(ServableId("a", 1), ManagerState.AVAILABLE, 0.0)
    for process in (first, second):
        process.peer.tell("state", state)
        process.peer.ask("double", 1, timeout_s=LIMIT_S)
    assert scene.group.states() == [{state.id: state}, {state.id: state}]
    scene.spare.may_start.clear()
    first.end(-9)
    replacement = scene.spare
    scene.wait_until(WorkerState.STARTING, WorkerState.SERVING)
    assert scene.group.states() == [{state.id: state}]
    replacement.may_start.set()


def test_asking_all_leaves_out_a_worker_that_is_gone(scene: Scene) -> None:
    first, _ = scene.started()
    assert sorted(scene.group.ask_all("metrics")) == ["metrics of 1", "metrics of 2"]
    scene.spare.may_start.clear()
    first.peer.close()
    answers: Sequence[Any] = scene.group.ask_all("metrics", timeout_s=LIMIT_S)
    assert answers == ["metrics of 2"]
    scene.spare.may_start.set()


def test_stop_asks_each_to_drain_and_ends_it(scene: Scene) -> None:
    processes = scene.started()
    scene.group.stop(3.0)
    assert [process.asked[-1] for process in processes] == [("stop", 3.0), ("stop", 3.0)]
    assert all(process.ended.is_set() for process in (*processes, scene.spare))
    assert [status.state for status in scene.group.status()] == [WorkerState.STOPPED] * 2
    assert scene.launched.empty()


def test_stop_before_the_start_ends_what_was_launched(scene: Scene) -> None:
    scene.group.launch()
    processes = [scene.launched.get(timeout=LIMIT_S) for _ in range(2)]
    scene.group.stop(0.0)
    assert all(process.ended.is_set() for process in processes)


def test_stop_ends_a_worker_that_still_starts_without_waiting_for_it(scene: Scene) -> None:
    first, _ = scene.started()
    scene.spare.may_start.clear()
    first.end(-9)
    scene.wait_until_asked(scene.spare)
    scene.group.stop(1000.0)
    assert scene.spare.wait(0.0) == -9
    scene.spare.may_start.set()


def test_an_unexpected_error_at_the_start_fails_it_and_ends_the_process() -> None:
    scene = Scene(count=1)
    scene.group.launch()
    with pytest.raises(InternalError, match=r"'start' cannot be sent to worker 1: .*lock"):
        scene.group.start(threading.Lock(), [])
    assert scene.launched.get(timeout=LIMIT_S).wait(LIMIT_S) is not None
    scene.group.stop(0.0)


def test_a_launch_that_fails_fails_the_start(tmp_path: Path) -> None:
    def launch() -> FakeProcess:
        raise FileNotFoundError(tmp_path / "python")

    group = WorkerGroup(1, launch, {}, {})
    group.launch()
    with pytest.raises(UnavailableError, match="worker 1 cannot be launched"):
        group.start("options", [])
    group.stop(0.0)
