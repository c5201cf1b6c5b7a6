from __future__ import annotations

import pytest

from inserve.saved_model.run_cost import RunCost
from inserve.tensorflow_c.interface import Executor


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
    assert not cost.observe(8, 0.4)
    assert cost.estimate_s(8) == 0.4


def test_a_surge_counts_only_where_the_next_run_is_dear_as_well() -> None:
    cost = RunCost()
    cost.settle(8, 0.1)
    assert cost.observe(8, 0.9)
    assert cost.estimate_s(8) == 0.1
    assert not cost.observe(8, 0.7)
    assert cost.estimate_s(8) == 0.7


def test_a_surge_between_cheap_runs_is_forgotten() -> None:
    cost = RunCost()
    cost.settle(8, 0.1)
    cost.observe(8, 0.9)
    cost.observe(8, 0.1)
    assert cost.observe(8, 0.9)
    assert cost.estimate_s(8) == 0.1


def test_cheaper_runs_bring_the_figure_down_slowly() -> None:
    cost = RunCost()
    cost.settle(8, 1.0)
    cost.observe(8, 0.5)
    assert cost.estimate_s(8) == pytest.approx(0.95)


def test_runs_that_are_far_cheaper_count_at_once_when_two_agree() -> None:
    cost = RunCost()
    cost.settle(8, 1.0)
    assert cost.observe(8, 0.1)
    assert cost.estimate_s(8) == 1.0
    assert not cost.observe(8, 0.2)
    assert cost.estimate_s(8) == 0.2


def test_a_leap_up_and_one_down_do_not_confirm_each_other() -> None:
    cost = RunCost()
    cost.settle(8, 1.0)
    cost.observe(8, 9.0)
    assert cost.observe(8, 0.1)
    assert cost.estimate_s(8) == 1.0


def test_only_a_choice_keeps_runs_off_the_calling_thread_for_good() -> None:
    cost = RunCost()
    cost.settle(8, 1.0)
    assert cost.may_be_on_calling_thread(8)
    cost.choose(8, Executor.POOL, 1.0)
    assert not cost.may_be_on_calling_thread(8)


def test_the_second_figure_of_a_size_replaces_the_first() -> None:
    cost = RunCost()
    cost.observe(8, 1.0)
    cost.observe(8, 0.25)
    assert cost.estimate_s(8) == 0.25


def test_runs_of_a_few_milliseconds_belong_on_the_calling_thread() -> None:
    cost = RunCost()
    cost.settle(8, 5e-3)
    cost.settle(100, 5.1e-3)
    assert cost.on_calling_thread == {(8).bit_length(): 5e-3}


def test_a_size_leaves_the_calling_thread_when_its_runs_become_long() -> None:
    cost = RunCost()
    cost.settle(8, 2e-3)
    cost.observe(8, 6e-3)
    assert cost.on_calling_thread == {}


def test_a_size_that_was_chosen_for_the_pool_stays_there() -> None:
    cost = RunCost()
    cost.choose(8, Executor.POOL, 1e-3)
    cost.settle(8, 1e-3)
    assert cost.on_calling_thread == {}
    assert cost.estimate_s(8) == 1e-3


def test_a_choice_moves_a_size_whose_cost_is_known() -> None:
    cost = RunCost()
    cost.settle(8, 1e-3)
    cost.choose(8, Executor.POOL, 1e-3)
    assert cost.on_calling_thread == {}


def test_a_choice_tells_nothing_of_the_cost() -> None:
    cost = RunCost()
    cost.choose(8, Executor.CALLING_THREAD, 1e-3)
    assert cost.estimate_s(8) is None
    assert cost.on_calling_thread == {}


def test_a_long_run_that_was_chosen_for_the_calling_thread_stays_there_up_to_twice_its_cost() -> None:
    cost = RunCost()
    cost.choose(8, Executor.CALLING_THREAD, 8e-3)
    cost.settle(8, 15e-3)
    assert cost.on_calling_thread == {(8).bit_length(): 15e-3}
    cost.settle(8, 17e-3)
    assert cost.on_calling_thread == {}
