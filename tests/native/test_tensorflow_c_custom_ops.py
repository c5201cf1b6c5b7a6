"""Operations that are compiled here, against the headers that TensorFlow's package brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inserve.errors import NotFoundError
from inserve.protos import messages
from inserve.tensorflow_c.custom_ops import load_custom_ops, with_custom_ops
from inserve.tensorflow_c.interface import LoadedModel
from inserve.tensorflow_c.library import find_library
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

C_SOURCE = """
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_tensor.h"

static void compute(void*, TF_OpKernelContext* context) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* x = nullptr;
  TF_GetInput(context, 0, &x, status);
  int64_t size = TF_TensorElementCount(x);
  TF_Tensor* y = TF_AllocateOutput(context, 0, TF_FLOAT, &size, 1, TF_TensorByteSize(x), status);
  for (int64_t i = 0; i < size; ++i)
    static_cast<float*>(TF_TensorData(y))[i] = static_cast<float*>(TF_TensorData(x))[i] + ADDED_NUMBER;
  TF_DeleteTensor(y);
  TF_DeleteTensor(x);
  TF_DeleteStatus(status);
}

static void infer_shape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

__attribute__((constructor)) static void register_operation() {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* operation = TF_NewOpDefinitionBuilder(OP_NAME);
  TF_OpDefinitionBuilderAddInput(operation, "x: float");
  TF_OpDefinitionBuilderAddOutput(operation, "y: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(operation, infer_shape);
  TF_RegisterOpDefinition(operation, status);
  TF_RegisterKernelBuilder(OP_NAME, TF_NewKernelBuilder(OP_NAME, "CPU", nullptr, compute, nullptr), status);
  TF_DeleteStatus(status);
}
"""
"""An operation that adds a number to a vector, made with TensorFlow's C API: compiled in half a second."""

CPP_SOURCE = """
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

REGISTER_OP(OP_NAME)
    .Input("x: float")
    .Output("y: float")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(0));
      return absl::OkStatus();
    });

class AddNumber : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& x = context->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    for (int64_t i = 0; i < x.NumElements(); ++i) y->flat<float>()(i) = x.flat<float>()(i) + ADDED_NUMBER;
  }
};
REGISTER_KERNEL_BUILDER(Name(OP_NAME).Device(tensorflow::DEVICE_CPU), AddNumber);
"""
"""The same in C++, as packages with operations are built."""


def compile_library(source: str, library: Path, name: str, number: int) -> Path:
    """Compile *source* with the operation *name*, which adds *number*, into the file *library*."""
    tensorflow = find_library().cc.parent
    compiler = shutil.which("c++")
    if compiler is None or not (tensorflow / "include" / "tensorflow" / "c" / "ops.h").is_file():
        pytest.skip("needs a C++ compiler and TensorFlow's headers")
    linked = [str(path) for path in find_library()]
    if sys.platform != "darwin":
        # An empty library of the same name is linked in no time; when loaded, the name counts.
        stub = library.with_name(find_library().cc.name)
        _compile(compiler, "-x", "c", os.devnull, f"-Wl,-soname,{stub.name}", "-o", str(stub))
        linked = [str(find_library().framework), "-Wl,--no-as-needed", str(stub)]
    file = library.with_suffix(".cc")
    file.write_text(source)
    flags = (
        f"-I{tensorflow / 'include'}",
        f'-DOP_NAME="{name}"',
        f"-DADDED_NUMBER={number}",
        "-std=c++17",
        "-w",
    )
    _compile(compiler, str(file), "-o", str(library), *flags, *linked)
    return library


def _compile(compiler: str, *arguments: str) -> None:
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def write_model(folder: Path, op: str) -> str:
    """Write a SavedModel with ``y = op(x)``."""
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    meta_graph = saved_model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    placeholder = meta_graph.graph_def.node.add(name="x", op="Placeholder")
    placeholder.attr["dtype"].type = DataType.DT_FLOAT
    meta_graph.graph_def.node.add(name="y", op=op, input=["x"])
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return str(folder)


def answer(model: LoadedModel) -> list[float]:
    """Return ``y`` for ``x = [1, 2]`` and close the model."""
    runner = model.session.runner([("x:0", DataType.DT_FLOAT)], ["y:0"])
    try:
        values: list[float] = runner.run([np.array([1, 2], np.float32)])[0].tolist()
        return values
    finally:
        model.close()


def test_a_missing_library_is_not_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "libops.so"
    with pytest.raises(NotFoundError, match=f"cannot load the operations in {path}: .*No such file"):
        load_custom_ops(path)


def test_a_file_that_is_no_library_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "libops.so"
    path.write_bytes(b"not a library")
    with pytest.raises(NotFoundError, match=f"cannot load the operations in {path}: "):
        load_custom_ops(path)


def test_a_library_is_loaded_once_by_its_real_path(tmp_path: Path) -> None:
    library = find_library().framework
    link = tmp_path / "libops.so"
    link.symlink_to(library)
    load_custom_ops(library)
    load_custom_ops(str(link))


def test_a_model_with_an_unknown_operation_is_not_found_and_the_text_names_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", "InserveNobodyHasIt")
    with pytest.raises(NotFoundError) as raised:
        with_custom_ops(load_saved_model)(path)
    assert raised.value.message.startswith(
        "the model uses the operation InserveNobodyHasIt, which TensorFlow does not have. Name the library"
    )
    assert "Op type not registered 'InserveNobodyHasIt' in binary running on" in raised.value.message


def test_an_operation_in_a_library_given_by_path_runs(tmp_path: Path) -> None:
    library = compile_library(C_SOURCE, tmp_path / "libadd.so", "InserveByPath", 10)
    load = with_custom_ops(load_saved_model, [str(library)])
    path = write_model(tmp_path / "model", "InserveByPath")
    assert answer(load(path)) == [11.0, 12.0]
    assert answer(load(path)) == [11.0, 12.0]


def test_an_operation_in_a_package_given_by_name_runs_and_the_package_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inserve_test_ops" / "python" / "ops"
    folder.mkdir(parents=True)
    (tmp_path / "inserve_test_ops" / "__init__.py").write_text("raise AssertionError('imported')")
    compile_library(C_SOURCE, folder / "_add.so", "InserveByPackage", 20)
    monkeypatch.syspath_prepend(str(tmp_path))
    load = with_custom_ops(load_saved_model, ["inserve_test_ops"])
    assert answer(load(write_model(tmp_path / "model", "InserveByPackage"))) == [21.0, 22.0]
    assert "inserve_test_ops" not in sys.modules


def test_an_operation_of_an_installed_package_that_is_known_for_it_runs_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tensorflow_decision_forests"
    package.mkdir()
    (package / "__init__.py").touch()
    compile_library(C_SOURCE, package / "inference.so", "SimpleMLInserveTest", 30)
    monkeypatch.syspath_prepend(str(tmp_path))
    load = with_custom_ops(load_saved_model)
    assert answer(load(write_model(tmp_path / "model", "SimpleMLInserveTest"))) == [31.0, 32.0]
    with pytest.raises(
        NotFoundError,
        match="tensorflow-decision-forests is installed and was loaded, but has no such operation",
    ):
        load(write_model(tmp_path / "other", "SimpleMLInserveOther"))


@pytest.mark.nightly
def test_an_operation_in_cpp_runs(tmp_path: Path) -> None:
    library = compile_library(CPP_SOURCE, tmp_path / "libcpp.so", "InserveCpp", 40)
    load = with_custom_ops(load_saved_model, [str(library)])
    assert answer(load(write_model(tmp_path / "model", "InserveCpp"))) == [41.0, 42.0]
