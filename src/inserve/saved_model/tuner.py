"""Measures settings against each other, in turns and within a budget of time."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from inserve.errors import InserveError
from inserve.saved_model.tuning import (
    LONGEST_CALLING_THREAD_RUN_S,
    Alternative,
    Sample,
    Samples,
    Setting,
    SizeTuning,
    Tuning,
    choose_executor,
    choose_threads,
    is_settled,
)
from inserve.tensorflow_c.interface import Executor, Runner

__all__ = ["MAX_ROUNDS", "MIN_ROUNDS", "MeasuredInput", "Tuner"]

MIN_ROUNDS = 3
MAX_ROUNDS = 9

_BLOCK_S = 1e-3
"""Runs of one setting follow one another for about so long in a round, one run at least."""

_DEFAULT_SIGNATURE = "serving_default"

_WORTH_SHARING_S = 2e-5
"""A run shorter than this has nothing that several threads could share out."""

_LONGEST_MEASURED_CALLING_THREAD_RUN_S = 0.05
"""Longer runs stay on the pool, where they can end at a deadline."""

_PRIMING_BUDGETS = 2.0
"""The first run of a signature in a session takes long: TensorFlow optimizes the graph."""

_LOGGER = logging.getLogger("inserve.saved_model")


@dataclass(frozen=True, eq=False)
class MeasuredInput:
    """What one signature is run on, as ``Runner.run`` takes it."""

    signature: str
    output_aliases: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]
    seconds: float | None = None
    """What a run has taken during warm-up, where one was made."""

    @property
    def input_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def rows(self) -> int | None:
        """The first dimension, where all arrays have the same."""
        firsts = {array.shape[:1] for array in self.arrays}
        return next(iter(firsts))[0] if len(firsts) == 1 and () not in firsts else None


@dataclass(eq=False)
class _Candidate:
    """An input with the settings to try, what a run takes by setting, and the figures so far."""

    given: MeasuredInput
    runners: Mapping[int, Runner]
    estimates: dict[Setting, float]
    samples: dict[Setting, list[Sample]]

    def runs_per_block(self, setting: Setting) -> int:
        return max(1, int(_BLOCK_S / max(self.estimates[setting], 1e-7)))


class Tuner:
    """Tries settings on the runs of one version; used by the thread that loads it.

    *callers* threads ask at once in half of the measurements, with 1 that half is left out. The
    measurements take *budget_s* seconds of *now* at most, and the runs that prepare them twice as much.
    """

    def __init__(self, callers: int, budget_s: float, now: Callable[[], float] = perf_counter) -> None:
        self._callers = callers
        self._budget_s = budget_s
        self._now = now
        self._deadline = 0.0

    def fits(self, given: MeasuredInput, num_settings: int) -> bool:
        """Return whether the fewest rounds of *given* would take no longer than the budget."""
        runs = MIN_ROUNDS * num_settings * self._runs_at_once
        return given.seconds is None or given.seconds * runs <= self._budget_s

    def is_worth_sharing(self, runner: Runner, given: MeasuredInput) -> bool:
        """Return whether other numbers of intra-op threads could matter to runs of *given*."""
        if given.seconds is not None and given.seconds > LONGEST_CALLING_THREAD_RUN_S:
            return True
        self._deadline = self._now() + self._budget_s
        seconds = self._prime(runner, given, Executor.CALLING_THREAD)
        return seconds is not None and seconds >= _WORTH_SHARING_S

    def measure(
        self, inputs: Sequence[tuple[MeasuredInput, Mapping[int, Runner]]], default_threads: int
    ) -> Tuning | None:
        """Run *inputs* with each setting and return the choice, or None where time did not suffice.

        Each input comes with its runners by their number of intra-op threads, *default_threads* among
        them. Inputs that fail, or that the time does not suffice for, are left out. ``Tuning.seconds``
        is not filled in.
        """
        self._deadline = self._now() + _PRIMING_BUDGETS * self._budget_s
        candidates: list[_Candidate] = []
        for given, runners in sorted(inputs, key=lambda one: one[0].input_bytes):
            if self._is_hopeless(given, candidates):
                continue
            candidate = self._candidate(given, runners)
            if candidate is not None:
                candidates.append(candidate)
        self._deadline = self._now() + self._budget_s
        candidates = self._affordable(candidates)
        if not candidates:
            return None
        with ThreadPoolExecutor(self._callers, "inserve-tuning") as threads:
            rounds = 0
            while rounds < MAX_ROUNDS:
                started = self._now()
                try:
                    for candidate in candidates:
                        self._round(candidate, threads)
                except InserveError as error:
                    _LOGGER.debug("a run failed while it was measured: %s", error)
                    return None
                rounds += 1
                if rounds >= MIN_ROUNDS and is_settled([one.samples for one in candidates], default_threads):
                    break
                if 2 * self._now() - started > self._deadline:
                    break
        if rounds < MIN_ROUNDS:
            return None
        all_samples: list[Samples] = [candidate.samples for candidate in candidates]
        chosen = choose_threads(all_samples, default_threads)
        sizes = tuple(_size_tuning(candidate, chosen) for candidate in candidates)
        return Tuning("measured", chosen, sizes, self._callers)

    def _is_hopeless(self, given: MeasuredInput, smaller: Sequence[_Candidate]) -> bool:
        """Return whether runs in proportion to those of *smaller* inputs would not fit into the time."""
        for candidate in reversed(smaller):
            if candidate.given.signature == given.signature and candidate.given.input_bytes:
                growth = given.input_bytes / candidate.given.input_bytes
                seconds = sum(candidate.estimates.values()) * growth
                return seconds * MIN_ROUNDS * self._runs_at_once > self._budget_s
        return False

    def _candidate(self, one: MeasuredInput, runners: Mapping[int, Runner]) -> _Candidate | None:
        estimates: dict[Setting, float] = {}
        for threads, runner in runners.items():
            seconds = self._prime(runner, one, Executor.POOL)
            if seconds is None:
                return None
            estimates[Setting(Executor.POOL, threads)] = seconds
        if min(estimates.values()) <= _LONGEST_MEASURED_CALLING_THREAD_RUN_S:
            for threads, runner in runners.items():
                seconds = self._prime(runner, one, Executor.CALLING_THREAD)
                if seconds is None:
                    return None
                estimates[Setting(Executor.CALLING_THREAD, threads)] = seconds
        return _Candidate(one, runners, estimates, {setting: [] for setting in estimates})

    def _prime(self, runner: Runner, given: MeasuredInput, executor: Executor) -> float | None:
        """Return about how long a run takes, after one that prepares it; None where it fails."""
        seconds = 0.0
        try:
            for _ in range(2):
                started = self._now()
                left = self._deadline - started
                if left <= 0:
                    return None
                runner.run(given.arrays, left if executor is Executor.POOL else None, executor)
                seconds = self._now() - started
        except InserveError as error:
            _LOGGER.debug("signature %s failed while it was measured: %s", given.signature, error)
            return None
        return seconds

    def _affordable(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Return those of *candidates* that the time suffices for.

        The cheapest input of the default signature comes first, then the cheapest of all. The first needs
        time for the fewest rounds; another one may join as long as there is time for twice as many.
        """
        left = self._deadline - self._now()
        by_cost = sorted(candidates, key=self._seconds_per_round)
        first = _first_default(by_cost)
        by_cost.sort(key=lambda candidate: candidate is not first)
        total = 0.0
        kept: set[int] = set()
        for candidate in by_cost:
            seconds = self._seconds_per_round(candidate)
            rounds = 2 * MIN_ROUNDS if kept else MIN_ROUNDS
            if rounds * (total + seconds) <= left:
                total += seconds
                kept.add(id(candidate))
        return [candidate for candidate in candidates if id(candidate) in kept]

    @property
    def _runs_at_once(self) -> int:
        return 1 + (self._callers if self._callers > 1 else 0)

    def _seconds_per_round(self, candidate: _Candidate) -> float:
        return sum(
            candidate.runs_per_block(setting) * seconds * self._runs_at_once
            for setting, seconds in candidate.estimates.items()
        )

    def _round(self, candidate: _Candidate, threads: ThreadPoolExecutor) -> None:
        for setting in candidate.estimates:
            runner = candidate.runners[setting.intra_op_threads]
            count = candidate.runs_per_block(setting)
            arrays, executor = candidate.given.arrays, setting.executor

            def block(
                runner: Runner = runner,
                count: int = count,
                arrays: Sequence[NDArray[Any]] = arrays,
                executor: Executor = executor,
            ) -> None:
                for _ in range(count):
                    runner.run(arrays, None, executor)

            started = self._now()
            block()
            alone = together = (self._now() - started) / count
            if self._callers > 1:
                started = self._now()
                for future in [threads.submit(block) for _ in range(self._callers)]:
                    future.result()
                together = (self._now() - started) / (count * self._callers)
            candidate.samples[setting].append(Sample(max(alone, 1e-9), max(together, 1e-9)))


def _first_default(candidates: Sequence[_Candidate]) -> _Candidate | None:
    return next((one for one in candidates if one.given.signature == _DEFAULT_SIGNATURE), None)


def _size_tuning(candidate: _Candidate, intra_op_threads: int) -> SizeTuning:
    return SizeTuning(
        candidate.given.signature,
        candidate.given.rows,
        candidate.given.input_bytes,
        choose_executor(candidate.samples, intra_op_threads),
        tuple(
            Alternative(
                *setting,
                statistics.median(sample.alone_s for sample in samples),
                statistics.median(sample.together_s for sample in samples),
            )
            for setting, samples in candidate.samples.items()
        ),
    )
