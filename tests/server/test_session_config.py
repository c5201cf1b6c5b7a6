"""Rules: TensorFlow Serving's flags and what they write over the session config file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.protos import messages
from inserve.server.session_config import SessionSettings, session_config


def read(file: Path | None = None, **settings: Any) -> messages.ConfigProto:
    return messages.ConfigProto.FromString(session_config(file, SessionSettings(**settings)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "session"
    path.write_text(
        "allow_soft_placement: true intra_op_parallelism_threads: 5 inter_op_parallelism_threads: 6\n"
        "gpu_options { allow_growth: true per_process_gpu_memory_fraction: 0.25 }\n"
        "graph_options { optimizer_options { opt_level: L1 } }\n"
    )
    return path


def test_without_file_and_settings_it_is_empty() -> None:
    assert session_config(None, SessionSettings()) == b""


def test_a_file_keeps_what_no_flag_writes(file: Path) -> None:
    config = read(file)
    assert config.allow_soft_placement
    assert config.gpu_options.allow_growth
    assert config.HasField("graph_options")


def test_threads_and_gpu_share_of_a_file_are_overwritten_also_with_defaults(file: Path) -> None:
    config = read(file)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (0, 0)
    assert config.gpu_options.per_process_gpu_memory_fraction == 0


@pytest.mark.parametrize(
    ("both", "intra", "inter", "written"),
    [
        (0, 0, 0, (0, 0)),
        (4, 0, 0, (4, 4)),
        (4, 3, 0, (3, 0)),
        (4, 0, 3, (0, 3)),
        (0, 2, 3, (2, 3)),
        (4, -1, 0, (4, 4)),
    ],
)
def test_the_common_parallelism_counts_only_without_the_others(
    both: int, intra: int, inter: int, written: tuple[int, int]
) -> None:
    config = read(
        tensorflow_session_parallelism=both,
        tensorflow_intra_op_parallelism=intra,
        tensorflow_inter_op_parallelism=inter,
    )
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == written


def test_all_three_parallelisms_are_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="You cannot configure all"):
        read(
            tensorflow_session_parallelism=1,
            tensorflow_intra_op_parallelism=1,
            tensorflow_inter_op_parallelism=1,
        )


def test_more_threads_than_the_field_holds_are_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="at most 2147483647"):
        read(tensorflow_session_parallelism=2**31)


def test_gpu_settings_are_written() -> None:
    config = read(per_process_gpu_memory_fraction=0.5, gpu_memory_growth=True)
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert config.gpu_options.allow_growth


def test_memory_growth_of_a_file_stays_without_the_flag(file: Path) -> None:
    assert read(file, gpu_memory_growth=False).gpu_options.allow_growth


def test_bfloat16_is_the_rewriter_s_toggle_of_that_name() -> None:
    field_number, varint, on = 31, 0, 1
    tag = field_number << 3 | varint
    options = read(mixed_precision="bfloat16").graph_options.rewrite_options
    assert options.SerializeToString() == bytes([tag & 0x7F | 0x80, tag >> 7, on])


def test_another_mixed_precision_is_said_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "inserve"):
        assert session_config(None, SessionSettings(mixed_precision="float16")) == b""
    assert caplog.messages == ["float16 auto mixed precision is not supported. Valid option: bfloat16"]


def test_a_file_that_is_missing_or_wrong_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read(tmp_path / "missing")
    (tmp_path / "bad").write_text("nonsense: 1")
    with pytest.raises(InvalidArgumentError, match='no field named "nonsense"'):
        read(tmp_path / "bad")
