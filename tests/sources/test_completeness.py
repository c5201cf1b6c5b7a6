"""The models are those of the recorded corpus, written by TensorFlow."""

import shutil
from pathlib import Path

import pytest

from inserve.sources.completeness import content_problem, listing_problem
from inserve.sources.directory_snapshot import take_snapshot

MODELS = Path(__file__).parent.parent / "golden" / "models"
VERSIONS = sorted(MODELS.glob("*/*"))
INDEX = "variables/variables.index"
SHARD = "variables/variables.data-00000-of-00001"


def problem(directory: Path) -> str | None:
    return content_problem(directory, take_snapshot(directory).files)


def copy_of(model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / model / "1", tmp_path / "1"))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.parent.name + path.name)
def test_every_model_that_tensorflow_wrote_is_complete(version: Path) -> None:
    assert problem(version) is None


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.parent.name + path.name)
def test_a_model_file_cut_short_anywhere_is_waited_for(version: Path, tmp_path: Path) -> None:
    whole = (version / "saved_model.pb").read_bytes()
    for length in sorted({1, 2, 7, len(whole) // 2, len(whole) - 1} & set(range(1, len(whole)))):
        (tmp_path / "saved_model.pb").write_bytes(whole[:length])
        found = problem(tmp_path)
        assert found is not None
        assert found.startswith("waiting for the rest of saved_model.pb: ")


def test_a_checkpoint_index_cut_short_anywhere_is_waited_for(tmp_path: Path) -> None:
    version = copy_of("half_plus_two", tmp_path)
    whole = (version / INDEX).read_bytes()
    for length in range(len(whole)):
        (version / INDEX).write_bytes(whole[:length])
        found = problem(version)
        assert found is not None
        assert found.startswith(f"waiting for the rest of {INDEX}: ")


@pytest.mark.parametrize(
    ("model", "removed", "expected"),
    [
        ("half_plus_two", "saved_model.pb", "waiting for saved_model.pb"),
        ("half_plus_two", INDEX, f"waiting for {INDEX}"),
        ("half_plus_two", SHARD, f"waiting for {SHARD}"),
        ("half_plus_two", "variables", f"waiting for {INDEX}: the graph restores variables"),
        ("tf1_examples", "variables", f"waiting for {INDEX}: the graph restores variables"),
        ("lookup", "assets", "waiting for assets/vocab.txt"),
        ("half_plus_two", "fingerprint.pb", None),
    ],
)
def test_a_missing_file_is_named(model: str, removed: str, expected: str | None, tmp_path: Path) -> None:
    version = copy_of(model, tmp_path)
    target = version / removed
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    assert problem(version) == expected


def test_a_shard_shorter_than_the_index_says_is_waited_for(tmp_path: Path) -> None:
    version = copy_of("half_plus_two", tmp_path)
    data = (version / SHARD).read_bytes()
    (version / SHARD).write_bytes(data[:-1])
    assert problem(version) == f"waiting for the rest of {SHARD}: {len(data)} bytes expected"


def test_shard_names_decide_when_the_index_is_compressed(tmp_path: Path) -> None:
    version = copy_of("half_plus_two", tmp_path)
    index = bytearray((version / INDEX).read_bytes())
    index_block_end = len(index) - 48 - 5
    index[index_block_end] = 1
    (version / INDEX).write_bytes(index)
    assert problem(version) is None
    (version / SHARD).rename(version / "variables/variables.data-00001-of-00002")
    assert problem(version) == "waiting for variables/variables.data-00000-of-00002"


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb", "model.tflite", "export.meta"])
def test_a_model_in_another_form_only_has_to_be_there(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert problem(tmp_path) is None
    (tmp_path / name).write_bytes(b"")
    assert problem(tmp_path) == "waiting for saved_model.pb"


def test_a_listing_alone_shows_missing_names() -> None:
    assert listing_problem({"saved_model.pb": 10}) is None
    assert listing_problem({"saved_model.pb": 0}) == "waiting for saved_model.pb"
    assert listing_problem({"saved_model.pb": 10, SHARD: 5}) == f"waiting for {INDEX}"
