"""Whatever is wrong with what a server is given, it serves on, says so once, and recovers by itself.

Each test breaks one thing beside the version 1 that is served, and looks at the answers, at the status,
at the log (one line with the model, the version and the cause), and at the recovery once the cause is gone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import inserve
from inserve.lifecycle.servable_state import ManagerState

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Story

HALF_PLUS_TWO = Path(__file__).resolve().parents[1] / "golden" / "models" / "half_plus_two" / "1"
SHARD = "variables/variables.data-00000-of-00001"
POLL_INTERVAL_S = 0.05
RELOAD_AFTER_S = 0.2

Damage = Callable[[Path], None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base path with a good version 1."""
    shutil.copytree(HALF_PLUS_TWO, tmp_path / "m" / "1")
    return tmp_path / "m"


def serve(models: Any, **options: Any) -> inserve.Server:
    return inserve.Server(
        models, poll_interval=POLL_INTERVAL_S, reload_failed_after=RELOAD_AFTER_S, **options
    )


def answers(server: inserve.Server, **spec: Any) -> list[float]:
    answer: list[float] = server.predict("m", {"x": [1.0]}, **spec)["y"].tolist()
    return answer


def put(base: Path, version: int, damage: Damage) -> None:
    """Rename a copy of the model, damaged, into place."""
    written = base / f"tmp_{version}"
    shutil.copytree(HALF_PLUS_TWO, written)
    damage(written)
    written.rename(base / str(version))


def repair(base: Path, version: int) -> None:
    """Put the good file in the place of each that is damaged, at one moment."""
    for good in HALF_PLUS_TWO.rglob("*"):
        target = base / str(version) / good.relative_to(HALF_PLUS_TWO)
        if good.is_file() and (not target.exists() or target.read_bytes() != good.read_bytes()):
            shutil.copy(good, base / "written")
            (base / "written").replace(target)


def leave(folder: Path) -> None:
    """Damage nothing."""


def truncate(name: str) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def fill(name: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def retag(folder: Path) -> None:
    """Give the meta graph the tag ``other`` in place of ``serve``, of the same length."""
    model = (folder / "saved_model.pb").read_bytes()
    assert model.count(b"\x22\x05serve") == 1
    (folder / "saved_model.pb").write_bytes(model.replace(b"\x22\x05serve", b"\x22\x05other"))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        pytest.param(truncate(SHARD), f"waiting for the rest of {SHARD}", id="truncated variables"),
        pytest.param(remove(SHARD), f"waiting for {SHARD}", id="missing shard"),
        pytest.param(
            remove("variables/variables.index"), "waiting for variables/variables.index", id="missing index"
        ),
        pytest.param(
            fill("saved_model.pb", b"this is not a saved model\n"),
            "waiting for the rest of saved_model.pb",
            id="garbage saved_model.pb",
        ),
        pytest.param(truncate("saved_model.pb"), "waiting for the rest of", id="truncated saved_model.pb"),
    ],
)
def test_a_version_that_is_not_whole_is_waited_for(
    damage: Damage, cause: str, base: Path, story: Story
) -> None:
    with serve({"m": base}) as server:
        put(base, 2, damage)
        story.wait_until(lambda: story.lines_with("Version 2 of servable m: ", cause))
        server.models.refresh(["m"])
        status = server.models.status("m")
        assert cause in status.waiting[2]
        assert status.available_versions == (1,)
        assert answers(server) == [2.5]
        assert len(story.lines) == 1

        repair(base, 2)
        story.wait_until(lambda: story.has(1, ManagerState.END))
        assert answers(server, version=2) == [2.5]
        assert server.models.status("m").waiting == {}
        assert len(story.lines) == 1


