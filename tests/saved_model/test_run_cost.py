from __future__ import annotations

import pytest

from inserve.saved_model.run_cost import RunCost


def test_nothing_is_known_of_a_size_that_never_ran() -> None:
    cost = RunCost()
    cost.observe(100, 1.0)
    assert cost.estimate_s(1000) is None


def test_sizes_of_one_power_of_two_share_a_figure() -> None:
    cost = RunCost()
    cost.observe(64, 0.5)
    assert cost.estimate_s(127) == 0.5
    assert cost.estimate_s(128) is None


def test_a_dearer_run_counts_at_once() -> None:
    cost = RunCost()
    cost.observe(8, 0.1)
    cost.observe(8, 0.1)
    cost.observe(8, 0.9)
    assert cost.estimate_s(8) == 0.9


def test_cheaper_runs_bring_the_figure_down_slowly() -> None:
    cost = RunCost()
    cost.observe(8, 1.0)
    cost.observe(8, 1.0)
    cost.observe(8, 0.0)
    assert cost.estimate_s(8) == pytest.approx(0.9)


def test_the_second_figure_of_a_size_replaces_the_first() -> None:
    cost = RunCost()
    cost.observe(8, 1.0)
    cost.observe(8, 0.25)
    assert cost.estimate_s(8) == 0.25
