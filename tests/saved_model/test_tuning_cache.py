from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from inserve.saved_model.tuning import Tuning
from inserve.saved_model.tuning_cache import TuningCache, default_cache_dir, machine_text, model_digest
from inserve.saved_model.warmup import warmup_file

TUNING = Tuning("measured", 1)


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    TuningCache(str(tmp_path / "new")).put("a", TUNING)
    assert TuningCache(str(tmp_path / "new")).get("a") == TUNING
    assert TuningCache(str(tmp_path / "new")).get("b") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": "measured"}', "[" * 100_000, "\0\xff"])
def test_a_damaged_entry_is_passed_over_with_a_debug_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    cache = TuningCache(str(tmp_path))
    cache.put("a", TUNING)
    (entry,) = tmp_path.iterdir()
    entry.write_text(text, encoding="latin-1")
    with caplog.at_level(logging.DEBUG, "inserve.saved_model"):
        assert cache.get("a") is None
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = TuningCache(str(tmp_path / "file" / "folder"))
    with caplog.at_level(logging.DEBUG, "inserve.saved_model"):
        cache.put("a", TUNING)
        assert cache.get("a") is None
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_nothing_but_the_entry_is_left_behind(tmp_path: Path) -> None:
    cache = TuningCache(str(tmp_path))
    cache.put("a", TUNING)
    cache.put("a", TUNING)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    cache = TuningCache(str(tmp_path), max_entries=2)
    for age, key in enumerate(("c", "b")):
        cache.put(key, TUNING)
        os.utime(tmp_path / f"{key}.json", (age, age))
    assert cache.get("c") is not None
    cache.put("a", TUNING)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "c.json"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"INSERVE_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"INSERVE_CACHE_DIR": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/inserve"),
        ({"INSERVE_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/inserve"),
    ],
)
def test_the_folder_is_inserves_own_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == expected


def test_copies_of_a_model_have_the_same_digest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"graph")
    assert model_digest(str(tmp_path / "one")) == model_digest(str(tmp_path / "two"))


@pytest.mark.parametrize(
    "changed", ["saved_model.pb", "variables/variables.index", "assets.extra/tf_serving_warmup_requests"]
)
def test_another_graph_other_variables_or_other_records_have_another_digest(
    tmp_path: Path, changed: str
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    before = model_digest(str(tmp_path))
    (tmp_path / changed).parent.mkdir(exist_ok=True)
    (tmp_path / changed).write_bytes(b"something else")
    assert model_digest(str(tmp_path)) != before
    assert warmup_file("") == "assets.extra/tf_serving_warmup_requests"


def test_the_fingerprint_stands_for_the_model(tmp_path: Path) -> None:
    (tmp_path / "fingerprint.pb").write_bytes(b"1")
    before = model_digest(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"not looked at")
    assert model_digest(str(tmp_path)) == before
    (tmp_path / "fingerprint.pb").write_bytes(b"2")
    assert model_digest(str(tmp_path)) != before


def test_the_kernels_in_use_are_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    without = machine_text()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    assert machine_text() != without
