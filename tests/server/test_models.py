from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inserve.errors import (
    AlreadyExistsError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnknownError,
)
from inserve.lifecycle.aspired_versions_manager import AspiredVersionsManager, AspiredVersionsManagerOptions
from inserve.lifecycle.event_bus import EventBus
from inserve.lifecycle.loader import Loader
from inserve.lifecycle.loader_harness import RetryPolicy
from inserve.lifecycle.servable_state import ManagerState, ServableState
from inserve.lifecycle.servable_state_monitor import ServableStateMonitor
from inserve.lifecycle.source import ServableData
from inserve.lifecycle.version_labels import VersionLabels
from inserve.server.model_config import ModelConfig
from inserve.server.models import Models
from inserve.sources.file_system_source import FileSystemSource
from inserve.sources.version_selection import All
from inserve.testing import FakeLoader, Gate

LIMIT_S = 30.0


class Bench:
    """``Models`` over a real source, manager and monitor; versions are folders, loaders are fakes.

    A version folder with a file ``broken`` fails to load. *gate*, once set, holds loads.
    """

    def __init__(
        self,
        poll_interval_s: float | None = None,
        check_complete: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        bus: EventBus[ServableState] = EventBus()
        self.gate: Gate | None = None
        self.lists: list[str] = []
        self.monitor = ServableStateMonitor(bus)
        self.manager = AspiredVersionsManager(
            AspiredVersionsManagerOptions(4, 1, RetryPolicy(0) if retry is None else retry), bus=bus
        )
        self.source = FileSystemSource(poll_interval_s=poll_interval_s, check_complete=check_complete)
        self.source.set_aspired_versions_callback(self.aspire)
        self.labels = VersionLabels(self.monitor.is_available, allow_unavailable=True)
        self.models = Models(self.source, self.monitor, self.labels, self.manager)
        self.models.open()
        self.manager.start()
        self.source.start()

    def aspire(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        self.lists.append(name)
        self.manager.set_aspired_versions(
            name, [ServableData(data.id, self.loader(Path(data.payload or ""))) for data in versions]
        )

    def loader(self, path: Path) -> Loader:
        class FolderLoader(FakeLoader):
            def load(self) -> None:
                if (path / "broken").exists():
                    self.load_errors = [DataLossError(f"{path} is broken")]
                super().load()

        return FolderLoader(load_gate=self.gate)

    def states(self, name: str) -> dict[int, ManagerState]:
        return {version.version: version.state for version in self.models.status(name).versions}

    def close(self) -> None:
        if self.gate is not None:
            self.gate.open()
        self.models.close()
        self.source.stop(LIMIT_S)
        self.manager.stop(LIMIT_S)


def publish(base_path: Path, *versions: int, broken: bool = False) -> Path:
    for version in versions:
        folder = base_path / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        if broken:
            (folder / "broken").touch()
    return base_path


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make_one(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make_one
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


# --- add ------------------------------------------------------------------------------------------


def test_a_model_added_has_a_version_that_answers(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1, 2), timeout=LIMIT_S)
    assert bench.models.status("m").available_versions == (2,)
    assert [config.name for config in bench.models.list()] == ["m"]
    assert "m" in bench.models


def test_a_name_is_added_once(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1))
    with pytest.raises(AlreadyExistsError, match="there is a model m already"):
        bench.models.add(ModelConfig("m", tmp_path))


def test_a_config_is_added_without_further_fields(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not both"):
        bench.models.add(ModelConfig("m", tmp_path), tmp_path)


def test_adding_looks_at_no_other_model(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("a", publish(tmp_path / "a", 1))
    bench.lists.clear()
    bench.models.add("b", publish(tmp_path / "b", 1))
    bench.models.set_labels("b", {"stable": 1})
    bench.models.remove("b")
    assert "a" not in bench.lists


def test_a_model_without_a_folder_is_not_found_and_not_kept(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(NotFoundError) as caught:
        bench.models.add("m", path)
    assert str(caught.value) == (
        f"Could not find base path {path} for servable m with error NOT_FOUND: {path} not found"
    )
    assert bench.models.list() == []


def test_without_wait_a_model_without_a_folder_is_kept_and_its_status_says_why(
    bench: Bench, tmp_path: Path
) -> None:
    bench.models.add("m", tmp_path / "none", wait=False)
    bench.models.refresh()
    status = bench.models.status("m")
    assert status.versions == ()
    assert status.error is not None
    assert status.error.startswith(f"Could not find base path {tmp_path / 'none'} for servable m")


def test_a_model_comes_up_by_itself_when_its_folder_appears(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make(poll_interval_s=0.02)
    bench.models.add("m", tmp_path / "m", wait=False)
    bench.models.refresh()
    publish(tmp_path / "new", 1)
    (tmp_path / "new").rename(tmp_path / "m")
    assert bench.monitor.wait_until(
        lambda: bench.models.status("m").available_versions == (1,), LIMIT_S, look_every_s=1.0
    )
    assert bench.models.status("m").error is None


def test_a_model_that_cannot_be_loaded_is_not_kept_and_the_error_names_version_and_cause(
    bench: Bench, tmp_path: Path
) -> None:
    publish(tmp_path, 3, broken=True)
    with pytest.raises(UnknownError) as caught:
        bench.models.add("m", tmp_path)
    assert str(caught.value) == (
        "1 servable(s) did not become available: {{{name: m version: 3} due to error: "
        f"DATA_LOSS: {tmp_path}/3 is broken}}, }}"
    )
    assert bench.models.list() == []


def test_a_good_version_beside_a_broken_one_is_enough(bench: Bench, tmp_path: Path) -> None:
    publish(publish(tmp_path, 1, 3, broken=True), 2)
    bench.models.add("m", tmp_path, version_policy=All())
    assert bench.models.status("m").available_versions == (2,)


def test_a_failure_of_a_former_life_counts_no_more(bench: Bench, tmp_path: Path) -> None:
    publish(tmp_path, 1, broken=True)
    for _ in range(2):
        with pytest.raises(UnknownError):
            bench.models.add("m", tmp_path)
    (tmp_path / "1" / "broken").unlink()
    bench.models.add("m", tmp_path)
    assert bench.models.status("m").available_versions == (1,)


def test_a_model_that_takes_too_long_stays(bench: Bench, tmp_path: Path) -> None:
    bench.gate = Gate()
    with pytest.raises(DeadlineExceededError, match=r"not yet available: model m: version 1 is in state "):
        bench.models.add("m", publish(tmp_path, 1), timeout=0.05)
    bench.gate.open()
    bench.models.wait_until_available(["m"], LIMIT_S)
    assert bench.models.status("m").available_versions == (1,)


def test_many_threads_may_add_and_remove(bench: Bench, tmp_path: Path) -> None:
    def use(number: int) -> None:
        path = publish(tmp_path / str(number), 1)
        for _ in range(3):
            bench.models.add(f"m{number}", path, timeout=LIMIT_S)
            assert bench.models.status(f"m{number}").available_versions == (1,)
            bench.models.remove(f"m{number}", timeout=LIMIT_S)
        bench.models.add(f"m{number}", path, timeout=LIMIT_S)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert [config.name for config in bench.models.list()] == [f"m{number}" for number in range(8)]
    bench.models.wait_until_available(timeout=LIMIT_S)


# --- remove ---------------------------------------------------------------------------------------


def test_a_model_removed_is_no_longer_found_and_its_labels_are_gone(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1), labels={"stable": 1})
    bench.models.remove("m", timeout=LIMIT_S)
    assert bench.manager.lookup_latest("m") is None
    assert bench.labels.of_model("m") == {}
    assert "m" not in bench.models
    assert bench.states("m")[1] in (ManagerState.UNLOADING, ManagerState.END)


def test_a_request_that_runs_does_not_hold_back_the_removal(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1))
    handle = bench.manager.lookup_latest("m")
    assert handle is not None
    with handle:
        bench.models.remove("m", timeout=LIMIT_S)
        assert bench.states("m") == {1: ManagerState.UNLOADING}


def test_what_is_not_there_cannot_be_removed_labelled_or_refreshed(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1))
    acts: list[Callable[[], object]] = [
        lambda: bench.models.remove("x"),
        lambda: bench.models.set_labels("x", {}),
        lambda: bench.models.refresh(["x"]),
        lambda: bench.models.wait_until_available(["x"]),
        lambda: bench.models.status("x"),
    ]
    for act in acts:
        with pytest.raises(NotFoundError, match="no model x; there is m"):
            act()


# --- labels ---------------------------------------------------------------------------------------


def test_a_label_may_name_a_version_that_is_not_there_yet(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1))
    bench.models.set_labels("m", {"canary": 7})
    assert bench.models.status("m").labels == {"canary": 7}
    assert bench.models.list()[0].labels == {"canary": 7}


def test_a_label_that_serves_moves_to_an_available_version_only(bench: Bench, tmp_path: Path) -> None:
    bench.models.add("m", publish(tmp_path, 1), labels={"stable": 1})
    with pytest.raises(FailedPreconditionError, match="assign label to version 9 of model m"):
        bench.models.set_labels("m", {"stable": 9})
    assert bench.models.status("m").labels == {"stable": 1}
    assert bench.models.list()[0].labels == {"stable": 1}


def test_labels_of_one_model_do_not_depend_on_those_of_another(bench: Bench, tmp_path: Path) -> None:
    strict = VersionLabels(bench.monitor.is_available)
    models = Models(bench.source, bench.monitor, strict, bench.manager)
    models.open()
    models.add("a", publish(tmp_path / "a", 1))
    models.set_labels("a", {"stable": 1})
    (tmp_path / "a" / "1").rmdir()
    models.refresh()
    assert bench.monitor.wait_until(lambda: bench.states("a") == {1: ManagerState.END}, LIMIT_S)
    models.add("b", publish(tmp_path / "b", 1))
    models.set_labels("b", {"stable": 1})
    assert strict.of_model("a") == {"stable": 1}


# --- replace_all ----------------------------------------------------------------------------------


def test_replacing_names_what_is_new_and_drops_what_is_left_out(bench: Bench, tmp_path: Path) -> None:
    a, b, c = (ModelConfig(name, publish(tmp_path / name, 1)) for name in "abc")
    assert list(bench.models.replace_all([a, b], wait=True)) == ["a", "b"]
    assert list(bench.models.replace_all([b, c], wait=True)) == ["c"]
    assert bench.models.list() == [b, c]
    assert bench.manager.available_versions("c") == [1]
    assert bench.monitor.wait_until(lambda: bench.states("a") == {1: ManagerState.END}, LIMIT_S)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"platform": "other"}, "Illegal to change a model's platform"),
        ({"labels": {"stable": 9}}, "assign label to version 9 of model m"),
    ],
)
def test_a_refused_config_changes_nothing(
    bench: Bench, tmp_path: Path, changed: dict[str, Any], text: str
) -> None:
    before = ModelConfig("m", publish(tmp_path, 1), labels={"stable": 1})
    bench.models.replace_all([before], wait=True)
    after = ModelConfig("m", tmp_path, **{"labels": {"stable": 1}, **changed})
    with pytest.raises((FailedPreconditionError, InvalidArgumentError), match=text):
        bench.models.replace_all([after, ModelConfig("n", tmp_path)])
    assert bench.models.list() == [before]
    assert bench.labels.of_model("m") == {"stable": 1}


