from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inserve.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from inserve.protos import messages
from inserve.tensorflow_c.device_placement import place_on, write_placed
from inserve.tensorflow_c.devices import list_devices
from inserve.tensorflow_c.interface import Executor, LoadedModel
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

TWO_CPUS = messages.ConfigProto(device_count={"CPU": 2}).SerializeToString()
SERVE = ("serve",)
PLUMBING = {"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "Const", "NoOp"}
"""What feeds and fetches need on the CPU that callers see, and what a model itself put there."""

TRACE = """
import json, os, sys
from pathlib import Path
import tensorflow as tf
from inserve.protos import messages
from inserve.tensorflow_c.device_placement import place_on

v1 = tf.compat.v1
folder = Path(sys.argv[1])
(folder / "words").write_text("a\\nb\\n")

class Everything(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.eye(4))
        source = tf.lookup.TextFileInitializer(
            str(folder / "words"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
        self.table = tf.lookup.StaticHashTable(source, -1)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([None], tf.string, "s")])
    def serve(self, x, s):
        _, x = tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, tf.matmul(x, self.w)), (0, x))
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.tanh(x), lambda: x - 1.0)
        return {"y": self.inner(x), "number": self.table.lookup(s)}

    @tf.function
    def inner(self, x):
        with tf.device("/GPU:3"):
            return tf.nn.relu(x) + tf.reduce_mean(self.w)

module = Everything()
tf.saved_model.save(module, str(folder / "everything"), signatures=module.serve)

def trace(path, tags=("serve",), config=b""):
    with v1.Graph().as_default(), v1.Session(config=v1.ConfigProto.FromString(config)) as session:
        signature = v1.saved_model.load(session, list(tags), path).signature_def["serving_default"]
        metadata = v1.RunMetadata()
        outputs = session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {signature.inputs["x"].name: [[1.0, 2.0, 3.0, 4.0]], signature.inputs["s"].name: ["b"]},
            options=v1.RunOptions(trace_level=3, output_partition_graphs=True),
            run_metadata=metadata,
        )
    ops = {}
    for graph in metadata.partition_graphs:
        for node in graph.node:
            ops.setdefault(node.device.rpartition("device:")[2], set()).add(node.op)
    return {
        "y": outputs["y"].tolist(),
        "number": outputs["number"].tolist(),
        "ops": {device: sorted(names) for device, names in ops.items()},
    }

config = messages.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=True).SerializeToString()
everything = str(folder / "everything")
print(json.dumps({
    "as it is": trace(everything, ("serve",), config),
    "placed": place_on(trace, "CPU:1")(everything, ("serve",), config),
}))
"""

Traces = dict[str, Any]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """What ran where in TensorFlow itself, of the model ``everything``, as it is and on CPU:1."""
    folder = tmp_path_factory.mktemp("traced")
    source = str(Path(__file__).parent.parent.parent / "src")
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(folder)],
        env={**os.environ, "PYTHONPATH": source, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    traces: Traces = json.loads(done.stdout.splitlines()[-1])
    return traces


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def nodes_of(serialized: bytes) -> dict[str, str]:
    """Return the device of each node, those in functions too, by name."""
    devices = {}
    for meta_graph in messages.SavedModel.FromString(serialized).meta_graphs:
        graph = meta_graph.graph_def
        devices.update({node.name: node.device for node in graph.node})
        for function in graph.library.function:
            devices.update({f"in function/{node.name}": node.device for node in function.node_def})
    return devices


def saved_model(*nodes: messages.NodeDef, functions: tuple[messages.FunctionDef, ...] = ()) -> bytes:
    graph = messages.GraphDef(node=nodes)
    graph.library.function.extend(functions)
    meta_graphs = [messages.MetaGraphDef(graph_def=graph)]
    return messages.SavedModel(meta_graphs=meta_graphs).SerializeToString()


def placed(path: Path, device: bytes = b"/device:GPU:1") -> bytes:
    target = BytesIO()
    write_placed(str(path), target, device)
    return target.getvalue()


def half_plus_two(model: LoadedModel, executor: Executor = Executor.POOL) -> list[float]:
    with_function = model.session.runner(
        [("serving_default_x:0", DataType.DT_FLOAT)], ["StatefulPartitionedCall:0"]
    )
    values: list[float] = with_function.run([np.array([1, 2], np.float32)], None, executor)[0].tolist()
    return values


# --- what runs where ------------------------------------------------------------------------------


def test_without_placement_everything_runs_on_the_first_device(
    traced: Traces,
) -> None:
    assert list(traced["as it is"]["ops"]) == ["CPU:0"]


def test_loops_branches_functions_variables_and_tables_run_on_the_device(
    traced: Traces,
) -> None:
    ops = traced["placed"]["ops"]
    assert set(ops) == {"CPU:0", "CPU:1"}
    assert set(ops["CPU:0"]) <= PLUMBING
    assert {"VarHandleOp", "ReadVariableOp", "HashTableV2", "LookupTableFindV2"} <= set(ops["CPU:1"])
    assert {"Relu", "Mean", "Tanh", "Merge", "Switch", "NextIteration"} <= set(ops["CPU:1"])


def test_a_placed_model_answers_as_it_does_elsewhere(
    traced: Traces,
) -> None:
    assert traced["placed"]["y"] == traced["as it is"]["y"]
    assert traced["placed"]["number"] == [1]


@pytest.mark.parametrize("executor", list(Executor))
def test_a_model_placed_by_the_c_api_answers(half_plus_two_path: str, executor: Executor) -> None:
    model = place_on(load_saved_model, "CPU:1")(half_plus_two_path, SERVE, TWO_CPUS)
    try:
        assert half_plus_two(model, executor) == [2.5, 3.0]
    finally:
        model.close()


def test_the_c_api_places_the_nodes_on_the_device(
    half_plus_two_path: str, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    program = """
import logging, sys
from inserve.protos import messages
from inserve.tensorflow_c.device_placement import place_on
from inserve.tensorflow_c.load_saved_model import load_saved_model
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
config = messages.ConfigProto(device_count={"CPU": 2}, log_device_placement=True).SerializeToString()
place_on(load_saved_model, "cpu:1")(sys.argv[1], ("serve",), config).close()
"""
    lines = run_python(program, half_plus_two_path, TF_CPP_MIN_LOG_LEVEL="0").stdout.splitlines()
    (line,) = {line for line in lines if line.startswith("INFO:inserve.tensorflow:Variable: (VarHandleOp)")}
    assert line.endswith("/device:CPU:1")


# --- the copy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "/device:GPU:1"),
        ("/device:GPU:0", "/device:GPU:1"),
        ("/gpu:3", "/device:GPU:1"),
        ("/job:worker/replica:0/task:1/device:GPU:0", "/device:GPU:1"),
        ("/job:worker/task:1", "/device:GPU:1"),
        ("/device:TPU:0", "/device:GPU:1"),
        ("/device:CPU:0", "/device:CPU:0"),
        ("/cpu:0", "/cpu:0"),
        ("/job:localhost/replica:0/task:0/device:CPU:*", "/job:localhost/replica:0/task:0/device:CPU:*"),
    ],
)
def test_a_node_moves_unless_it_names_a_cpu(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / "saved_model.pb"
    file.write_bytes(saved_model(messages.NodeDef(name="n", op="Add", input=["a"], device=before)))
    assert nodes_of(placed(file)) == {"n": after}


def test_in_functions_only_nodes_that_name_an_accelerator_move(tmp_path: Path) -> None:
    devices = {"plain": "", "gpu": "/device:GPU:0", "cpu": "/device:CPU:0"}
    body = [messages.NodeDef(name=name, device=device) for name, device in devices.items()]
    file = tmp_path / "saved_model.pb"
    file.write_bytes(
        saved_model(
            messages.NodeDef(name="caller", op="f"),
            functions=(
                messages.FunctionDef(node_def=body, ret={"y": "gpu"}),
                messages.FunctionDef(node_def=[messages.NodeDef(name="other")]),
            ),
        )
    )
    assert nodes_of(placed(file)) == {
        "caller": "/device:GPU:1",
        "in function/plain": "",
        "in function/gpu": "/device:GPU:1",
        "in function/cpu": "/device:CPU:0",
        "in function/other": "",
    }


@pytest.mark.parametrize("model", ["half_plus_two", "counter", "lookup", "tf1_examples", "cnn", "types"])
def test_nothing_but_devices_changes(golden_models: Path, model: str) -> None:
    file = golden_models / model / "1" / "saved_model.pb"
    before = messages.SavedModel.FromString(file.read_bytes())
    after = messages.SavedModel.FromString(placed(file))
    assert any(node.device == "/device:GPU:1" for node in after.meta_graphs[0].graph_def.node)
    for proto in (before, after):
        for node in proto.meta_graphs[0].graph_def.node:
            node.ClearField("device")
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_assets_and_variables_are_found_beside_the_copy(golden_models: Path, temporary_folder: Path) -> None:
    path = str(golden_models / "lookup" / "1")
    seen: dict[str, str] = {}

    def load(folder: str, tags: tuple[str, ...] = SERVE, config: bytes = b"") -> LoadedModel:
        seen.update({name: os.path.realpath(os.path.join(folder, name)) for name in os.listdir(folder)})
        return load_saved_model(folder, tags, config)

    place_on(load, "CPU:1")(path, SERVE, TWO_CPUS).close()  # type: ignore[arg-type]
    copy = seen.pop("saved_model.pb")
    assert copy.startswith(str(temporary_folder))
    assert seen == {name: os.path.join(path, name) for name in os.listdir(path) if name != "saved_model.pb"}


def test_the_copy_is_gone_after_the_load_and_the_original_stays(
    half_plus_two_path: str, temporary_folder: Path
) -> None:
    before = sorted(os.listdir(half_plus_two_path))
    model = place_on(load_saved_model, "CPU:1")(half_plus_two_path, SERVE, TWO_CPUS)
    try:
        assert list(temporary_folder.iterdir()) == []
        assert sorted(os.listdir(half_plus_two_path)) == before
        assert half_plus_two(model) == [2.5, 3.0]
    finally:
        model.close()


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_device_that_does_not_exist_is_refused_with_those_that_do(half_plus_two_path: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        place_on(load_saved_model, "GPU:7")(half_plus_two_path, SERVE, TWO_CPUS)
    names = ", ".join(device.short_name for device in list_devices(TWO_CPUS))
    assert raised.value.message == f"there is no device GPU:7: TensorFlow sees {names}"


@pytest.mark.parametrize("name", ["", "GPU:", "GPU:x", "0", "/job:localhost", "GPU:0,GPU:1", "GPU:-1"])
def test_what_is_no_name_of_a_device_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a device"):
        place_on(load_saved_model, name)


def test_an_error_of_tensorflow_names_the_original_folder(
    half_plus_two_path: str, temporary_folder: Path
) -> None:
    with pytest.raises(NotFoundError) as expected:
        load_saved_model(half_plus_two_path, ("other",))
    with pytest.raises(NotFoundError) as raised:
        place_on(load_saved_model, "CPU:1")(half_plus_two_path, ("other",), TWO_CPUS)
    assert raised.value.message == expected.value.message
    assert list(temporary_folder.iterdir()) == []


def test_missing_variables_are_looked_for_in_the_original_folder(
    half_plus_two_path: str, tmp_path: Path, temporary_folder: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        (broken / name).write_bytes((Path(half_plus_two_path) / name).read_bytes())
    with pytest.raises(NotFoundError, match=r"variables\.data") as raised:
        place_on(load_saved_model, "CPU:1")(str(broken), SERVE, TWO_CPUS)
    assert str(broken) in raised.value.message
    assert str(temporary_folder) not in raised.value.message


def test_a_folder_that_is_no_saved_model_fails_as_without_placement(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as expected:
        load_saved_model(str(tmp_path))
    with pytest.raises(NotFoundError) as raised:
        place_on(load_saved_model, "CPU:1")(str(tmp_path), SERVE, TWO_CPUS)
    assert raised.value.message == expected.value.message


def test_a_graph_as_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text('meta_graphs { meta_info_def { tags: "serve" } }')
    with pytest.raises(UnimplementedError, match=r"has no saved_model\.pb, so it cannot be placed on CPU:1"):
        place_on(load_saved_model, "CPU:1")(str(tmp_path), SERVE, TWO_CPUS)


@pytest.mark.parametrize("cut", [1, 10, 1000])
def test_a_damaged_graph_is_refused_with_its_path(half_plus_two_path: str, tmp_path: Path, cut: int) -> None:
    file = tmp_path / "saved_model.pb"
    file.write_bytes((Path(half_plus_two_path) / "saved_model.pb").read_bytes()[:-cut])
    with pytest.raises(InvalidArgumentError, match="is no serialized SavedModel") as raised:
        place_on(load_saved_model, "CPU:1")(str(tmp_path), SERVE, TWO_CPUS)
    assert raised.value.message.startswith(str(file))


def test_an_empty_graph_fails_as_without_placement(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever TensorFlow says
        load_saved_model(str(tmp_path))
    with pytest.raises(type(expected.value)) as raised:
        place_on(load_saved_model, "CPU:1")(str(tmp_path), SERVE, TWO_CPUS)
    assert str(raised.value) == str(expected.value)


def test_a_folder_for_temporary_files_that_is_missing_is_named(
    half_plus_two_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises((NotFoundError, FailedPreconditionError), match="gone"):
        place_on(load_saved_model, "CPU:1")(half_plus_two_path, SERVE, TWO_CPUS)