@pytest.mark.parametrize(
    ("damage", "check_complete", "code", "cause"),
    [
        pytest.param(
            retag, True, "NOT_FOUND", "Could not find meta graph def matching supplied tags", id="wrong tags"
        ),
        pytest.param(truncate(SHARD), False, "OUT_OF_RANGE", "Read less bytes", id="truncated variables"),
        pytest.param(remove(SHARD), False, "NOT_FOUND", SHARD, id="missing shard"),
        pytest.param(
            fill("saved_model.pb", b"this is not a saved model\n"),
            False,
            "DATA_LOSS",
            "Can't parse",
            id="garbage saved_model.pb",
        ),
    ],
)
def test_a_version_that_tensorflow_cannot_load_fails_alone(
    damage: Damage, check_complete: bool, code: str, cause: str, base: Path, story: Story
) -> None:
    with serve({"m": base}, check_complete=check_complete) as server:
        put(base, 2, damage)
        story.wait_until(lambda: story.has(2, ManagerState.END))
        failed = next(event for event in story.events if event.id.version == 2 and event.error is not None)
        assert failed.error is not None
        assert failed.error.code.name == code
        assert cause in failed.error.message
        (line,) = story.lines_before(failed)
        assert line == f"Servable {{name: m version: 2}} cannot be loaded: {code}: {failed.error.message}"
        newest = server.models.status("m").versions[0]
        assert newest.version == 2
        assert newest.last_failure is not None
        assert cause in newest.last_failure.message
        assert server.models.status("m").available_versions == (1,)
        assert answers(server) == [2.5]

        repair(base, 2)
        story.wait_until(lambda: story.has(1, ManagerState.END))
        assert answers(server, version=2) == [2.5]
        assert server.models.status("m").available_versions == (2,)


def make_unreadable(base: Path) -> Callable[[], None]:
    """Put a version 2 that may not be listed; return what makes it good."""
    put(base, 2, lambda folder: folder.chmod(0))
    if os.access(base / "2", os.R_OK):
        pytest.skip("this user may read any directory")
    return lambda: (base / "2").chmod(0o755)


def make_endless(base: Path) -> Callable[[], None]:
    """Put a version 2 that is a link to itself; return what makes it good."""
    (base / "2").symlink_to(base / "2")

    def heal() -> None:
        (base / "2").unlink()
        put(base, 2, leave)

    return heal


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        pytest.param(make_unreadable, os.strerror(errno.EACCES), id="no permission"),
        pytest.param(make_endless, os.strerror(errno.ELOOP), id="link to itself"),
    ],
)
def test_a_version_that_cannot_be_read_is_waited_for(
    spoil: Callable[[Path], Callable[[], None]], cause: str, base: Path, story: Story
) -> None:
    with serve({"m": base}) as server:
        heal = spoil(base)
        story.wait_until(lambda: story.lines_with("Version 2 of servable m: ", cause))
        server.models.refresh(["m"])
        assert cause in server.models.status("m").waiting[2]
        assert answers(server) == [2.5]
        assert len(story.lines) == 1

        heal()
        story.wait_until(lambda: story.has(1, ManagerState.END))
        assert answers(server, version=2) == [2.5]


def test_a_base_path_that_vanishes_takes_no_version_with_it(base: Path, story: Story) -> None:
    with serve({"m": base}) as server:
        base.rename(base.with_name("away"))
        story.wait_until(lambda: story.lines)
        server.models.refresh(["m"])
        status = server.models.status("m")
        assert (
            status.error
            == f"Could not find base path {base} for servable m with error NOT_FOUND: {base} not found"
        )
        assert status.available_versions == (1,)
        assert answers(server) == [2.5]
        assert len(story.lines_with(status.error)) == len(story.lines) == 1

        put(base.with_name("away"), 2, leave)
        base.with_name("away").rename(base)
        story.wait_until(lambda: story.has(1, ManagerState.END))
        server.models.refresh(["m"])
        assert server.models.status("m").error is None
        assert answers(server, version=2) == [2.5]


