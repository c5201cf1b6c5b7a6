"""The picture of the overview: latency by way of asking, and throughput against latency.

usage: python overview_plot.py JSON FOLDER    draws again what ``overview.py --json`` printed
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from overview_curves import GRPC, GRPC_ECHO, REST, REST_ECHO, Point
from overview_figures import Figure, amount
from overview_latency import NAMES, SECTION

INK, SOFT, GRID = "#1f2933", "#66727f", "#e4e7eb"
INSIDE, OTHERS, GRPC_COLOUR, REST_COLOUR = "#0b7285", "#8a94a0", "#364fc7", "#d9480f"
ROWS = (
    ("TensorFlow in Python", "tensorflow", None, OTHERS),
    ("TensorFlow's C API, bare", "prepared", None, OTHERS),
    ("server.predict", "predict", None, INSIDE),
    ("gRPC stub, no socket", "stub", None, INSIDE),
    ("gRPC, native", "native, h2load", "native, grpcio", GRPC_COLOUR),
    ("gRPC, grpcio", "grpcio, h2load", "grpcio, grpcio", GRPC_COLOUR),
    ("REST", "rest, wrk", "rest, http.client", REST_COLOUR),
)
"""Label, way, the same way asked by a client in Python, colour."""
TITLES = {"half_plus_two": "half_plus_two", "cnn": "small CNN", "mobilenet_v2": "MobileNetV2"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.fonttype": "path",
    "svg.hashsalt": "inserve",
}


def draw_latency(axes: Axes, figures: Sequence[Figure]) -> None:
    medians = {(row.section, row.what): row.value for row in figures if row.section.startswith(SECTION)}
    height, ticks, labels = 0.0, [], []
    for model, title in TITLES.items():
        axes.text(0.0, height, title, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        height += 1
        for label, way, python_way, colour in ROWS:
            value = medians[f"{SECTION}: {model}", NAMES[way]]
            end = value
            if python_way is not None:
                end = medians[f"{SECTION}: {model}", NAMES[python_way]]
                axes.plot([value, end], [height, height], color=colour, linewidth=1, alpha=0.4, zorder=2)
                axes.plot(end, height, "o", markersize=5, markerfacecolor="white", color=colour, zorder=3)
            axes.plot(value, height, "o", markersize=5.5, color=colour, zorder=4)
            both = "" if python_way is None else f", Python {amount(end, 's')}"
            axes.annotate(
                amount(value, "s") + both,
                (max(value, end), height),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
            )
            ticks.append(height)
            labels.append(label)
            height += 1
        height += 0.4
    axes.set_xscale("log")
    axes.set_ylim(height - 0.6, -0.8)
    axes.set_yticks(ticks, labels)
    for text in axes.get_yticklabels():
        text.set_color(INK)
    values = list(medians.values())
    axes.set_xlim(min(values) / 1.8, max(values) * 70)
    finish(axes, "x")
    axes.set_xlabel("median latency, one caller")
    axes.set_title("One answer", loc="left", weight="bold", fontsize=10, pad=10)
    handles = [
        Line2D(
            [], [], marker="o", linestyle="", color=SOFT, markersize=5.5, label="client in C (h2load, wrk)"
        ),
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color=SOFT,
            markersize=5,
            markerfacecolor="white",
            label="client in Python",
        ),
    ]
    axes.legend(
        handles=handles, loc="upper right", fontsize=7.5, frameon=True, facecolor="white", edgecolor="white"
    )


def draw_curves(axes: Axes, points: Sequence[Point]) -> None:
    looks = {
        GRPC: ("gRPC Predict", GRPC_COLOUR, "-"),
        GRPC_ECHO: ("echo, same transport", GRPC_COLOUR, (0, (2, 2))),
        REST: ("REST Predict", REST_COLOUR, "-"),
        REST_ECHO: ("bare echo under uvicorn", REST_COLOUR, (0, (2, 2))),
    }
    for series, (label, colour, style) in looks.items():
        mine = sorted((point for point in points if point.series == series), key=lambda p: p.connections)
        rates, seconds = [point.per_second for point in mine], [point.p50_s for point in mine]
        is_echo = series in (GRPC_ECHO, REST_ECHO)
        axes.plot(
            rates,
            seconds,
            linestyle=style,
            color=colour,
            linewidth=1.2 if is_echo else 1.8,
            marker="o",
            markersize=3.5 if is_echo else 5,
            markerfacecolor="white" if is_echo else colour,
            alpha=0.75 if is_echo else 1,
            label=label,
        )
        if is_echo:
            continue
        for point in mine:
            axes.annotate(
                str(point.connections),
                (point.per_second, point.p50_s),
                (-6, 3),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=colour,
            )
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 2.5)  # room for the legend
    finish(axes, "y")
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("answers per second, half_plus_two")
    axes.set_ylabel("median latency")
    axes.set_title("1 to 256 connections", loc="left", weight="bold", fontsize=10, pad=10)
    axes.legend(loc="upper left", ncols=2, fontsize=7.5, frameon=True, facecolor="white", edgecolor="white")


def finish(axes: Axes, seconds_axis: str) -> None:
    """Draw a light grid, and write the seconds of one axis as µs, ms and s."""
    axis = axes.xaxis if seconds_axis == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, "s")))
    axis.set_minor_locator(NullLocator())
    axes.grid(visible=True, axis=seconds_axis, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(figures: Sequence[Figure], points: Sequence[Point], machine: str, folder: Path) -> list[Path]:
    """Write ``overview.png`` and ``overview.svg`` into *folder* and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        picture, (left, right) = plt.subplots(
            1, 2, figsize=(10.4, 5.9), width_ratios=(1.15, 1), layout="constrained", facecolor="white"
        )
        picture.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        draw_latency(left, figures)
        draw_curves(right, points)
        picture.supxlabel(machine, fontsize=7, color=SOFT, x=0.01, ha="left")
        paths = [folder / "overview.png", folder / "overview.svg"]
        picture.savefig(paths[0], dpi=170, metadata={"Software": None})
        picture.savefig(paths[1], metadata={"Date": None})
        plt.close(picture)
    return paths


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text())
    figures = []
    for row in document["figures"]:
        del row["holds"]
        missing = {name: math.nan for name in ("reference_value", "relation") if row[name] is None}
        figures.append(Figure(**{**row, **missing}))
    points = [Point(**point) for point in document["curves"]]
    for path in draw(figures, points, document["machine"], Path(sys.argv[2])):
        print(path)


if __name__ == "__main__":
    main()
