from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import inserve
from inserve.cli.inspect import size_text
from inserve.cli.main import main
from inserve.demo_data.digits import digits_base_path
from inserve.protos import messages
from inserve.saved_model import saved_model_loader
from inserve.saved_model.tuning import Alternative, Setting, SizeTuning, Tuning
from inserve.tensorflow_c.interface import Executor

HALF_PLUS_TWO = Path(__file__).resolve().parents[1] / "golden" / "models" / "half_plus_two"


def inspect(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """Two versions and what is none of them."""
    base_path = tmp_path / "model"
    for version in ("9", "10"):
        shutil.copytree(digits_base_path() / "1", base_path / version)
    (base_path / "11").mkdir()
    (base_path / "notes").mkdir()
    return base_path


def write_saved_model(folder: Path, tags: list[str], signature: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    file = folder / "saved_model.pb"
    if file.exists():
        saved_model.MergeFromString(file.read_bytes())
    meta_graph = saved_model.meta_graphs.add()
    meta_graph.meta_info_def.tags.extend(tags)
    definition = meta_graph.signature_def[signature]
    definition.method_name = "tensorflow/serving/predict"
    definition.inputs["x"].name = "x:0"
    definition.inputs["x"].dtype = 1
    definition.inputs["x"].tensor_shape.unknown_rank = True
    file.write_bytes(saved_model.SerializeToString())


def test_a_version_folder_is_shown_with_its_signatures() -> None:
    result = inspect(digits_base_path() / "1")
    assert result.exit_code == 0
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "Signature serving_default, method tensorflow/serving/predict" in rows
    assert "input images float [?,8,8,1] serving_default_images:0" in rows
    assert "output classes int64 [?] StatefulPartitionedCall:0" in rows
    assert "output probabilities float [?,10] StatefulPartitionedCall:1" in rows
    assert "__saved_model_init_op" not in result.stdout


def test_of_a_base_path_every_version_is_listed_and_the_newest_is_shown(base_path: Path) -> None:
    result = inspect(base_path)
    assert result.exit_code == 0
    assert "Version 10," in result.stdout
    assert "Version 9," not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    listed = [row[0] for row in rows if len(row) == 3 and row[2] == "kB"]
    assert listed == ["9", "10"]


def test_the_size_is_that_of_all_files_of_the_version(tmp_path: Path) -> None:
    write_saved_model(tmp_path / "m" / "1", ["serve"], "f")
    (tmp_path / "m" / "1" / "variables").mkdir()
    (tmp_path / "m" / "1" / "variables" / "variables.index").write_bytes(bytes(5_000_000))
    assert "5.0 MB" in inspect(tmp_path / "m").stdout


def test_tags_choose_one_graph_in_any_order(tmp_path: Path) -> None:
    write_saved_model(tmp_path, ["serve"], "plain")
    write_saved_model(tmp_path, ["serve", "gpu"], "fast")
    everything = inspect(tmp_path).stdout
    assert "Signature plain" in everything
    assert "Signature fast" in everything
    chosen = inspect(tmp_path, "--tags", "gpu,serve").stdout
    assert "Signature plain" not in chosen
    assert "Signature fast" in chosen


def test_tags_that_no_graph_has_are_answered_with_those_there_are(tmp_path: Path) -> None:
    write_saved_model(tmp_path, ["serve"], "plain")
    result = inspect(tmp_path, "--tags", "tpu")
    assert result.exit_code == 1
    assert result.stderr == f"Error: no graph with tags tpu in {tmp_path}; it has: serve\n"


def test_a_path_that_does_not_exist_is_one_line_on_stderr(tmp_path: Path) -> None:
    result = inspect(tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path / 'none'} does not exist\n"


def test_a_folder_without_a_model_is_answered_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert f"expected saved_model.pb or a folder such as {tmp_path / '1'}" in result.stderr
    assert "version folders without saved_model.pb: 7" in result.stderr


@pytest.mark.parametrize("content", [b"\xff\xff\xff\xff", b""])
def test_a_file_that_is_no_saved_model_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert "is not a SavedModel" in result.stderr


def test_names_from_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    write_saved_model(tmp_path, ["serve"], "\x1b[31mred[bold]")
    result = inspect(tmp_path)
    assert "\x1b" not in result.stdout
    assert "Signature ?[31mred[bold]" in result.stdout


def test_inspecting_loads_neither_tensorflow_nor_grpc() -> None:
    program = (
        "import sys\n"
        "from inserve.cli.main import main\n"
        "main(['inspect', sys.argv[1]], standalone_mode=False)\n"
        "print(sorted({'tensorflow', 'grpc', 'pygrpc_native', 'cffi'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(digits_base_path())], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000_000, "2000.0 GB"),
    ],
)
def test_a_size_is_written_in_units_of_a_thousand(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_tuning_is_measured_and_shown_with_the_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INSERVE_CACHE_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["inspect", "--tune", str(HALF_PLUS_TWO)])
    assert result.exit_code == 0, result.output
    assert "Tuning: intra-op threads" in result.output
    assert "serving_default" in result.output.partition("Tuning:")[2]
    assert "calling thread" in result.output
    assert any(tmp_path.rglob("*.json"))


def test_later_starts_use_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSERVE_CACHE_DIR", str(tmp_path))
    assert inspect("--tune", HALF_PLUS_TWO).exit_code == 0
    with inserve.Server({"m": HALF_PLUS_TWO}) as server:
        tuning = server.models.status("m").tuning
    assert tuning is not None
    assert tuning.source == "cached"


def test_the_choice_for_several_at_once_is_marked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = (
        Alternative(Executor.POOL, 2, 14e-3, 11e-3),
        Alternative(Executor.CALLING_THREAD, 2, 15e-3, 12e-3),
        Alternative(Executor.CALLING_THREAD, 1, 16e-3, 8e-3),
    )
    size = SizeTuning("s", 1, 4, Executor.POOL, figures, Setting(Executor.CALLING_THREAD, 1))
    tuning = Tuning("measured", 2, (size,), callers=2, merged_rows=(("s", 16),))
    monkeypatch.setattr(saved_model_loader, "tune", lambda *_, **__: tuning)
    output = inspect("--tune", HALF_PLUS_TWO).output
    assert "Held in memory twice: * is for a lone caller, + for 2 at once" in output
    assert "Requests that arrive together for s are one run of up to 16 rows" in output
    marks = [line.split()[0] for line in output.splitlines() if line.rstrip().endswith(" ms")]
    assert marks == ["*", "calling", "+"]
    tuning = replace(tuning, sizes=(replace(size, is_crowded_alone=True),))
    output = inspect("--tune", HALF_PLUS_TWO).output
    marks = [line.split()[0] for line in output.splitlines() if line.rstrip().endswith(" ms")]
    assert marks == ["pool", "calling", "*+"]
