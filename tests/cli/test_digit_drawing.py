from __future__ import annotations

import numpy as np
import pytest

from inserve.cli.digit_drawing import HEIGHT, WIDTH, can_encode_blocks, draw_digit, side_by_side


def test_white_paper_is_blank_and_full_ink_is_solid() -> None:
    assert draw_digit(np.zeros((8, 8), np.float32)) == [" " * WIDTH] * HEIGHT
    assert draw_digit(np.ones((8, 8), np.float32)) == ["\u2588" * WIDTH] * HEIGHT


def test_ink_on_top_is_drawn_on_top() -> None:
    image = np.zeros((8, 8), np.float32)
    image[:4] = 1.0
    drawn = draw_digit(image)
    assert drawn[0] == "\u2588" * WIDTH
    assert drawn[-1] == " " * WIDTH


def test_ink_on_the_left_is_drawn_on_the_left() -> None:
    image = np.zeros((8, 8), np.float32)
    image[:, :4] = 1.0
    assert all(line.startswith("\u2588") and line.endswith(" ") for line in draw_digit(image))


def test_a_drawing_without_blocks_is_plain_ascii() -> None:
    image = np.eye(8, dtype=np.float32)
    assert "".join(draw_digit(image, blocks=False)).isascii()


@pytest.mark.parametrize(
    ("encoding", "can"), [("utf-8", True), ("cp437", True), ("latin-1", False), ("no such encoding", False)]
)
def test_blocks_are_for_encodings_that_have_them(encoding: str, can: bool) -> None:
    assert can_encode_blocks(encoding) is can


def test_drawings_stand_next_to_each_other_without_trailing_blanks() -> None:
    assert side_by_side([["ab", "c "], ["x ", "yz"]], gap=1) == ["ab x", "c  yz"]
