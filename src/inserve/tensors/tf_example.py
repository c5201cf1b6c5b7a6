"""``tensorflow.serving.Input``: the serialized ``tf.Example`` of each row.

Examples are handed to the graph as they came. Nothing here looks inside one: what an example must
hold, the graph's own parsing operation says.
"""

from __future__ import annotations

from inserve.protos import messages

__all__ = ["serialized_examples"]


def serialized_examples(serialized_input: bytes) -> list[bytes]:
    """Return one serialized ``tf.Example`` for each row of a serialized ``tensorflow.serving.Input``.

    With a context, each is the bytes of the context followed by those of its example, which to
    protobuf is a merge: a feature in both has the value of the example. Empty where the input has
    no kind, no example, or a context only. Several pieces of one field merge as protobuf merges
    them. Source: TensorFlow Serving, ``servables/tensorflow/util.cc``.

    Raises:
        google.protobuf.message.DecodeError: Not such a message.
    """
    parsed = messages.SerializedInput.FromString(serialized_input)
    kind = parsed.WhichOneof("kind")
    if kind == "example_list":
        return list(parsed.example_list.examples)
    if kind is None:
        return []
    if parsed.ByteSize() != len(serialized_input):
        # Perhaps a context in several pieces, of which only the last has been kept as bytes.
        merged = messages.Input.FromString(serialized_input).SerializeToString()
        parsed = messages.SerializedInput.FromString(merged)
    rows = parsed.example_list_with_context
    context = rows.context
    return [context + example for example in rows.examples] if context else list(rows.examples)
