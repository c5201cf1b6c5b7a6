"""Measures settings against each other, in turns and within a budget of time."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from inserve.errors import DeadlineExceededError, InserveError
from inserve.saved_model.tuning import (
    LONGEST_CALLING_THREAD_RUN_S,
    Alternative,
    Sample,
    Samples,
    Setting,
    SizeTuning,
    Tuning,
    choose_crowded,
    choose_executor,
    choose_threads,
    is_settled,
    serves_lone_callers_alike,
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

    Each number of intra-op threads has threads of its own to call from, and TensorFlow's pool runs only the
    default number. oneDNN keeps what it has prepared for an operation by thread, fit for the number of
    intra-op threads of whoever came first: with another number the same convolutions take up to 1.7 times
    as long there.
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
        with ThreadPoolExecutor(1, "inserve-tuning") as thread:
            seconds = self._prime(runner, given, Executor.CALLING_THREAD, thread)
        return seconds is not None and seconds >= _WORTH_SHARING_S

    def measure(
        self,
        inputs: Sequence[tuple[MeasuredInput, Mapping[int, Runner]]],
        default_threads: int,
        may_hold_two: bool = False,
        is_all: bool = True,
    ) -> Tuning | None:
        """Run *inputs* with each setting and return the choice, or None where time did not suffice.

        Each input comes with its runners by their number of intra-op threads, *default_threads* among
        them. Inputs that fail, or that the time does not suffice for, are left out; *is_all* is False where
        some were so before. With *may_hold_two* the choice may be two numbers of threads: crowded runs have
        the other one, or all of *inputs* where larger ones are left out. ``Tuning.seconds`` is not filled in.
        """
        with ExitStack() as stack:
            threads = {
                number: stack.enter_context(ThreadPoolExecutor(self._callers, f"inserve-tuning-{number}"))
                for number in {number for _, runners in inputs for number in runners}
            }
            candidates = self._candidates(inputs, default_threads, threads)
            may_hold_two = may_hold_two and self._callers > 1
            if not candidates or not self._rounds(candidates, default_threads, may_hold_two, threads):
                return None
        chosen = choose_threads([one.samples for one in candidates], default_threads)
        crowded: list[Setting | None] = [None] * len(candidates)
        is_all = is_all and len(candidates) == len(inputs)
        if may_hold_two and (
            chosen == default_threads or _may_be_left(candidates, chosen, default_threads, is_all)
        ):
            crowded = _crowded_settings(candidates, default_threads)
            chosen = default_threads if any(crowded) else chosen
        elif may_hold_two and not is_all and chosen != default_threads:
            # Larger inputs have not been measured: they keep all threads.
            crowded = [Setting(Executor.CALLING_THREAD, chosen)] * len(candidates)
            sizes = tuple(
                replace(_size_tuning(one, default_threads, setting), is_crowded_alone=True)
                for one, setting in zip(candidates, crowded, strict=True)
            )
            return Tuning("measured", default_threads, sizes, self._callers)
        sizes = tuple(map(_size_tuning, candidates, [chosen] * len(candidates), crowded))
        return Tuning("measured", chosen, sizes, self._callers)

    def _candidates(
        self,
        inputs: Sequence[tuple[MeasuredInput, Mapping[int, Runner]]],
        default_threads: int,
        threads: Mapping[int, ThreadPoolExecutor],
    ) -> list[_Candidate]:
        """Return what there is time for, prepared, in the order of its sizes."""
        self._deadline = self._now() + _PRIMING_BUDGETS * self._budget_s
        candidates: list[_Candidate] = []
        for given, runners in sorted(inputs, key=lambda one: one[0].input_bytes):
            if self._is_hopeless(given, candidates):
                continue
            candidate = self._candidate(given, runners, default_threads, threads)
            if candidate is not None:
                candidates.append(candidate)
        self._deadline = self._now() + self._budget_s
        return self._affordable(candidates)

    def _rounds(
        self,
        candidates: Sequence[_Candidate],
        default_threads: int,
        may_hold_two: bool,
        threads: Mapping[int, ThreadPoolExecutor],
    ) -> bool:
        """Take samples until they agree or the time is up; return whether there are enough."""
        rounds = 0
        while rounds < MAX_ROUNDS:
            started = self._now()
            try:
                for candidate in candidates:
                    self._round(candidate, threads)
            except InserveError as error:
                _LOGGER.debug("a run failed while it was measured: %s", error)
                return False
            rounds += 1
            samples: list[Samples] = [candidate.samples for candidate in candidates]
            if rounds >= MIN_ROUNDS and is_settled(samples, default_threads, may_hold_two):
                break
            if 2 * self._now() - started > self._deadline:
                break
        return rounds >= MIN_ROUNDS

    def _is_hopeless(self, given: MeasuredInput, smaller: Sequence[_Candidate]) -> bool:
        """Return whether runs in proportion to those of *smaller* inputs would not fit into the time."""
        for candidate in reversed(smaller):
            if candidate.given.signature == given.signature and candidate.given.input_bytes:
                growth = given.input_bytes / candidate.given.input_bytes
                seconds = sum(candidate.estimates.values()) * growth
                return seconds * MIN_ROUNDS * self._runs_at_once > self._budget_s
        return False

    def _candidate(
        self,
        one: MeasuredInput,
        runners: Mapping[int, Runner],
        default_threads: int,
        threads: Mapping[int, ThreadPoolExecutor],
    ) -> _Candidate | None:
        default = runners[default_threads]
        seconds = self._prime(default, one, Executor.POOL, threads[default_threads])
        if seconds is None:
            return None
        estimates = {Setting(Executor.POOL, default_threads): seconds}
        if seconds <= _LONGEST_MEASURED_CALLING_THREAD_RUN_S:
            for number in sorted(runners, reverse=True):
                if (
                    number < default_threads
                    and seconds * default_threads / number > self._deadline - self._now()
                ):
                    continue
                primed = self._prime(runners[number], one, Executor.CALLING_THREAD, threads[number])
                if primed is None:
                    return None
                estimates[Setting(Executor.CALLING_THREAD, number)] = primed
        return _Candidate(one, runners, estimates, {setting: [] for setting in estimates})

    def _prime(
        self, runner: Runner, given: MeasuredInput, executor: Executor, threads: ThreadPoolExecutor
    ) -> float | None:
        """Return about how long a run takes, after one that prepares it; None where it fails."""

        def run() -> float:
            started = self._now()
            left = self._deadline - started
            if left <= 0:
                raise DeadlineExceededError("no time is left")
            runner.run(given.arrays, left if executor is Executor.POOL else None, executor)
            return self._now() - started

        try:
            threads.submit(run).result()
            seconds = threads.submit(run).result()
            if executor is Executor.CALLING_THREAD and self._callers > 1:
                for one in [threads.submit(run) for _ in range(self._callers)]:
                    one.result()
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

    def _round(self, candidate: _Candidate, threads: Mapping[int, ThreadPoolExecutor]) -> None:
        for setting in candidate.estimates:
            runner = candidate.runners[setting.intra_op_threads]
            count = candidate.runs_per_block(setting)
            arrays, executor = candidate.given.arrays, setting.executor

            def block(
                runner: Runner = runner,
                count: int = count,
                arrays: Sequence[NDArray[Any]] = arrays,
                executor: Executor = executor,
            ) -> float:
                started = self._now()
                for _ in range(count):
                    runner.run(arrays, None, executor)
                return max((self._now() - started) / count, 1e-9)

            mine = threads[setting.intra_op_threads]
            alone = together = mine.submit(block).result()
            if self._callers > 1:
                blocks = [mine.submit(block) for _ in range(self._callers)]
                # Processors may differ for a while: each caller counts by its own pace.
                together = 1.0 / sum(1.0 / one.result() for one in blocks)
            candidate.samples[setting].append(Sample(alone, together))


def _first_default(candidates: Sequence[_Candidate]) -> _Candidate | None:
    return next((one for one in candidates if one.given.signature == _DEFAULT_SIGNATURE), None)


def _may_be_left(candidates: Sequence[_Candidate], chosen: int, default_threads: int, is_all: bool) -> bool:
    """Return whether *chosen* gains a lone caller nothing, and might cost what was not measured."""
    return not is_all and all(
        serves_lone_callers_alike(one.samples, chosen, default_threads) for one in candidates
    )


def _crowded_settings(candidates: Sequence[_Candidate], default_threads: int) -> list[Setting | None]:
    """Return what is better for crowded runs of each; beyond a size that gains nothing no larger one does.

    *candidates* stand in the order of their sizes.
    """
    settings: list[Setting | None] = []
    gain_nothing: set[str] = set()
    for candidate in candidates:
        signature = candidate.given.signature
        setting = choose_crowded(candidate.samples, default_threads)
        if setting is None:
            gain_nothing.add(signature)
        settings.append(None if signature in gain_nothing else setting)
    return settings


def _size_tuning(candidate: _Candidate, intra_op_threads: int, crowded: Setting | None) -> SizeTuning:
    return SizeTuning(
        candidate.given.signature,
        candidate.given.rows,
        candidate.given.input_bytes,
        choose_executor(candidate.samples, intra_op_threads) if crowded is None else Executor.POOL,
        tuple(
            Alternative(
                *setting,
                statistics.median(sample.alone_s for sample in samples),
                statistics.median(sample.together_s for sample in samples),
            )
            for setting, samples in candidate.samples.items()
        ),
        crowded,
    )
