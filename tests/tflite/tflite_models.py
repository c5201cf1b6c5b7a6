"""Writes ``NAME/model.tflite`` for each model of the tests, and ``NAME/answers.npz``: what TensorFlow says.

usage: python tflite_models.py FOLDER

Run in a process of its own, because it imports TensorFlow. The answers are those of the function that was
converted, or of TensorFlow's interpreter: arrays ``in/KEY`` and ``out/KEY`` of ``serving_default``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

FOLDER = Path(sys.argv[1])
lite = tf.lite

spec = tf.TensorSpec


class Dense(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3) / 10)

    @tf.function(input_signature=[spec([None, 4], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def dense(self, x: Any) -> Any:
        return {"y": tf.nn.relu(x @ self.weights - 1.0), "sum": tf.reduce_sum(x, 1)}

    @tf.function(input_signature=[spec([None], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def plus_two(self, x: Any) -> Any:
        return {"y": x + 2.0}


class Image(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.kernel = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32))

    @tf.function(input_signature=[spec([None, 8, 8, 2], tf.float32, "image")])  # type: ignore[untyped-decorator]
    def features(self, image: Any) -> Any:
        maps = tf.nn.max_pool2d(tf.nn.conv2d(image, self.kernel, 1, "SAME"), 2, 2, "SAME")
        return {"features": tf.reshape(maps, [-1, 64])}


class Strings(tf.Module):  # type: ignore[misc]
    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[spec([None], tf.string, "texts"), spec([], tf.int32, "index")]
    )
    def pick(self, texts: Any, index: Any) -> Any:
        return {"all": tf.identity(texts), "picked": tf.gather(texts, [index]), "next": index + 1}

    @tf.function(input_signature=[spec([None], tf.string, "texts")])  # type: ignore[untyped-decorator]
    def lengths(self, texts: Any) -> Any:
        return {"lengths": tf.strings.length(texts)}


class Counter(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.total = tf.Variable(0.0)

    @tf.function(input_signature=[spec([], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def add(self, x: Any) -> Any:
        return {"total": self.total.assign_add(x)}


TYPES = (
    tf.float16, tf.float32, tf.float64, tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64,
    tf.uint64, tf.bool, tf.complex64, tf.complex128, tf.string,
)  # fmt: skip


class Types(tf.Module):  # type: ignore[misc]
    @tf.function(input_signature=[spec([None], t, t.name) for t in TYPES])  # type: ignore[untyped-decorator]
    def reshape(self, *values: Any) -> Any:
        return {t.name: tf.reshape(value, [-1, 1]) for t, value in zip(TYPES, values, strict=True)}


def write(name: str, content: bytes, function: Any = None, inputs: Mapping[str, Any] | None = None) -> None:
    folder = FOLDER / name
    folder.mkdir()
    (folder / "model.tflite").write_bytes(content)
    if function is not None and inputs is not None:
        outputs = function(**{key: tf.constant(value) for key, value in inputs.items()})
        arrays = {f"in/{key}": np.asarray(value) for key, value in inputs.items()}
        arrays |= {f"out/{key}": value.numpy() for key, value in outputs.items()}
        save(folder, arrays)


def save(folder: Path, arrays: Mapping[str, Any]) -> None:
    keywords: Any = dict(arrays)
    np.savez(folder / "answers.npz", **keywords)


def write_quantised(content: bytes) -> None:
    """Write the model with what TensorFlow's interpreter answers: the function knows no bytes."""
    write("quantised", content)
    images = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 2), np.uint8)
    runner = lite.Interpreter(model_content=content).get_signature_runner("serving_default")
    answers = {"in/image": images, "out/features": runner(image=images)["features"]}
    save(FOLDER / "quantised", answers)


def convert(
    module: Any, signatures: Mapping[str, Any], configure: Callable[[Any], None] = lambda _: None
) -> bytes:
    path = str(FOLDER.with_name(FOLDER.name + "_saved_model"))
    tf.saved_model.save(module, path, signatures=signatures)
    converter = lite.TFLiteConverter.from_saved_model(path, signature_keys=list(signatures))
    configure(converter)
    content: bytes = converter.convert()
    return content


