from __future__ import annotations

import pytest

from inserve.protos import messages
from inserve.tensorflow_c.session_options import intra_op_threads, with_intra_op_threads, within_quota


@pytest.fixture(autouse=True)
def no_threads_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)


def threads(config: bytes) -> tuple[int, int]:
    proto = messages.ConfigProto.FromString(config)
    return proto.intra_op_parallelism_threads, proto.inter_op_parallelism_threads


def test_a_number_of_threads_is_the_last_word() -> None:
    config = messages.ConfigProto(
        intra_op_parallelism_threads=7, allow_soft_placement=True
    ).SerializeToString()
    changed = with_intra_op_threads(config, 300)
    assert intra_op_threads(changed) == 300
    assert messages.ConfigProto.FromString(changed).allow_soft_placement


@pytest.mark.parametrize("config", [b"", b"\xff"])
def test_a_config_without_threads_has_none(config: bytes) -> None:
    assert intra_op_threads(config) == 0


def test_under_a_quota_pools_are_as_large_as_the_quota() -> None:
    assert threads(within_quota(b"", usable=2, schedulable=64)) == (2, 2)


def test_without_a_quota_the_config_is_left_alone() -> None:
    assert within_quota(b"", usable=4, schedulable=4) == b""


def test_what_the_config_says_wins_over_the_quota() -> None:
    config = messages.ConfigProto(intra_op_parallelism_threads=8).SerializeToString()
    assert threads(within_quota(config, usable=2, schedulable=64)) == (8, 2)


def test_what_the_environment_says_wins_over_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    assert threads(within_quota(b"", usable=2, schedulable=64)) == (0, 2)


def test_a_config_that_cannot_be_read_is_left_to_tensorflow() -> None:
    assert within_quota(b"\xff", usable=2, schedulable=64) == b"\xff"
