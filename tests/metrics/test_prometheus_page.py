from __future__ import annotations

import pytest

from inserve.metrics.prometheus_page import prometheus_page
from inserve.metrics.registry import Registry


def page(registry: Registry) -> str:
    return prometheus_page(registry.snapshot()).decode()


def test_a_metric_without_cells_is_its_type_line_alone() -> None:
    registry = Registry()
    registry.counter("/tensorflow/serving/request_count", ("model_name",))
    registry.declare("/tensorflow/serving/mlmd_map", "gauge")
    assert page(registry) == (
        "# TYPE :tensorflow:serving:mlmd_map gauge\n# TYPE :tensorflow:serving:request_count counter\n"
    )


def test_a_counter_without_labels_has_empty_braces() -> None:
    registry = Registry()
    registry.counter("/runs").cell().increment_by(12)
    assert page(registry) == "# TYPE :runs counter\n:runs{} 12\n"


def test_a_histogram_counts_up_to_each_bound() -> None:
    registry = Registry()
    cell = registry.histogram("/h", (1.0, 2.5), ("A b",)).cell("x")
    for value in (0.5, 1.0, 2.0, 99.0):
        cell.add(value)
    assert page(registry).splitlines() == [
        "# TYPE :h histogram",
        ':h_bucket{A_b="x",le="1"} 1',
        ':h_bucket{A_b="x",le="2.5"} 3',
        ':h_bucket{A_b="x",le="+Inf"} 4',
        ':h_sum{A_b="x"} 102.5',
        ':h_count{A_b="x"} 4',
    ]


def test_a_histogram_without_labels_has_braces_around_nothing() -> None:
    registry = Registry()
    registry.histogram("/h", (1.0,)).cell().add(3.0)
    assert page(registry).splitlines()[1:] == [
        ':h_bucket{le="1"} 0',
        ':h_bucket{le="+Inf"} 1',
        ":h_sum{} 3",
        ":h_count{} 1",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1274816.4, "1.27482e+06"), (188.9568, "188.957"), (121440.0, "121440"), (0.0, "0"), (1e20, "1e+20")],
)
def test_sums_and_bounds_have_six_significant_digits(value: float, text: str) -> None:
    registry = Registry()
    registry.histogram("/h", (value,)).cell().add(value)
    lines = page(registry).splitlines()
    assert f':h_bucket{{le="{text}"}} 0' in lines
    assert f":h_sum{{}} {text}" in lines


@pytest.mark.parametrize(("name", "exported"), [("/a/b_c", ":a:b_c"), ("3-d", "_3:d"), ("/ä.9", ":::9")])
def test_every_other_character_of_a_name_becomes_a_colon(name: str, exported: str) -> None:
    registry = Registry()
    registry.declare(name, "counter")
    assert page(registry) == f"# TYPE {exported} counter\n"


@pytest.mark.parametrize(("label", "exported"), [("model_name", "model_name"), ("9/x", "_9_x")])
def test_every_other_character_of_a_label_becomes_an_underscore(label: str, exported: str) -> None:
    registry = Registry()
    registry.counter("/c", (label,)).cell("v").increment()
    assert f':c{{{exported}="v"}} 1' in page(registry)


@pytest.mark.parametrize(
    ("value", "escaped"),
    [('a"b\\c', r"a\"b\\c"), ("ü", "ü"), ("one\n# TYPE x", r"one\n# TYPE x"), ("\udcff", r"\udcff")],
)
def test_no_value_of_a_label_can_break_the_page(value: str, escaped: str) -> None:
    registry = Registry()
    registry.counter("/c", ("name",)).cell(value).increment()
    assert page(registry).splitlines()[1:] == [f':c{{name="{escaped}"}} 1']
