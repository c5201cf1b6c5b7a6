from __future__ import annotations

from inserve.protos import messages
from inserve.protos.wire import encode_length_delimited_header
from inserve.tensors.tf_example import serialized_examples

_LIST, _WITH_CONTEXT = 1, 2
_EXAMPLES, _CONTEXT = 1, 2


def field(number: int, value: bytes) -> bytes:
    return encode_length_delimited_header(number, len(value)) + value


def example(**features: float) -> messages.Example:
    message = messages.Example()
    for name, value in features.items():
        message.features.feature[name].float_list.value.append(value)
    return message


def values(serialized: bytes) -> dict[str, list[float]]:
    features = messages.Example.FromString(serialized).features.feature
    return {name: list(feature.float_list.value) for name, feature in features.items()}


def test_each_example_keeps_the_bytes_it_came_in() -> None:
    packed_oddly = b"\x0a\x80\x00"  # an empty message whose length takes two bytes
    serialized = field(_LIST, field(_EXAMPLES, packed_oddly) + field(_EXAMPLES, b"anything"))
    assert serialized_examples(serialized) == [packed_oddly, b"anything"]


def test_an_input_of_no_kind_has_no_rows() -> None:
    assert serialized_examples(b"") == []


def test_a_context_alone_has_no_rows() -> None:
    assert serialized_examples(field(_WITH_CONTEXT, field(_CONTEXT, b"context"))) == []


def test_a_context_stands_before_each_example() -> None:
    rows = field(_EXAMPLES, b"one") + field(_EXAMPLES, b"two") + field(_CONTEXT, b"context ")
    assert serialized_examples(field(_WITH_CONTEXT, rows)) == [b"context one", b"context two"]


def test_a_feature_of_the_example_wins_over_that_of_the_context() -> None:
    message = messages.Input()
    message.example_list_with_context.context.CopyFrom(example(x=1.0, c=2.0))
    message.example_list_with_context.examples.append(example(x=3.0))
    (row,) = serialized_examples(message.SerializeToString())
    assert values(row) == {"x": [3.0], "c": [2.0]}


def test_a_context_without_content_changes_no_example() -> None:
    row = example(x=3.0).SerializeToString()
    serialized = field(_WITH_CONTEXT, field(_EXAMPLES, row) + field(_CONTEXT, b""))
    assert serialized_examples(serialized) == [row]


def test_pieces_of_a_context_are_merged() -> None:
    pieces = [example(a=1.0).SerializeToString(), example(b=2.0).SerializeToString()]
    body = b"".join(field(_CONTEXT, piece) for piece in pieces)
    body += field(_EXAMPLES, example(x=3.0).SerializeToString())
    (row,) = serialized_examples(field(_WITH_CONTEXT, body))
    assert values(row) == {"a": [1.0], "b": [2.0], "x": [3.0]}


def test_of_two_kinds_the_last_counts() -> None:
    first = field(_WITH_CONTEXT, field(_EXAMPLES, b"one"))
    assert serialized_examples(first + field(_LIST, field(_EXAMPLES, b"two"))) == [b"two"]
