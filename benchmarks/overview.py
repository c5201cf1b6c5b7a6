"""Every figure in one table, each with its reference of the same run, and a picture of them.

Latency of all ways to ask three models, throughput against latency over gRPC and REST, batching, a host with
a million live objects, and a slow neighbour. Needs ``h2load``, ``wrk`` and matplotlib; under ten minutes on
two processors.

usage: python overview.py [--quick] [--json] [--images FOLDER] [--only SECTION ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import require_packages
from overview_curves import Point, measure_curves
from overview_figures import Figure, machine, markdown
from overview_hosts import measure_batching, measure_objects
from overview_latency import measure_latency
from overview_load import require_load_generators
from overview_models import cases
from slow_neighbour import measure_slow_neighbour

SECTIONS = ("latency", "curves", "batching", "objects", "neighbour")


@dataclass(frozen=True)
class Effort:
    """Rounds, and seconds of one loop, of each part."""

    rounds: int
    latency_s: float
    curves_s: float
    batching_s: float
    objects_s: float
    neighbour_s: float


FULL = Effort(5, 0.7, 1.0, 1.5, 2.0, 2.0)
QUICK = Effort(1, 0.15, 0.3, 0.4, 0.5, 0.5)


def progress_of(section: str, started: float) -> Callable[[str], None]:
    def progress(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {section}: {text}", file=sys.stderr, flush=True)

    return progress


def measure(sections: list[str], effort: Effort) -> tuple[list[Figure], list[Point]]:
    figures: list[Figure] = []
    points: list[Point] = []
    started = time.monotonic()
    rounds = effort.rounds
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for section in sections:
            progress = progress_of(section, started)
            progress("starting")
            if section == "latency":
                figures += measure_latency(cases(), folder, rounds, effort.latency_s, progress)
            elif section == "curves":
                rows, points = measure_curves(folder, rounds, effort.curves_s, progress)
                figures += rows
            elif section == "batching":
                figures += measure_batching(rounds, effort.batching_s, progress)
            elif section == "objects":
                figures += measure_objects(folder, rounds, effort.objects_s, progress)
            else:
                figures += measure_slow_neighbour(folder, rounds, effort.neighbour_s, progress)
        progress_of("all", started)("done")
    return figures, points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: to see that all works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--images", type=Path, help="write overview.png and overview.svg into this folder")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    options = parser.parse_args()
    require_load_generators()
    if options.images is not None and not {"latency", "curves"} <= set(options.only):
        parser.error("the picture needs the sections latency and curves")
    if "curves" in options.only:
        require_packages("uvicorn")
    if options.images is not None:
        require_packages("matplotlib")
    where = machine()
    figures, points = measure(options.only, QUICK if options.quick else FULL)
    if options.json:
        document = {
            "machine": where,
            "figures": [figure.as_json() for figure in figures],
            "curves": [asdict(point) for point in points],
        }
        print(json.dumps(document, indent=1))
    else:
        print(f"{where}\n\n{markdown(figures)}")
    if options.images is not None:
        from overview_plot import draw

        for path in draw(figures, points, where, options.images):
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