def test_a_full_disk_holds_back_only_the_copy_of_a_new_version(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = pytest.importorskip("fsspec.implementations.memory")
    is_full: list[str] = []

    class Store(memory.MemoryFileSystem):  # type: ignore[name-defined,misc]
        protocol = "faultstore"
        store: dict[str, Any] = {}
        pseudo_dirs = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.replace("faultstore://", "memory://")))

        def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
            if is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().get_file(rpath, lpath, **kwargs)

    fsspec.register_implementation("faultstore", Store, clobber=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def upload(version: int) -> None:
        for path in HALF_PLUS_TWO.rglob("*"):
            if path.is_file():
                name = path.relative_to(HALF_PLUS_TWO).as_posix()
                Store().pipe(f"/store/m/{version}/{name}", path.read_bytes())

    upload(1)
    model = inserve.ModelConfig("m", "faultstore://store/m", poll_interval=POLL_INTERVAL_S)
    with serve([model]) as server:
        is_full.append("now")
        upload(2)
        story.wait_until(
            lambda: story.lines_with("Version 2 of servable m: ", "RESOURCE_EXHAUSTED: disk full")
        )
        server.models.refresh(["m"])
        status = server.models.status("m")
        assert "RESOURCE_EXHAUSTED: disk full" in status.waiting[2]
        assert status.available_versions == (1,)
        assert answers(server) == [2.5]
        assert len(story.lines_with("disk full")) == 1

        is_full.clear()
        story.wait_until(lambda: story.has(1, ManagerState.END))
        assert answers(server, version=2) == [2.5]


def config_text(base: Path, *more: str) -> str:
    fields = "\n".join(['name: "m"', f'base_path: "{base}"', 'model_platform: "tensorflow"', *more])
    return f"model_config_list {{ config {{\n{fields}\n}} }}\n"


def replace_file(path: Path, text: str) -> None:
    """Give the file *path* the content *text* at one moment."""
    written = path.with_name("written")
    written.write_text(text)
    written.replace(path)


def test_a_config_file_with_a_syntax_error_changes_nothing(base: Path, story: Story) -> None:
    config = base.with_name("models.config")
    config.write_text(config_text(base))
    with serve(config, config_poll_interval=POLL_INTERVAL_S) as server:
        before = server.models.list()
        replace_file(config, config_text(base, "model_version_policy { all {} "))
        story.wait_until(lambda: story.lines)
        assert server.models.list() == before
        assert server.models.status("m").available_versions == (1,)
        assert answers(server) == [2.5]

        replace_file(config, config_text(base, "model_version_policy { all {} }"))
        put(base, 2, leave)
        story.wait_until(lambda: story.has(2, ManagerState.AVAILABLE))
        assert server.models.list() != before
        assert answers(server, version=1) == answers(server, version=2) == [2.5]
        (line,) = story.lines
        assert str(config) in line
        assert "the models stay as they are" in line


def test_a_label_of_an_absent_version_moves_once_the_version_is_there(base: Path, story: Story) -> None:
    def labelled(version: int) -> str:
        return config_text(
            base, "model_version_policy { all {} }", f'version_labels {{ key: "stable" value: {version} }}'
        )

    config = base.with_name("models.config")
    config.write_text(labelled(1))
    with serve(config, config_poll_interval=POLL_INTERVAL_S) as server:
        replace_file(config, labelled(2))
        story.wait_until(lambda: story.lines)
        assert server.models.status("m").labels == {"stable": 1}
        assert answers(server, label="stable") == [2.5]
        with pytest.raises(
            inserve.FailedPreconditionError, match="version 2 of model m, which is not currently"
        ):
            server.models.set_labels("m", {"stable": 2})

        put(base, 2, leave)
        story.wait_until(lambda: story.has(2, ManagerState.AVAILABLE))
        story.wait_until(lambda: server.models.status("m").labels == {"stable": 2})
        assert answers(server, label="stable") == [2.5]
        assert (
            len(story.lines_with("version 2 of model m", "not currently available")) == len(story.lines) == 1
        )
