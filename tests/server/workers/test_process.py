from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inserve.server.workers import process as process_module
from inserve.server.workers.process import LaunchedProcess, launch_worker

LIMIT_S = 60.0

TELL = """
import json, signal, sys
from multiprocessing.connection import Connection
blocked = [number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
Connection(int(sys.argv[1])).send_bytes(json.dumps([sys.path, sorted(blocked)]).encode())
"""


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaunchedProcess]:
    """A process that tells its import path and blocked signals; a module of its name lies elsewhere, too."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "telling_worker.py").write_text(TELL)
    (tmp_path / "telling_worker.py").write_text("raise SystemExit('not this one')")
    monkeypatch.setattr(process_module, "_MODULE", "telling_worker")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *sys.path])
    monkeypatch.chdir(tmp_path)
    process = launch_worker()
    yield process
    process.kill()
    process.wait()
    process.connection.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always adds the working folder")
def test_a_process_imports_from_where_its_parent_does(telling: LaunchedProcess) -> None:
    path, _ = json.loads(telling.connection.recv_bytes())
    assert path[: len(sys.path)] == [folder or os.getcwd() for folder in sys.path]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always adds the working folder")
def test_a_process_starts_with_the_ending_signals_blocked_and_the_parent_has_them_back(
    telling: LaunchedProcess,
) -> None:
    _, blocked = json.loads(telling.connection.recv_bytes())
    assert {"SIGINT", "SIGTERM"} <= set(blocked)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_process_in_reserve_ends_with_its_connection_and_not_by_a_signal() -> None:
    process = launch_worker()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    process.connection.close()
    assert process.wait(LIMIT_S) == 0


def test_a_process_that_cannot_be_started_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/dev/fd")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        launch_worker()
    assert len(os.listdir("/dev/fd")) == len(before)
