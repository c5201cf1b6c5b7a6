from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from inserve.metrics.registry import (
    MAX_CELLS,
    CounterCell,
    HistogramCell,
    HistogramValue,
    Registry,
    add_up,
    exponential_bounds,
)

THREADS = 8
TIMES = 5000


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads interrupt one another as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("hasty_threads")
def test_no_increment_of_any_thread_is_lost() -> None:
    cell = CounterCell()

    def work() -> None:
        for number in range(TIMES):
            cell.increment()
            cell.increment_by(2)
            if number % 100 == 0:
                cell.value()

    in_threads(work)
    assert cell.value() == 3 * THREADS * TIMES


@pytest.mark.usefixtures("hasty_threads")
def test_no_value_of_any_thread_is_lost() -> None:
    cell = HistogramCell((10.0, 20.0))

    def work() -> None:
        for number in range(TIMES):
            cell.add(5.0)
            cell.add(15.0)
            cell.add_times(25.0, 2)
            if number % 100 == 0:
                cell.value()

    in_threads(work)
    every = THREADS * TIMES
    assert cell.value() == HistogramValue((every, every, 2 * every), 70.0 * every)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_ask_for_a_cell_at_once_get_the_same() -> None:
    counter = Registry().counter("/c", ("name",))

    def work() -> None:
        for number in range(200):
            counter.cell(str(number)).increment()

    in_threads(work)
    assert [cell.value() for _, cell in counter.cells()] == [THREADS] * 200


def test_reading_a_counter_does_not_change_it() -> None:
    cell = CounterCell()
    cell.increment()
    assert [cell.value(), cell.value(), cell.value()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (9.99, 0), (10.0, 1), (17.9, 1), (18.0, 2), (1e9, 2), (-1.0, 0)]
)
def test_a_bucket_holds_its_lower_bound_and_not_its_upper_one(value: float, bucket: int) -> None:
    cell = HistogramCell((10.0, 18.0))
    cell.add(value)
    cell.add_times(value, 2)
    assert cell.value().counts == tuple(3 if index == bucket else 0 for index in range(3))


def test_values_beyond_those_sorted_in_at_once_are_counted_as_well() -> None:
    cell = HistogramCell((1.0,))
    for _ in range(1000):
        cell.add(0.5)
    assert cell.value() == HistogramValue((1000, 0), 500.0)


def test_exponential_bounds_grow_by_their_factor() -> None:
    assert exponential_bounds(1, 2, 5) == (1, 2, 4, 8, 16)


def test_a_cell_needs_a_value_for_each_label() -> None:
    counter = Registry().counter("/c", ("a", "b"))
    with pytest.raises(ValueError, match=r"/c has labels \('a', 'b'\), got values \('x',\)"):
        counter.cell("x")


def test_a_metric_that_is_full_lets_go_of_its_oldest_cell() -> None:
    counter = Registry().counter("/c", ("name",))
    for number in range(MAX_CELLS + 1):
        counter.cell(f"{number:05}").increment()
    names = [name for (name,), _ in counter.cells()]
    assert (len(names), names[0], names[-1]) == (MAX_CELLS, "00001", f"{MAX_CELLS:05}")
    assert counter.num_dropped == 1


def test_a_name_is_taken_once() -> None:
    registry = Registry()
    registry.counter("/c")
    with pytest.raises(ValueError, match="there is a metric /c already"):
        registry.histogram("/c", (1.0,))


def test_registries_do_not_mix() -> None:
    one, other = Registry(), Registry()
    one.counter("/c").cell().increment()
    other.counter("/c")
    assert [one.value("/c"), other.value("/c")] == [1, 0]


def test_a_snapshot_is_ordered_by_name_and_by_the_values_of_labels() -> None:
    registry = Registry()
    counter = registry.counter("/b/x", ("name",))
    registry.declare("/a", "gauge")
    registry.counter("/b_x")
    for name in ("z", "", "B", "a"):
        counter.cell(name).increment()
    snapshot = registry.snapshot()
    assert [metric.name for metric in snapshot] == ["/a", "/b/x", "/b_x"]
    assert list(snapshot[1].cells) == [("",), ("B",), ("a",), ("z",)]


def test_a_metric_that_exists_only_once_used_is_not_seen_before() -> None:
    registry = Registry()
    counter = registry.counter("/c", only_once_used=True)
    assert registry.snapshot() == []
    counter.cell()
    assert [metric.name for metric in registry.snapshot()] == ["/c"]


def test_the_value_of_a_name_is_its_first_cell_and_0_where_there_is_none() -> None:
    registry = Registry()
    counter = registry.counter("/c", ("name",))
    registry.histogram("/h", (1.0,)).cell().add(7.0)
    assert [registry.value(name) for name in ("/c", "/h", "/nope")] == [0, 0, 0]
    counter.cell("b").increment_by(5)
    counter.cell("a").increment_by(3)
    assert registry.value("/c") == 3


def test_what_was_only_noted_is_recorded_before_a_reading() -> None:
    registry = Registry()
    counter = registry.counter("/c")
    registry.before_reading(lambda: counter.cell().increment_by(2))
    assert registry.value("/c") == 2
    assert registry.snapshot()[0].cells == {(): 4}


def filled(count: int, value: float, name: str) -> Registry:
    registry = Registry()
    registry.counter("/c", ("name",)).cell(name).increment_by(count)
    registry.histogram("/h", (10.0, 20.0)).cell().add(value)
    return registry


def test_snapshots_of_several_processes_add_up() -> None:
    snapshots = [
        pickle.loads(pickle.dumps(filled(*values).snapshot()))
        for values in ((1, 5.0, "b"), (2, 15.0, "b"), (4, 16.0, "a"))
    ]
    counter, histogram = add_up(snapshots)
    assert list(counter.cells.items()) == [(("a",), 4), (("b",), 3)]
    assert histogram.cells == {(): HistogramValue((1, 2, 0), 36.0)}
    assert histogram.bounds == (10.0, 20.0)


def test_a_metric_that_only_one_process_has_is_in_the_sum() -> None:
    one, other = Registry(), Registry()
    one.counter("/b").cell().increment()
    other.counter("/a").cell().increment()
    assert [metric.name for metric in add_up([one.snapshot(), other.snapshot()])] == ["/a", "/b"]
