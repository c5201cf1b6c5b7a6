import base64
import errno
import functools
import hashlib
import http.server
import logging
import os
import queue
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inserve.errors import MissingExtraError
from inserve.lifecycle.source import ServableData
from inserve.sources import remote_source
from inserve.sources.remote_source import RemoteSource, RemoteSourceOptions
from inserve.sources.servable_to_monitor import ServableToMonitor
from inserve.sources.version_selection import All, Latest, VersionPolicy
from inserve.testing.manual_clock import ManualClock

fsspec = pytest.importorskip("fsspec")
memory = pytest.importorskip("fsspec.implementations.memory")

HALF_PLUS_TWO = Path(__file__).parent.parent / "golden" / "models" / "half_plus_two" / "1"
SHARD = "variables/variables.data-00000-of-00001"
LIMIT_S = 30.0
MISSING_BYTES = sum(path.stat().st_size for path in HALF_PLUS_TWO.rglob("*") if path.is_file())


class Bucket(memory.MemoryFileSystem):  # type: ignore[name-defined,misc]
    """A store in memory that tells MD5 sums, as Google Cloud Storage does, and can be made to fail."""

    protocol = "bucket"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    copied: list[str] = []
    before_copy: Callable[[str], None] | None = None
    wrong_sums: set[str] = set()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("bucket://", "memory://")))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return self.with_sum(super().info(path, **kwargs))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        entries = super().ls(path, detail=True, **kwargs)
        return [self.with_sum(entry) for entry in entries] if detail else [entry["name"] for entry in entries]

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        found = super().find(path, *args, **kwargs)
        return {name: self.with_sum(info) for name, info in found.items()} if kwargs.get("detail") else found

    def with_sum(self, info: dict[str, Any]) -> dict[str, Any]:
        if info["type"] == "file":
            content = self.store[info["name"]].getvalue()
            if info["name"] in self.wrong_sums:
                content = b"something else"
            info = {**info, "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode()}
        return info

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        before = type(self).before_copy
        if before is not None:
            before(rpath)
        self.copied.append(rpath)
        super().get_file(rpath, lpath, **kwargs)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    yield Bucket()
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.copied.clear()
    Bucket.wrong_sums.clear()
    Bucket.before_copy = None


def upload(bucket: Bucket, *versions: str, only: str | None = None) -> None:
    for version in versions:
        for path in HALF_PLUS_TWO.rglob("*"):
            name = path.relative_to(HALF_PLUS_TWO).as_posix()
            if path.is_file() and (only is None or name == only):
                bucket.pipe(f"/store/m/{version}/{name}", path.read_bytes())


class Rig:
    def __init__(self, cache: Path, **options: Any) -> None:
        self.clock = ManualClock()
        self.cache = cache
        self.lists: queue.Queue[tuple[str, dict[int, Path]]] = queue.Queue()
        options.setdefault("poll_jitter", 0.0)
        self.source = RemoteSource(
            options=RemoteSourceOptions(cache_dir=str(cache), **options), clock=self.clock
        )
        self.source.set_aspired_versions_callback(self.take)

    def take(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        self.lists.put((name, {data.id.version: Path(data.payload or "") for data in versions}))

    def monitor(self, policy: VersionPolicy | None = None, url: str = "bucket://store/m") -> None:
        self.source.update([ServableToMonitor("m", url, policy if policy is not None else Latest())])

    def next_versions(self) -> dict[int, Path]:
        return self.lists.get(timeout=LIMIT_S)[1]

    def poll(self) -> dict[int, Path]:
        self.source.refresh(LIMIT_S)
        return self.lists.get_nowait()[1]

    def waiting(self) -> dict[int, str]:
        return dict(self.source.status()["m"].waiting)

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*/*") if path.is_dir())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "cache")
    yield rig
    assert rig.source.stop(LIMIT_S)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_the_wanted_version_is_copied_and_its_local_path_sent(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1", "2")
    rig.monitor()
    rig.source.start()
    versions = rig.next_versions()
    assert list(versions) == [2]
    assert contents(versions[2]) == contents(HALF_PLUS_TWO)
    assert rig.cached() == ["2"]


def test_a_whole_copy_is_used_again_without_copying(bucket: Bucket, rig: Rig, tmp_path: Path) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    rig.next_versions()
    copied = len(bucket.copied)
    second = Rig(tmp_path / "cache")
    second.monitor()
    second.source.start()
    assert list(second.next_versions()) == [1]
    assert len(bucket.copied) == copied
    assert second.source.stop(LIMIT_S)


def test_a_damaged_copy_is_repaired_file_by_file(bucket: Bucket, tmp_path: Path) -> None:
    upload(bucket, "1")
    for _ in range(2):
        rig = Rig(tmp_path / "cache")
        rig.monitor()
        rig.source.start()
        path = rig.next_versions()[1]
        assert contents(path) == contents(HALF_PLUS_TWO)
        assert rig.source.stop(LIMIT_S)
        whole = (path / SHARD).read_bytes()
        (path / SHARD).write_bytes(whole[:-1] + b"?")
        os.utime(path / SHARD, (1, 1))
    assert bucket.copied.count(f"/store/m/1/{SHARD}") == 2
    assert bucket.copied.count("/store/m/1/saved_model.pb") == 1


def test_an_interrupted_copy_is_gone_on_with(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")

    def fail(path: str) -> None:
        if path.endswith("saved_model.pb"):
            raise ConnectionResetError("gone")

    Bucket.before_copy = staticmethod(fail)
    rig.monitor()
    rig.source.start()
    assert rig.next_versions() == {}
    assert rig.waiting()[1].startswith(
        "waiting for its copy: UNAVAILABLE: could not copy from bucket://store/m"
    )
    before = list(bucket.copied)
    assert before
    Bucket.before_copy = None
    assert list(rig.poll()) == [1]
    assert not set(before) & set(bucket.copied[len(before) :])


def test_a_copy_with_another_checksum_is_refused_and_the_served_version_stays(
    bucket: Bucket, rig: Rig
) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]
    upload(bucket, "2")
    bucket.wrong_sums.add(f"/store/m/2/{SHARD}")
    assert list(rig.poll()) == [1]
    assert rig.waiting()[2].startswith(f"waiting for a whole copy: the copy of 2/{SHARD} has md5 ")
    bucket.wrong_sums.clear()
    assert list(rig.poll()) == [2]
    assert rig.waiting() == {}


def test_a_full_disk_is_said_beforehand_and_the_served_version_stays(
    bucket: Bucket, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]
    upload(bucket, "2")
    usage = namedtuple("usage", ["total", "used", "free"])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
        assert list(rig.poll()) == [1]
        reason = f"disk full: version 2 needs {MISSING_BYTES} bytes more in {rig.cache}"
        assert rig.waiting()[2].startswith(f"waiting for its copy: RESOURCE_EXHAUSTED: {reason}")
        assert rig.waiting()[2].endswith("10 are free")
    assert list(rig.poll()) == [2]


def test_a_disk_that_fills_up_meanwhile_is_resource_exhausted(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")

    def fill(path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Bucket.before_copy = staticmethod(fill)
    rig.monitor()
    rig.source.start()
    assert rig.next_versions() == {}
    assert rig.waiting()[1].startswith("waiting for its copy: RESOURCE_EXHAUSTED: disk full: ")


def test_after_a_failed_copy_no_older_version_is_copied_in_that_poll(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1", "2", "3")

    def fail(path: str) -> None:
        raise ConnectionResetError("gone")

    Bucket.before_copy = staticmethod(fail)
    rig.monitor(Latest(1))
    rig.source.start()
    assert rig.next_versions() == {}
    assert rig.waiting()[1] == "waiting for the copy of another version, which failed"
    assert rig.cached() == ["3.partial"]


def test_a_half_uploaded_version_is_not_copied_yet(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    upload(bucket, "2", only=SHARD)
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]
    assert rig.waiting() == {2: "waiting for saved_model.pb"}
    upload(bucket, "2", only="saved_model.pb")
    upload(bucket, "2", only="variables/variables.index")
    assert list(rig.poll()) == [2]


def test_a_version_whose_graph_lacks_its_variables_waits_and_is_completed(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "2", only="saved_model.pb")
    rig.monitor()
    rig.source.start()
    assert rig.next_versions() == {}
    assert rig.waiting() == {2: "waiting for variables/variables.index: the graph restores variables"}
    upload(bucket, "2", only=SHARD)
    upload(bucket, "2", only="variables/variables.index")
    assert list(rig.poll()) == [2]
    assert bucket.copied.count("/store/m/2/saved_model.pb") == 1


def test_a_version_that_changes_while_it_is_copied_is_not_taken(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")

    def change(path: str) -> None:
        bucket.pipe("/store/m/1/assets.extra/more", b"x")
        Bucket.before_copy = None

    Bucket.before_copy = staticmethod(change)
    rig.monitor()
    rig.source.start()
    assert rig.next_versions() == {}
    assert rig.waiting() == {1: "waiting for its copy: UNAVAILABLE: version 1 changed while it was copied"}
    assert list(rig.poll()) == [1]


def test_a_store_that_fails_keeps_the_aspired_versions_and_is_logged_once(
    bucket: Bucket, rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("denied for https://user:secret@host/x?sig=secret")

    monkeypatch.setattr(Bucket, "ls", refuse)
    for _ in range(2):
        rig.source.refresh(LIMIT_S)
    assert rig.lists.empty()
    status = rig.source.status()["m"]
    assert status.aspired_versions == (1,)
    assert status.error == (
        "Could not find base path bucket://store/m for servable m with error PERMISSION_DENIED: "
        "could not list bucket://store/m: denied for https://host/x?…"
    )
    assert len(caplog.messages) == 1
    assert "secret" not in caplog.text


def test_a_missing_base_path_is_an_error_and_not_an_empty_list(bucket: Bucket, rig: Rig) -> None:
    rig.monitor()
    rig.source.start()
    rig.source.refresh(LIMIT_S)
    assert rig.lists.empty()
    assert rig.source.status()["m"].error == (
        "Could not find base path bucket://store/m for servable m "
        "with error NOT_FOUND: bucket://store/m not found"
    )


def test_versions_no_longer_aspired_to_are_evicted_but_for_the_spare_ones(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    rig.next_versions()
    for version in ("2", "3", "4"):
        upload(bucket, version)
        assert list(rig.poll()) == [int(version)]
    assert len(rig.cached()) == 2
    assert "4" in rig.cached()


def test_a_version_that_another_process_serves_is_not_evicted(bucket: Bucket, tmp_path: Path) -> None:
    upload(bucket, "1")
    cache = tmp_path / "cache"
    other, rig = Rig(cache, spare_versions=0), Rig(cache, spare_versions=0)
    for one in (other, rig):
        one.monitor()
        one.source.start()
        assert list(one.next_versions()) == [1]
    upload(bucket, "2")
    assert list(rig.poll()) == [2]
    assert rig.cached() == ["1", "2"]
    assert list(other.poll()) == [2]
    assert rig.cached() == ["2"]
    assert other.source.stop(LIMIT_S)
    assert rig.source.stop(LIMIT_S)


def test_a_removed_model_gets_an_empty_list_and_may_come_back(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]
    rig.source.update([])
    assert rig.next_versions() == {}
    assert rig.source.status() == {}
    rig.monitor()
    assert list(rig.next_versions()) == [1]


def test_a_removal_ends_the_copy_in_progress(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    copying, removed = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        copying.set()
        assert removed.wait(LIMIT_S)

    Bucket.before_copy = staticmethod(hold)
    rig.monitor()
    rig.source.start()
    assert copying.wait(LIMIT_S)
    assert rig.waiting() == {1: "waiting for its copy from bucket://store/m"}
    rig.source.update([])
    removed.set()
    assert rig.next_versions() == {}
    assert len(bucket.copied) == 1


def test_a_slow_store_does_not_hold_back_another_model(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    for path in HALF_PLUS_TWO.rglob("*"):
        if path.is_file():
            name = path.relative_to(HALF_PLUS_TWO).as_posix()
            bucket.pipe(f"/store/other/1/{name}", path.read_bytes())
    go_on = threading.Event()

    def hold(path: str) -> None:
        assert not path.startswith("/store/m/") or go_on.wait(LIMIT_S)

    Bucket.before_copy = staticmethod(hold)
    names = ("m", "other")
    rig.source.update([ServableToMonitor(name, f"bucket://store/{name}") for name in names])
    rig.source.start()
    assert rig.lists.get(timeout=LIMIT_S)[0] == "other"
    go_on.set()
    assert rig.lists.get(timeout=LIMIT_S)[0] == "m"


def test_polls_come_at_the_interval_with_jitter(bucket: Bucket, tmp_path: Path) -> None:
    upload(bucket, "1")
    rig = Rig(tmp_path / "cache")
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    rig.source = RemoteSource(
        options=RemoteSourceOptions(cache_dir=str(tmp_path), poll_interval_s=100.0, poll_jitter=0.2),
        clock=rig.clock,
        uniform=uniform,
    )
    rig.source.set_aspired_versions_callback(rig.take)
    rig.monitor()
    rig.source.start()
    rig.next_versions()
    rig.clock.block_until_waiting()
    rig.clock.advance(119.0)
    assert rig.lists.empty()
    rig.clock.block_until_waiting()
    rig.clock.advance(1.0)
    assert list(rig.next_versions()) == [1]
    assert set(bounds) == {(-0.2, 0.2)}
    assert rig.source.stop(LIMIT_S)


def test_all_versions_are_copied_under_all(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1", "2")
    rig.monitor(All())
    rig.source.start()
    assert sorted(rig.next_versions()) == [1, 2]
    assert rig.cached() == ["1", "2"]


def test_a_store_that_nothing_serves_is_named(rig: Rig) -> None:
    rig.monitor(url="nosuch://user:secret@host/m?key=secret")
    rig.source.start()
    rig.source.refresh(LIMIT_S)
    status = rig.source.status()["m"]
    assert status.base_path == "nosuch://host/m?…"
    assert status.error is not None
    assert "INVALID_ARGUMENT: File system scheme 'nosuch' not implemented" in status.error
    assert "secret" not in status.error + repr(rig.source)


def test_without_fsspec_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inserve\[remote\]'"):
        RemoteSource([ServableToMonitor("m", "gs://bucket/m")])


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert remote_source.default_cache_dir() == "/x/cache/inserve/models"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", "/Users/x")
    assert remote_source.default_cache_dir() == "/Users/x/Library/Caches/inserve/models"


@pytest.mark.parametrize(
    "options", [{"poll_interval_s": 0.0}, {"poll_jitter": 1.0}, {"poll_jitter": -0.1}, {"spare_versions": -1}]
)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a"):
        RemoteSourceOptions(**options)


def test_storage_options_are_not_shown() -> None:
    assert "secret" not in repr(RemoteSourceOptions(storage_options={"s3": {"secret": "secret"}}))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        logging.getLogger("test").debug(format, *args)


def test_a_plain_web_server_with_index_pages_is_a_store(tmp_path: Path, rig: Rig) -> None:
    pytest.importorskip("aiohttp")
    shutil.copytree(HALF_PLUS_TWO, tmp_path / "www" / "m" / "1")
    shutil.copytree(HALF_PLUS_TWO, tmp_path / "www" / "m" / "2")
    (tmp_path / "www" / "m" / "2" / "assets").mkdir()
    (tmp_path / "www" / "m" / "2" / "assets" / "a name.txt").write_text("words")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            rig.monitor(url=f"http://127.0.0.1:{server.server_port}/m")
            rig.source.start()
            versions = rig.next_versions()
        finally:
            server.shutdown()
            thread.join()
    assert list(versions) == [2]
    assert contents(versions[2]) == contents(tmp_path / "www" / "m" / "2")


def test_refresh_of_other_models_does_not_wait_for_a_store(bucket: Bucket, rig: Rig) -> None:
    upload(bucket, "1")
    rig.monitor()
    rig.source.start()
    assert list(rig.next_versions()) == [1]
    rig.source.refresh(LIMIT_S, ["other"])
    assert rig.lists.empty()
    rig.source.refresh(LIMIT_S, ["m"])
    assert list(rig.lists.get_nowait()[1]) == [1]
