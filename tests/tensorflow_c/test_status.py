from __future__ import annotations

import pytest

from inserve.tensorflow_c.status import decode_message


@pytest.mark.parametrize(
    ("message", "text"),
    [(b"", ""), ("b\u00fas".encode(), "b\u00fas"), (b"b\xfas", "b\u00fas"), (b"\xc3\xff", "\u00c3\u00ff")],
)
def test_a_message_is_utf_8_or_else_one_character_per_byte(message: bytes, text: str) -> None:
    assert decode_message(message) == text
