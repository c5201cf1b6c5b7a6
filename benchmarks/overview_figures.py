"""Figures with their references, and the table they are printed in."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row: the medians over the rounds of a value, of its reference, and of their ratio or difference."""

    section: str
    what: str
    unit: str
    value: float
    spread: tuple[float, float]
    """The least and the greatest value of a round."""
    reference: str = ""
    reference_value: float = math.nan
    relation: float = math.nan
    """Value / reference, or value - reference where *is_difference*."""
    is_difference: bool = False
    limit: float | None = None
    at_most: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether the limit is met; None without one."""
        if self.limit is None:
            return None
        return self.relation <= self.limit if self.at_most else self.relation >= self.limit

    def as_json(self) -> dict[str, Any]:
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in {**asdict(self), "holds": self.holds}.items()
        }


def figure(
    section: str,
    what: str,
    unit: str,
    values: Sequence[float],
    reference: str = "",
    references: Sequence[float] = (),
    limit: float | None = None,
    at_most: bool = True,
    is_difference: bool = False,
) -> Figure:
    """Return the figure of *values* and *references*, one of each a round; seconds, or answers a second."""
    spread = (min(values), max(values))
    value = statistics.median(values)
    if not references:
        return Figure(section, what, unit, value, spread)
    pairs = zip(values, references, strict=True)
    relation = statistics.median(a - b if is_difference else a / b for a, b in pairs)
    return Figure(
        section,
        what,
        unit,
        value,
        spread,
        reference,
        statistics.median(references),
        relation,
        is_difference,
        limit,
        at_most,
    )


def amount(value: float, unit: str) -> str:
    """Return *value* with three digits that count, seconds as µs, ms or s."""
    if math.isnan(value):
        return ""
    if unit == "/s":
        return f"{value:,.0f}/s" if abs(value) >= 100 else f"{value:.3g}/s"
    for factor, name in ((1e6, "µs"), (1e3, "ms")):
        scaled = value * factor
        if abs(scaled) < 999.5:
            return f"{scaled:.0f} {name}" if abs(scaled) >= 100 else f"{scaled:.3g} {name}"
    return f"{value:.3g} s"


def times(ratio: float) -> str:
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.3g} x"


def machine() -> str:
    """Return what the figures were measured on, and what else it had to do."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{name}, {os.cpu_count()} processors, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load average at the start {load}"
    )


def markdown(figures: Iterable[Figure]) -> str:
    """Return the one table of all *figures*."""
    lines = [
        "| Figure | Median | Least to greatest | Reference | Its median | Against it | Held to |",
        "|---|--:|--:|---|--:|--:|---|",
    ]
    section = ""
    for row in figures:
        if row.section != section:
            section = row.section
            lines.append(f"| **{section}** | | | | | | |")
        relation = held = ""
        if not math.isnan(row.relation):
            relation = (
                f"{'+' if row.relation >= 0 else ''}{amount(row.relation, row.unit)}"
                if row.is_difference
                else times(row.relation)
            )
        if row.limit is not None:
            limit = amount(row.limit, row.unit) if row.is_difference else times(row.limit)
            sign = "at most" if row.at_most else "at least"
            held = f"{sign} {limit}: {'ok' if row.holds else '**missed**'}"
        spread = f"{amount(row.spread[0], row.unit)} to {amount(row.spread[1], row.unit)}"
        cells = [row.what, amount(row.value, row.unit), spread, row.reference]
        cells += [amount(row.reference_value, row.unit), relation, held]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
