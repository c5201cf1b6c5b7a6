from __future__ import annotations

from pathlib import Path

import pytest

from inserve.batching.options import BatchingOptions
from inserve.errors import InvalidArgumentError
from inserve.server.batching_config import read_batching_options


def test_a_file_of_all_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batching"
    path.write_text(
        """
        # BatchingParameters
        max_batch_size { value: 64 }
        batch_timeout_micros { value: 2000 }
        max_enqueued_batches { value: 8 }
        num_batch_threads { value: 4 }
        thread_pool_name { value: "mine" }
        allowed_batch_sizes: [8, 16, 32, 64]
        enable_large_batch_splitting { value: true }
        max_execution_batch_size { value: 32 }
        pad_variable_length_inputs: true
        """
    )
    assert read_batching_options(path, strict=True) == BatchingOptions(
        max_batch_size=64,
        batch_timeout_micros=2000,
        max_enqueued_batches=8,
        num_batch_threads=4,
        thread_pool_name="mine",
        allowed_batch_sizes=(8, 16, 32, 64),
        enable_large_batch_splitting=True,
        max_execution_batch_size=32,
        pad_variable_length_inputs=True,
        strict=True,
    )


@pytest.mark.parametrize("strict", [True, False])
def test_without_a_file_only_the_threads_have_another_name(strict: bool) -> None:
    expected = BatchingOptions(thread_pool_name="model_server_batch_threads", strict=strict)
    assert read_batching_options(None, strict) == expected


def test_a_file_with_only_a_comment_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "batching"
    path.write_text("# defaults\n")
    assert read_batching_options(path, strict=False) == BatchingOptions()


def test_a_wrapped_value_needs_its_braces(tmp_path: Path) -> None:
    path = tmp_path / "batching"
    path.write_text("max_batch_size: 4\n")
    with pytest.raises(InvalidArgumentError, match="Invalid protobuf file"):
        read_batching_options(path, strict=True)
