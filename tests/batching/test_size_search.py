from __future__ import annotations

import pytest

from inserve.batching.size_search import SizeSearch


def search_with(seconds_of: dict[int, float], most_rows: int = 1000, request_rows: int = 1) -> SizeSearch:
    """Return a search fed with full batches until it is done; *seconds_of* each limit."""
    search = SizeSearch(most_rows)
    for _ in range(10_000):
        if search.is_done:
            return search
        rows = max(request_rows, search.limit)
        search.observe(rows, seconds_of[rows])
    raise AssertionError("the search does not end")


def test_the_search_ends_at_the_smallest_size_from_which_growth_stops() -> None:
    search = search_with({1: 1.0, 2: 1.2, 4: 1.6, 8: 3.19, 16: 6.4, 32: 12.8})
    assert (search.limit, search.is_worthwhile) == (4, True)


def test_a_model_that_gains_nothing_is_left_alone() -> None:
    search = search_with({1: 1.0, 2: 1.8, 4: 3.6, 8: 7.2})
    assert not search.is_worthwhile


def test_the_search_stays_within_the_largest_batch() -> None:
    search = search_with({1: 1.0, 2: 1.0, 4: 1.0, 6: 1.0}, most_rows=6)
    assert search.limit == 6


def test_requests_of_many_rows_are_compared_with_batches_of_several_of_them() -> None:
    search = search_with({8: 1.0, 16: 1.1, 32: 2.2, 64: 4.4}, request_rows=8)
    assert search.limit == 16


def test_slow_runs_do_not_decide() -> None:
    search = SizeSearch(4)
    for limit in (1, 2, 4):
        for number in range(12):
            search.observe(limit, 50.0 if number % 2 else 1.0)
    assert (search.is_done, search.limit) == (True, 4)


def test_one_size_that_brings_nothing_does_not_end_the_search() -> None:
    search = search_with({1: 1.0, 2: 2.0, 4: 1.0, 8: 2.0, 16: 4.0})
    assert search.limit == 4


def test_a_search_whose_requests_never_meet_goes_on_from_the_start() -> None:
    search = SizeSearch(1000)
    for _ in range(12):
        search.observe(1, 1.0)
    for _ in range(128):
        search.observe(1, 1.0)
    assert (search.limit, search.is_done) == (1, False)


def test_sizes_that_are_not_reached_end_the_search_with_what_is_known() -> None:
    search = SizeSearch(1000)
    for _ in range(12):
        search.observe(1, 1.0)
    for _ in range(12):
        search.observe(2, 1.0)
    for _ in range(128):
        search.observe(2, 1.0)
    assert search.is_done
    assert search.limit == 2


def test_measured_figures_are_rows_per_second() -> None:
    search = search_with({1: 0.5, 2: 1.0, 4: 2.0, 8: 4.0})
    assert search.measured[0][1] == pytest.approx(2.0)
