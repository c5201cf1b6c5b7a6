from __future__ import annotations

import pytest

from inserve.tensorflow_c.wire import length_delimited, varint


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, b"\0"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (-1, b"\xff" * 9 + b"\x01"),
    ],
)
def test_a_number_is_written_in_groups_of_seven_bits(value: int, encoded: bytes) -> None:
    assert varint(value) == encoded


def test_a_field_is_its_tag_its_length_and_its_bytes() -> None:
    assert length_delimited(b"\x42", b"x" * 200) == b"\x42\xc8\x01" + b"x" * 200
