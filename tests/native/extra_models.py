"""Writes the SavedModels that the tests of the C binding need beside the golden ones.

usage: python extra_models.py FOLDER

Run in a process of its own, because it imports TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

v1 = tf.compat.v1

TYPES = (
    tf.bfloat16, tf.half, tf.float32, tf.float64, tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32,
    tf.uint32, tf.int64, tf.uint64, tf.bool, tf.complex64, tf.complex128, tf.string, tf.qint8, tf.quint8,
    tf.qint16, tf.quint16, tf.qint32, tf.dtypes.experimental.float8_e4m3fn,
    tf.dtypes.experimental.float8_e5m2, tf.dtypes.experimental.int4, tf.dtypes.experimental.uint4,
)  # fmt: skip


def identities() -> None:
    for dtype in TYPES:
        placeholder = v1.placeholder(dtype, None, f"in_{dtype.as_datatype_enum}")
        tf.identity(placeholder, f"out_{dtype.as_datatype_enum}")


def memory() -> None:
    """Outputs whose memory belongs to somebody else: a constant, a variable, the input."""
    x = v1.placeholder(tf.float32, [None], "x")
    v1.placeholder(tf.float32, [None], "unused")
    tf.identity(x, "same")
    tf.add(x, 1.0, "plus_one")
    tf.fill([1 << 15], 7.0, "filled")
    tf.identity(tf.constant([3.0] * (1 << 15)), "constant")
    variable = v1.get_variable("v", initializer=tf.zeros([1 << 15]), use_resource=True)
    tf.identity(variable.read_value(), "variable")
    kept = v1.get_variable("kept", initializer=tf.zeros([4]), use_resource=True, validate_shape=False)
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=kept.handle, value=x)]):
        tf.constant(1.0, name="assigned")
    tf.identity(kept.read_value(), "kept_value")
    tf.zeros([0, 3], name="empty")
    tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="handle", name="handle")
    tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant([1]), max_num_elements=1, element_dtype=tf.float32, name="variant"
    )
    both = v1.placeholder(tf.string, [None], "s")
    tf.strings.length(both, name="lengths")
    tf.identity(both, "strings")


def queue() -> None:
    x = v1.placeholder(tf.float32, [], "x")
    waiting = tf.queue.FIFOQueue(1, [tf.float32], [[]])
    with tf.control_dependencies([waiting.enqueue(x)]):
        tf.identity(x, "enqueued")
    tf.identity(waiting.dequeue(), "dequeued")


def save(folder: Path, build: Callable[[], None]) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        build()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder / build.__name__))
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()


if __name__ == "__main__":
    for model in (identities, memory, queue):
        save(Path(sys.argv[1]), model)