def with_select_ops(converter: Any) -> None:
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS, lite.OpsSet.SELECT_TF_OPS]


def with_custom_ops(converter: Any) -> None:
    converter.allow_custom_ops = True


def with_variables(converter: Any) -> None:
    converter.experimental_enable_resource_variables = True


def quantised(converter: Any) -> None:
    random = np.random.default_rng(1)
    images = [[random.normal(size=(1, 8, 8, 2)).astype(np.float32)] for _ in range(16)]
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: images
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8


def without_signatures(rows: int | None) -> bytes:
    function = tf.function(lambda x: x * 2.0).get_concrete_function(spec([rows, 4], tf.float32, "x"))
    content: bytes = lite.TFLiteConverter.from_concrete_functions([function]).convert()
    return content


class RawText(str):
    """A string that is written as *octets*, which need not be UTF-8."""

    octets: bytes

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.octets


def with_metadata(content: bytes, signatures: Mapping[str, bytes]) -> bytes:
    """Return the model with serialized SignatureDefs in its metadata (``signature_def_util``)."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, serialized in signatures.items():
            text = RawText()
            text.octets = serialized
            builder.Key(key)
            builder.String(text)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(bytes(builder.Finish()), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = "signature_defs_metadata"
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    written = flatbuffers.Builder(1024)
    written.Finish(model.Pack(written), file_identifier=b"TFL3")
    return bytes(written.Output())


def signature_def(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Return the SignatureDef with these tensors, all of them float ``[1, 4]``."""
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/regress")
    shape = tf.TensorShape([1, 4]).as_proto()
    for infos, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for alias, name in names.items():
            infos[alias].CopyFrom(meta_graph_pb2.TensorInfo(name=name, dtype=1, tensor_shape=shape))
    serialized: bytes = signature.SerializeToString()
    return serialized


def main() -> None:
    random = np.random.default_rng(2)
    dense, image, strings, counter, types = Dense(), Image(), Strings(), Counter(), Types()
    rows = random.normal(size=(5, 4)).astype(np.float32)
    images = random.normal(size=(3, 8, 8, 2)).astype(np.float32)
    texts = np.array([b"one", b"", b"with\0zero\0", "zwölf".encode()], np.object_)

    write("dense", convert(dense, {"serving_default": dense.dense}), dense.dense, {"x": rows})
    both = {"serving_default": dense.dense, "plus": dense.plus_two}
    write("two_signatures", convert(dense, both), dense.dense, {"x": rows})
    write("named", convert(dense, {"plus": dense.plus_two}))
    write("image", convert(image, {"serving_default": image.features}), image.features, {"image": images})
    write_quantised(convert(image, {"serving_default": image.features}, quantised))
    picked = {"texts": texts, "index": np.int32(2)}
    write("strings", convert(strings, {"serving_default": strings.pick}), strings.pick, picked)
    write("select_ops", convert(strings, {"serving_default": strings.lengths}, with_select_ops))
    write("custom_ops", convert(strings, {"serving_default": strings.lengths}, with_custom_ops))
    write("counter", convert(counter, {"serving_default": counter.add}, with_variables))
    values = {t.name: np.array([1, 0, 1]).astype(t.as_numpy_dtype) for t in TYPES if t != tf.string}
    values["string"] = np.array([b"a", b"", b"c"], np.object_)
    # The names of the parameters are those of the types.
    write("types", convert(types, {"serving_default": types.reshape}))
    save(FOLDER / "types", {f"in/{key}": value for key, value in values.items()})
    plain = without_signatures(1)
    write("no_signatures", plain)
    write("any_rows", without_signatures(None))
    stated = {"serving_default": signature_def({"a": "x:0"}, {"a_very_long_name" * 9: "Identity:0"})}
    write("metadata", with_metadata(plain, stated))
    write("metadata_of_two", with_metadata(plain, {**stated, "again": signature_def({"b": "x"}, {})}))
    write("unknown_tensor", with_metadata(plain, {"k": signature_def({"a": "z:0"}, {"b": "Identity"})}))
    write("no_signature_def", with_metadata(plain, {"serving_default": b"\xff\xff"}))


if __name__ == "__main__":
    main()