def test_a_name_that_comes_twice_is_refused(bench: Bench, tmp_path: Path) -> None:
    config = ModelConfig("m", tmp_path)
    with pytest.raises(InvalidArgumentError, match="Illegal to list model m multiple times"):
        bench.models.replace_all([config, config])


def test_a_new_model_without_a_folder_is_an_error_at_once_and_stays(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"Could not find base path {tmp_path / 'm'} for servable m"):
        bench.models.replace_all([ModelConfig("m", tmp_path / "m")], wait=True)
    publish(tmp_path / "m", 1)
    bench.models.wait_until_available(timeout=LIMIT_S)
    assert list(bench.models.replace_all([ModelConfig("m", tmp_path / "m")], wait=True)) == []


def test_a_new_model_that_is_not_complete_is_an_error_at_once_and_stays(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make(check_complete=True)
    with pytest.raises(UnknownError) as caught:
        bench.models.replace_all([ModelConfig("m", publish(tmp_path, 4))], wait=True)
    assert str(caught.value) == (
        "1 model(s) did not become available: {{{name: m} due to error: "
        "UNAVAILABLE: version 4: waiting for saved_model.pb}, }"
    )
    assert bench.models.status("m").waiting == {4: "waiting for saved_model.pb"}


def test_every_new_model_that_fails_is_in_the_error_and_the_rest_is_served(
    bench: Bench, tmp_path: Path
) -> None:
    publish(tmp_path / "b", 1, broken=True)
    publish(tmp_path / "c", 1)
    with pytest.raises(UnknownError) as caught:
        bench.models.replace_all([ModelConfig(name, tmp_path / name) for name in "abc"], wait=True)
    missing = tmp_path / "a"
    assert str(caught.value) == (
        "2 model(s) did not become available: {{{name: a} due to error: NOT_FOUND: Could not find base path "
        f"{missing} for servable a with error NOT_FOUND: {missing} not found}}, "
        f"{{{{name: b version: 1}} due to error: DATA_LOSS: {tmp_path}/b/1 is broken}}, }}"
    )
    assert bench.manager.available_versions("c") == [1]
    assert [config.name for config in bench.models.list()] == ["a", "b", "c"]


class RefusingSource(FileSystemSource):
    def update(self, models: Any) -> None:
        raise MemoryError


def test_nothing_changes_when_the_source_refuses(bench: Bench, tmp_path: Path) -> None:
    labels = VersionLabels(bench.monitor.is_available, allow_unavailable=True)
    prepared: list[list[str]] = []
    models = Models(
        RefusingSource(),
        bench.monitor,
        labels,
        bench.manager,
        prepare=lambda configs: prepared.append([config.name for config in configs]),
    )
    models.open()
    with pytest.raises(MemoryError):
        models.replace_all([ModelConfig("m", tmp_path, labels={"stable": 1})])
    assert models.list() == []
    assert prepared == [["m"], []]
    assert labels.of_model("m") == {}


# --- waiting --------------------------------------------------------------------------------------


def test_a_wait_that_is_over_says_what_an_incomplete_version_waits_for(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make(check_complete=True)
    with pytest.raises(DeadlineExceededError) as caught:
        bench.models.add("m", publish(tmp_path, 2), timeout=0.05)
    assert str(caught.value) == (
        "after 0.05 s not yet available: model m: version 2: waiting for saved_model.pb"
    )


def test_a_wait_ends_when_the_model_is_removed(bench: Bench, tmp_path: Path) -> None:
    bench.gate = Gate()
    bench.models.add("m", publish(tmp_path, 1), wait=False)
    bench.models.refresh()
    bench.gate.block_until_entered()
    remover = threading.Timer(0.05, bench.models.remove, ["m"])
    remover.start()
    with pytest.raises(NotFoundError, match="model m was removed"):
        bench.models.wait_until_available(["m"], LIMIT_S)
    remover.join()


def test_a_wait_ends_when_the_models_are_closed(bench: Bench, tmp_path: Path) -> None:
    bench.gate = Gate()
    bench.models.add("m", publish(tmp_path, 1), wait=False)
    closer = threading.Timer(0.05, bench.models.close)
    closer.start()
    with pytest.raises(FailedPreconditionError, match="the server is stopped"):
        bench.models.wait_until_available(["m"], LIMIT_S)
    closer.join()


def test_a_failed_version_is_loaded_anew_when_asked(bench: Bench, tmp_path: Path) -> None:
    publish(tmp_path, 1, broken=True)
    with pytest.raises(UnknownError):
        bench.models.replace_all([ModelConfig("m", tmp_path)], wait=True)
    (tmp_path / "1" / "broken").unlink()
    assert bench.monitor.wait_until(lambda: bench.states("m") == {1: ManagerState.END}, LIMIT_S)
    bench.models.retry("m", 1)
    assert bench.monitor.wait_until(lambda: bench.states("m") == {1: ManagerState.AVAILABLE}, LIMIT_S)
    status = bench.models.status("m").versions[0]
    assert (status.attempts, status.error) == (2, None)
    assert isinstance(status.last_failure, DataLossError)


def test_a_failed_version_is_loaded_anew_by_itself(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(retry=RetryPolicy(0, reload_initial_s=0.05))
    publish(tmp_path, 1, broken=True)
    with pytest.raises(UnknownError):
        bench.models.replace_all([ModelConfig("m", tmp_path)], wait=True)
    (tmp_path / "1" / "broken").unlink()
    assert bench.monitor.wait_until(lambda: bench.states("m") == {1: ManagerState.AVAILABLE}, LIMIT_S)


def test_a_server_that_does_not_run_refuses_changes(bench: Bench, tmp_path: Path) -> None:
    bench.models.close()
    acts: list[Callable[[], object]] = [
        lambda: bench.models.add("m", tmp_path),
        lambda: bench.models.replace_all([]),
        lambda: bench.models.remove("m"),
        lambda: bench.models.set_labels("m", {}),
        lambda: bench.models.refresh(),
        lambda: bench.models.wait_until_available(),
        lambda: bench.models.wait_until_settled(),
    ]
    for act in acts:
        with pytest.raises(FailedPreconditionError, match="the server is stopped"):
            act()


# --- settled --------------------------------------------------------------------------------------


def test_settling_waits_however_long_a_folder_is_missing(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(poll_interval_s=0.02)
    bench.models.replace_all([ModelConfig("m", tmp_path / "m")])
    with pytest.raises(DeadlineExceededError, match="Could not find base path"):
        bench.models.wait_until_settled(0.1)
    publish(tmp_path / "m", 1)
    bench.models.wait_until_settled(LIMIT_S)
    assert bench.models.status("m").available_versions == (1,)


def test_settling_fails_with_a_version_that_fails_before_another_is_available(
    bench: Bench, tmp_path: Path
) -> None:
    bench.gate = Gate()
    bench.models.replace_all([ModelConfig("m", publish(tmp_path, 2), All())])
    bench.models.refresh()
    held, bench.gate = bench.gate, None
    held.block_until_entered()
    publish(tmp_path, 1, broken=True)
    with pytest.raises(UnknownError, match=r"1 servable\(s\) did not become available: .*version: 1"):
        bench.models.wait_until_settled(LIMIT_S)
    held.open()


def test_settling_waits_for_every_version_found(bench: Bench, tmp_path: Path) -> None:
    bench.models.replace_all([ModelConfig("m", publish(tmp_path, 2), All())], wait=True)
    bench.gate = Gate()
    publish(tmp_path, 1)
    with pytest.raises(DeadlineExceededError):
        bench.models.wait_until_settled(0.1)
    bench.gate.open()
    bench.models.wait_until_settled(LIMIT_S)
    assert bench.models.status("m").available_versions == (2, 1)
