"""The page that Prometheus reads, as TensorFlow Serving writes it (``util/prometheus_exporter.cc``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from inserve.metrics.registry import HistogramValue, MetricSnapshot

__all__ = ["CONTENT_TYPE", "prometheus_page"]

CONTENT_TYPE = "text/plain"


def prometheus_page(metrics: Iterable[MetricSnapshot]) -> bytes:
    """Return the page of *metrics*, in their order; UTF-8, ends with a line break.

    TensorFlow Serving leaves line breaks in label values as they are, which lets a client that sends
    one as a model name spoil every further scrape; here they are escaped as Prometheus asks.
    """
    lines = []
    for metric in metrics:
        name = _metric_name(metric.name)
        lines.append(f"# TYPE {name} {metric.kind}")
        bounds = [*map(_number, metric.bounds), "+Inf"]
        for values, value in metric.cells.items():
            pairs = _label_pairs(metric.labels, values)
            if isinstance(value, HistogramValue):
                lines += _histogram_lines(name, pairs, bounds, value)
            else:
                lines.append(f"{name}{{{pairs}}} {value}")
    return "".join([f"{line}\n" for line in lines]).encode("utf-8", "backslashreplace")


def _histogram_lines(name: str, pairs: str, bounds: Sequence[str], value: HistogramValue) -> list[str]:
    before_le = f"{pairs}," if pairs else ""
    lines = []
    total = 0
    for bound, count in zip(bounds, value.counts, strict=True):
        total += count
        lines.append(f'{name}_bucket{{{before_le}le="{bound}"}} {total}')
    return [*lines, f"{name}_sum{{{pairs}}} {_number(value.sum)}", f"{name}_count{{{pairs}}} {total}"]


def _metric_name(registry_name: str) -> str:
    name = re.sub("[^A-Za-z0-9_]", ":", registry_name)
    return f"_{name}" if name[:1].isdigit() else name


def _label_name(name: str) -> str:
    name = re.sub("[^A-Za-z0-9]", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def _label_pairs(labels: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(
        [f'{_label_name(label)}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True)]
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Return *value* as a C++ stream writes it: six significant digits."""
    return f"{value:.6g}"
