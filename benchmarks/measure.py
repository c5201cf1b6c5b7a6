"""Timing for the scripts beside this file: medians, and ratios to a reference of the same run.

Machines differ and are noisy, so no script quotes a time without the reference it was measured
beside. The functions to compare take turns, round by round, and each round gives one ratio.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HALF_PLUS_TWO = Path(__file__).resolve().parents[1] / "tests/golden/models/half_plus_two/1"


def require_packages(*names: str) -> None:
    """End the script, before it measures anything, unless the packages *names* are installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'this script needs {", ".join(missing)}: pip install -e ".[test,examples]"')


def seconds_per_call(function: Callable[[], object], calls: int) -> float:
    """Return the mean seconds of *calls* calls in a row, with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - started) / calls
    finally:
        gc.enable()


def compare(
    functions: dict[str, Callable[[], object]], rounds: int = 15, seconds_per_round: float = 0.1
) -> dict[str, list[float]]:
    """Return seconds per call of each function, one figure a round, the functions taking turns."""
    calls = {}
    for name, function in functions.items():
        function()
        once = seconds_per_call(function, 3)
        calls[name] = max(1, int(seconds_per_round / max(once, 1e-7)))
        seconds_per_call(function, max(1, calls[name] // 4))
    figures: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            figures[name].append(seconds_per_call(function, calls[name]))
    return figures


def ratio(figures: dict[str, list[float]], name: str, reference: str) -> float:
    """Return the median over the rounds of *name*'s time in units of *reference*'s."""
    return statistics.median(a / b for a, b in zip(figures[name], figures[reference], strict=True))


def microseconds(figures: list[float]) -> str:
    return f"{statistics.median(figures) * 1e6:9.1f} µs"


def report(what: str, value: float, limit: float, at_most: bool = True) -> None:
    """Print one ratio beside the figure it is held to."""
    held = value <= limit if at_most else value >= limit
    sign = "at most" if at_most else "at least"
    print(f"{what:<66} {value:8.3f}   {sign} {limit:g}   {'ok' if held else 'MISSED'}")
