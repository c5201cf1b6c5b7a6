import queue
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from inserve.lifecycle.source import ServableData
from inserve.sources.remote_source import RemoteSourceOptions
from inserve.sources.servable_to_monitor import ServableToMonitor
from inserve.sources.storage_path_source import StoragePathSource
from inserve.testing.manual_clock import ManualClock

fsspec = pytest.importorskip("fsspec")

HALF_PLUS_TWO = Path(__file__).parent.parent / "golden" / "models" / "half_plus_two" / "1"
LIMIT_S = 30.0


@pytest.fixture
def url() -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.put(str(HALF_PLUS_TWO), "/storage_path_source/m/7", recursive=True)
    yield "memory://storage_path_source/m"
    store.rm("/storage_path_source", recursive=True)


def test_each_model_goes_to_the_source_that_its_base_path_needs(tmp_path: Path, url: str) -> None:
    shutil.copytree(HALF_PLUS_TWO, tmp_path / "m" / "1")
    sent: queue.Queue[tuple[str, list[str]]] = queue.Queue()

    def take(name: str, versions: Sequence[ServableData[str]]) -> None:
        sent.put((name, [data.payload or "" for data in versions]))

    source = StoragePathSource(
        [ServableToMonitor("local", str(tmp_path / "m")), ServableToMonitor("remote", url)],
        poll_interval_s=None,
        remote=RemoteSourceOptions(cache_dir=str(tmp_path / "cache")),
        clock=ManualClock(),
    )
    source.set_aspired_versions_callback(take)
    source.start()
    source.refresh(LIMIT_S)
    lists = dict(sent.get(timeout=LIMIT_S) for _ in range(2))
    assert lists["local"] == [str(tmp_path / "m" / "1")]
    assert [Path(path).parent.parent for path in lists["remote"]] == [tmp_path / "cache"]
    status = source.status()
    assert {name: model.aspired_versions for name, model in status.items()} == {"local": (1,), "remote": (7,)}
    source.update([])
    removed = {sent.get(timeout=LIMIT_S)[0]} | {sent.get(timeout=LIMIT_S)[0]}
    while len(removed) < 2:
        removed.add(sent.get(timeout=LIMIT_S)[0])
    assert removed == {"local", "remote"}
    assert source.status() == {}
    assert source.stop(LIMIT_S)
