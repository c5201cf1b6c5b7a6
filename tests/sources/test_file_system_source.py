import logging
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from inserve.errors import CancelledError, DeadlineExceededError, FailedPreconditionError
from inserve.lifecycle.source import ServableData
from inserve.sources.file_system_source import FileSystemSource
from inserve.sources.servable_to_monitor import ServableToMonitor
from inserve.sources.version_selection import All, Latest, Specific, VersionPolicy
from inserve.testing.manual_clock import ManualClock

HALF_PLUS_TWO = Path(__file__).parent.parent / "golden" / "models" / "half_plus_two" / "1"
LONG_AGO_S = 1_000_000_000
LIMIT_S = 30.0


class Rig:
    """A source on a manual clock; wall time is that of the clock, far behind the files on disk."""

    def __init__(self, **options: object) -> None:
        self.clock = ManualClock()
        self.wall_offset_s = 4_000_000_000.0
        self.lists: queue.Queue[tuple[str, list[int], list[str]]] = queue.Queue()
        self.source = FileSystemSource(
            clock=self.clock,
            wall_time=lambda: self.wall_offset_s + self.clock.now(),
            **options,  # type: ignore[arg-type]
        )
        self.source.set_aspired_versions_callback(self.take)

    def take(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        assert all(data.id.name == name for data in versions)
        self.lists.put(
            (name, [data.id.version for data in versions], [data.payload or "" for data in versions])
        )

    def next_list(self) -> tuple[str, list[int]]:
        name, versions, _ = self.lists.get(timeout=LIMIT_S)
        return name, versions

    def next_versions(self) -> list[int]:
        return self.next_list()[1]

    def poll_again(self, seconds: float = 1.0) -> None:
        self.clock.block_until_waiting()
        self.clock.advance(seconds)

    def waiting(self, name: str = "m") -> dict[int, str]:
        return dict(self.source.status()[name].waiting)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    assert rig.source.stop(LIMIT_S)


@pytest.fixture
def once() -> Iterator[Rig]:
    """Polls each model once, when it is added."""
    rig = Rig(poll_interval_s=0.0)
    yield rig
    assert rig.source.stop(LIMIT_S)


def publish(base: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(HALF_PLUS_TWO, base / name)


def model(base: Path, policy: VersionPolicy | None = None, name: str = "m") -> ServableToMonitor:
    return ServableToMonitor(name, str(base), policy if policy is not None else Latest())


def test_the_first_poll_begins_at_start_and_sends_paths(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1", "002")
    rig.source.update([ServableToMonitor("m", f"{tmp_path}/", All())])
    rig.source.start()
    assert rig.lists.get(timeout=LIMIT_S) == ("m", [2, 1], [f"{tmp_path}/002", f"{tmp_path}/1"])


def test_a_new_version_is_aspired_to_at_the_next_poll(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [1]
    publish(tmp_path, "2")
    rig.poll_again()
    assert rig.next_versions() == [2]


def test_polls_come_one_interval_after_the_start_of_the_one_before(tmp_path: Path) -> None:
    rig = Rig(poll_interval_s=2.0)
    publish(tmp_path, "1")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [1]
    rig.poll_again(1.5)
    assert rig.lists.empty()
    rig.poll_again(0.5)
    assert rig.next_versions() == [1]
    assert rig.source.stop(LIMIT_S)


def test_each_model_is_polled_at_its_own_interval(tmp_path: Path) -> None:
    rig = Rig(poll_interval_s=10.0)
    for name in ("fast", "slow"):
        publish(tmp_path / name, "1")
    fast = ServableToMonitor("fast", str(tmp_path / "fast"), poll_interval_s=1.0)
    rig.source.update([fast, model(tmp_path / "slow", name="slow")])
    rig.source.start()
    assert [rig.next_list(), rig.next_list()] == [("fast", [1]), ("slow", [1])]
    for _ in range(9):
        rig.poll_again()
        assert rig.next_list() == ("fast", [1])
    rig.poll_again()
    assert [rig.next_list(), rig.next_list()] == [("fast", [1]), ("slow", [1])]
    assert rig.source.stop(LIMIT_S)


def test_with_interval_0_a_model_is_polled_once_also_one_added_later(tmp_path: Path, once: Rig) -> None:
    for name in ("a", "b"):
        publish(tmp_path / name, "1")
    models = [model(tmp_path / "a", name="a"), model(tmp_path / "b", name="b")]
    once.source.update(models[:1])
    once.source.start()
    assert once.next_list() == ("a", [1])
    once.source.update(models)
    assert once.next_list() == ("b", [1])
    once.poll_again(1000.0)
    assert once.lists.empty()


@pytest.mark.parametrize("interval_s", [-1.0, None])
def test_with_polling_off_a_model_is_polled_on_refresh_only(tmp_path: Path, interval_s: float | None) -> None:
    rig = Rig(poll_interval_s=interval_s)
    publish(tmp_path, "1")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    rig.poll_again(1000.0)
    assert rig.lists.empty()
    rig.source.refresh(LIMIT_S)
    assert rig.lists.get_nowait()[:2] == ("m", [1])
    assert rig.source.stop(LIMIT_S)


def test_refresh_returns_after_the_lists_were_sent(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [1]
    publish(tmp_path, "2")
    rig.source.refresh(LIMIT_S)
    assert rig.lists.get_nowait()[:2] == ("m", [2])


def test_polls_never_overlap(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    inside = threading.Semaphore(0)
    go_on = threading.Event()
    threads: list[str] = []

    def slow_take(name: str, versions: Sequence[ServableData[str]]) -> None:
        threads.append(threading.current_thread().name)
        inside.release()
        assert go_on.wait(LIMIT_S)

    rig.source.set_aspired_versions_callback(slow_take)
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert inside.acquire(timeout=LIMIT_S)
    callers = [threading.Thread(target=rig.source.refresh, args=(LIMIT_S,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    rig.clock.block_until_waiting(4)
    assert len(threads) == 1
    go_on.set()
    for caller in callers:
        caller.join(LIMIT_S)
    assert threads == ["inserve-file-system-source"] * 2


def test_a_removed_model_gets_an_empty_list(tmp_path: Path, once: Rig) -> None:
    publish(tmp_path, "1")
    once.source.update([model(tmp_path)])
    once.source.start()
    assert once.next_list() == ("m", [1])
    once.source.update([])
    assert once.next_list() == ("m", [])
    assert once.source.status() == {}


def test_a_changed_policy_acts_at_once(tmp_path: Path, once: Rig) -> None:
    publish(tmp_path, "1", "2")
    once.source.update([model(tmp_path)])
    once.source.start()
    assert once.next_versions() == [2]
    once.source.update([model(tmp_path, Specific([1]))])
    assert once.next_versions() == [1]


def test_a_missing_base_path_keeps_its_versions_and_holds_back_no_other_model(
    tmp_path: Path, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        publish(tmp_path / name, "1")
    rig.source.update([model(tmp_path / "a", name="a"), model(tmp_path / "b", name="b")])
    rig.source.start()
    assert [rig.next_list(), rig.next_list()] == [("a", [1]), ("b", [1])]
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    publish(tmp_path / "b", "2")
    with caplog.at_level(logging.INFO, "inserve.sources"):
        rig.poll_again()
        assert rig.next_list() == ("b", [2])
        rig.poll_again()
        assert rig.next_list() == ("b", [2])
        expected = (
            f"Could not find base path {tmp_path}/a for servable a "
            f"with error NOT_FOUND: {tmp_path}/a not found"
        )
        status = rig.source.status()["a"]
        assert (status.error, status.aspired_versions) == (expected, (1,))
        (tmp_path / "elsewhere").rename(tmp_path / "a")
        rig.poll_again()
        assert [rig.next_list(), rig.next_list()] == [("a", [1]), ("b", [2])]
    assert rig.source.status()["a"].error is None
    line = f"FileSystemStoragePathSource encountered a filesystem access error: {expected}"
    assert caplog.messages == [line, f"No longer so: {line}"]


def test_a_base_path_that_is_a_file_is_a_problem_of_that_model(tmp_path: Path, once: Rig) -> None:
    (tmp_path / "m").write_text("")
    once.source.update([model(tmp_path / "m")])
    once.source.start()
    once.source.refresh(LIMIT_S)
    assert once.source.status()["m"].error == (
        f"Could not find base path {tmp_path}/m for servable m with error {tmp_path}/m; Not a directory"
    )


def test_an_empty_base_path_sends_an_empty_list_and_says_so_once(
    tmp_path: Path, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(HALF_PLUS_TWO, tmp_path, dirs_exist_ok=True)
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == []
    rig.poll_again()
    assert rig.next_versions() == []
    assert caplog.messages == [
        f"No versions of servable m found under base path {tmp_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    ]


def test_a_half_copied_version_does_not_replace_the_one_before(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    (tmp_path / "2").mkdir()
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [1]
    assert rig.waiting() == {2: "waiting for saved_model.pb"}
    shutil.copy(HALF_PLUS_TWO / "saved_model.pb", tmp_path / "2")
    rig.poll_again()
    assert rig.next_versions() == [1]
    assert rig.waiting() == {2: "waiting for variables/variables.index: the graph restores variables"}
    shutil.copytree(HALF_PLUS_TWO / "variables", tmp_path / "2" / "variables")
    rig.poll_again()
    assert rig.next_versions() == [2]
    assert rig.waiting() == {}


def test_a_version_is_waited_for_with_one_log_line_per_reason(
    tmp_path: Path, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "7").mkdir()
    rig.source.update([model(tmp_path)])
    rig.source.start()
    for _ in range(3):
        assert rig.next_versions() == []
        rig.poll_again()
    assert caplog.messages == ["Version 7 of servable m: waiting for saved_model.pb"]


def test_a_file_named_as_a_version_is_not_counted(tmp_path: Path, once: Rig) -> None:
    publish(tmp_path, "1")
    (tmp_path / "5").write_text("")
    once.source.update([model(tmp_path)])
    once.source.start()
    assert once.next_versions() == [1]
    once.source.refresh(LIMIT_S)
    assert once.waiting() == {5: "waiting for a directory: it is a file"}


def test_without_the_check_every_version_is_taken_at_once(tmp_path: Path) -> None:
    rig = Rig(check_complete=False)
    (tmp_path / "5").write_text("")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [5]
    assert rig.source.stop(LIMIT_S)


def test_a_version_that_is_aspired_to_stays_so_when_its_files_go(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == [1]
    (tmp_path / "1" / "saved_model.pb").unlink()
    rig.poll_again()
    assert rig.next_versions() == [1]


def test_a_version_that_was_just_written_is_taken_once_it_has_been_left_alone(tmp_path: Path) -> None:
    rig = Rig(poll_interval_s=30.0, quiet_period_s=5.0)
    publish(tmp_path, "1")
    newest = max(path.stat().st_ctime for path in tmp_path.rglob("*"))
    rig.wall_offset_s = newest + 2.0
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == []
    rig.clock.block_until_waiting()
    assert rig.waiting() == {1: "waiting for its files to stop changing"}
    rig.clock.advance(2.9)
    assert rig.lists.empty()
    rig.poll_again(0.2)
    assert rig.next_versions() == [1]
    assert rig.source.stop(LIMIT_S)


def test_a_version_that_is_only_left_alone_for_a_while_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(poll_interval_s=30.0, quiet_period_s=5.0)
    publish(tmp_path, "1")
    rig.wall_offset_s = max(path.stat().st_ctime for path in tmp_path.rglob("*"))
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == []
    assert rig.source.stop(LIMIT_S)
    assert rig.waiting() == {1: "waiting for its files to stop changing"}
    assert caplog.messages == []


def test_a_version_with_times_in_the_future_is_taken_when_it_looks_the_same_for_that_long(
    tmp_path: Path, rig: Rig
) -> None:
    publish(tmp_path, "1")
    rig.wall_offset_s = LONG_AGO_S
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == []
    with (tmp_path / "1" / "variables" / "variables.data-00000-of-00001").open("ab") as shard:
        shard.write(b"more")
    rig.poll_again()
    assert rig.next_versions() == []
    rig.poll_again()
    assert rig.next_versions() == [1]


def test_refresh_takes_a_complete_version_without_a_quiet_period(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    rig.wall_offset_s = LONG_AGO_S
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert rig.next_versions() == []
    rig.source.refresh(LIMIT_S)
    assert rig.next_versions() == [1]


def test_a_version_published_by_a_link_is_taken(tmp_path: Path, once: Rig) -> None:
    publish(tmp_path / "staging", "x")
    (tmp_path / "m").mkdir()
    os.symlink(tmp_path / "staging" / "x", tmp_path / "m" / "3")
    once.source.update([model(tmp_path / "m")])
    once.source.start()
    assert once.next_versions() == [3]


def test_a_callback_that_fails_for_one_model_harms_no_other(
    tmp_path: Path, once: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        publish(tmp_path / name, "1")

    def take(name: str, versions: Sequence[ServableData[str]]) -> None:
        if name == "a":
            raise RuntimeError("no")
        once.take(name, versions)

    once.source.set_aspired_versions_callback(take)
    once.source.update([model(tmp_path / "a", name="a"), model(tmp_path / "b", name="b")])
    once.source.start()
    assert once.next_list() == ("b", [1])
    assert once.source.status()["a"].error == "poll failed: RuntimeError: no"
    once.source.update([])
    assert once.next_list() == ("b", [])
    assert "The poll of servable a failed unexpectedly" in caplog.text


def test_refresh_needs_a_running_source(rig: Rig) -> None:
    with pytest.raises(FailedPreconditionError, match="is not running"):
        rig.source.refresh()
    rig.source.start()
    assert rig.source.stop(LIMIT_S)
    with pytest.raises(FailedPreconditionError, match="is not running"):
        rig.source.refresh()


def test_refresh_from_the_callback_is_refused(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    answers: queue.Queue[Exception] = queue.Queue()

    def take(name: str, versions: Sequence[ServableData[str]]) -> None:
        try:
            rig.source.refresh()
        except FailedPreconditionError as error:
            answers.put(error)

    rig.source.set_aspired_versions_callback(take)
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert "cannot wait for itself" in str(answers.get(timeout=LIMIT_S))


def test_refresh_gives_up_after_its_time_and_when_the_source_stops(tmp_path: Path, rig: Rig) -> None:
    publish(tmp_path, "1")
    inside, go_on = threading.Event(), threading.Event()

    def take(name: str, versions: Sequence[ServableData[str]]) -> None:
        inside.set()
        assert go_on.wait(LIMIT_S)

    rig.source.set_aspired_versions_callback(take)
    rig.source.update([model(tmp_path)])
    rig.source.start()
    assert inside.wait(LIMIT_S)
    errors: queue.Queue[Exception] = queue.Queue()

    def refresh(timeout_s: float | None) -> None:
        try:
            rig.source.refresh(timeout_s)
        except (CancelledError, DeadlineExceededError) as error:
            errors.put(error)

    callers = [threading.Thread(target=refresh, args=(timeout_s,)) for timeout_s in (1.0, None)]
    for caller in callers:
        caller.start()
    rig.clock.block_until_waiting(2)
    rig.clock.advance(1.0)
    assert isinstance(errors.get(timeout=LIMIT_S), DeadlineExceededError)
    assert not rig.source.stop(0)
    go_on.set()
    assert isinstance(errors.get(timeout=LIMIT_S), CancelledError)
    for caller in callers:
        caller.join(LIMIT_S)


def test_start_needs_a_callback() -> None:
    with pytest.raises(RuntimeError, match="set_aspired_versions_callback"):
        FileSystemSource().start()


def test_a_name_may_come_once_only(tmp_path: Path, rig: Rig) -> None:
    with pytest.raises(ValueError, match="model m is listed twice"):
        rig.source.update([model(tmp_path), model(tmp_path / "other")])


def test_the_repr_tells_how_many_models_cannot_be_read(tmp_path: Path, once: Rig) -> None:
    publish(tmp_path / "a", "1")
    once.source.update([model(tmp_path / "a", name="a"), model(tmp_path / "b", name="b")])
    once.source.start()
    once.source.refresh(LIMIT_S)
    assert repr(once.source) == "<FileSystemSource [2 models, 1 cannot be read]>"


def test_refresh_of_some_models_polls_no_other_and_sends_what_was_removed(tmp_path: Path, rig: Rig) -> None:
    for name in ("a", "b", "c"):
        publish(tmp_path / name, "1")
    models = [model(tmp_path / name, name=name) for name in ("a", "b", "c")]
    rig.source.update(models)
    rig.source.start()
    assert [rig.next_list()[0] for _ in models] == ["a", "b", "c"]
    rig.source.refresh(LIMIT_S, ["b"])
    assert rig.next_list() == ("b", [1])
    rig.source.update(models[:2])
    rig.source.refresh(LIMIT_S, ())
    assert rig.next_list() == ("c", [])
    assert rig.lists.empty()
