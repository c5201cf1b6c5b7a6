"""What was found out about running one version fast, and the rules of the choice.

A *setting* is an executor (``interface.Executor``) and a number of intra-op threads: 1, or all that the
process may use, TensorFlow's own choice. A setting is judged by the time of a run when one thread asks
and when several ask at once, in equal parts (the geometric mean): threads that share out one operation
make a single answer faster and many at once slower. The measurements of all settings are made in turns, and
a default is left only for a clear gain: a tenth of the time in the median of the rounds, and some gain
in three rounds of four.

Where one number of threads is best for a caller who is alone and another one for several at once, a version
may be held twice, once with each (``crowd_session``): then runs are *crowded* that find as many in progress
as were measured together. It is held twice, too, where one thread is best for what was measured but larger
inputs, which may gain from all, take too long to be measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from inserve.tensorflow_c.interface import Executor

__all__ = [
    "LONGEST_CALLING_THREAD_RUN_S",
    "Alternative",
    "Sample",
    "Samples",
    "Setting",
    "SizeTuning",
    "Tuning",
    "TuningSource",
    "choose_crowded",
    "choose_executor",
    "choose_threads",
    "is_settled",
    "serves_lone_callers_alike",
    "tuning_from_dict",
    "tuning_to_dict",
]

TuningSource: TypeAlias = Literal["measured", "cached", "explicit", "default"]

LONGEST_CALLING_THREAD_RUN_S = 5e-3
"""Up to this a graph runs on the calling thread unless something else was measured to be faster:
TensorFlow's pool would start each operation on another core's cold cache. Beyond it nothing is gained,
and only runs on the pool can end at a deadline."""

_CLEAR_GAIN = 0.9
_AGREEING_ROUNDS = 0.75
_SIZES_SHOWN = 4
_LARGEST_LONE_LOSS = 1.05
"""So many times what it takes now may a run of a lone caller take, over all measured inputs."""

_LARGEST_LOSS = 1.5
"""A number of threads that makes any of the measured inputs dearer by this is not taken."""


class Setting(NamedTuple):
    """One way to run a graph."""

    executor: Executor
    intra_op_threads: int


class Sample(NamedTuple):
    """One round's figures of a setting, in seconds."""

    alone_s: float
    """A run when one thread asks."""
    together_s: float
    """Time by number of runs when several threads ask at once; *alone_s* where that was not tried."""

    @property
    def cost(self) -> float:
        return math.sqrt(self.alone_s * self.together_s)


Samples: TypeAlias = Mapping[Setting, Sequence[Sample]]
"""The figures of one input, round by round; every setting has as many."""


@dataclass(frozen=True)
class Alternative:
    """A setting that was measured: medians, in seconds."""

    executor: Executor
    intra_op_threads: int
    alone_s: float
    """A run when one thread asks."""
    together_s: float
    """Time by number of runs when ``Tuning.callers`` threads ask at once."""

    @property
    def setting(self) -> Setting:
        return Setting(self.executor, self.intra_op_threads)


@dataclass(frozen=True)
class SizeTuning:
    """What holds for inputs of about one size (in powers of two) of a signature."""

    signature: str
    rows: int | None
    """The first dimension of the inputs that were measured; None where they have none in common."""
    input_bytes: int
    executor: Executor
    """Where such runs are executed."""
    alternatives: tuple[Alternative, ...] = ()
    crowded: Setting | None = None
    """How they are executed when ``Tuning.callers`` of them are in progress; None: in no other way."""
    is_crowded_alone: bool = False
    """Whether *crowded* holds for a lone caller, too."""

    def chosen(self, intra_op_threads: int) -> Alternative | None:
        """Return the figures of what is in force with *intra_op_threads* for a lone caller."""
        if self.is_crowded_alone:
            return self.crowded_figures()
        return self._figures(Setting(self.executor, intra_op_threads))

    def crowded_figures(self) -> Alternative | None:
        """Return the figures of what is in force when runs are crowded."""
        return None if self.crowded is None else self._figures(self.crowded)

    def _figures(self, setting: Setting) -> Alternative | None:
        for alternative in self.alternatives:
            if alternative.setting == setting:
                return alternative
        return None


@dataclass(frozen=True)
class Tuning:
    """How a version is run, and why. ``str`` of it is a line for people."""

    source: TuningSource
    """``measured`` at this load; ``cached`` from an earlier one; ``explicit``, told by the user;
    ``default``, nothing could be measured."""
    intra_op_threads: int
    """Threads that share out one operation, unless runs are crowded; 0 where nobody knows."""
    sizes: tuple[SizeTuning, ...] = ()
    """What was measured; inputs of other sizes are placed by what runs have cost."""
    callers: int = 1
    """The threads that asked at once for ``Alternative.together_s``."""
    seconds: float = field(default=0.0, compare=False)
    """What the measuring took, a second load of the model included."""
    reason: str = ""
    """Why nothing, or not everything, was measured."""
    merged_rows: tuple[tuple[str, int], ...] = ()
    """How many rows of requests that come together may be one run of a signature, because a trial gave each
    row the bits that it has alone (``row_trial``); beside those signatures whose graph proves it."""

    def __str__(self) -> str:
        parts = [
            f"{self.source}: {_threads_text(self.intra_op_threads)}",
            *map(self._size_text, self.sizes[:_SIZES_SHOWN]),
        ]
        if len(self.sizes) > _SIZES_SHOWN:
            parts.append(f"{len(self.sizes) - _SIZES_SHOWN} more")
        parts += [f"{key} up to {rows} rows together" for key, rows in self.merged_rows]
        if self.source == "measured":
            parts.append(f"took {self.seconds:.2f} s")
        if self.reason:
            parts.append(self.reason)
        return "; ".join(parts)

    @property
    def is_for_two_sessions(self) -> bool:
        """Whether the version is held twice, so that crowded runs have other threads."""
        return any(size.crowded is not None for size in self.sizes)

    def _size_text(self, size: SizeTuning) -> str:
        rows = "" if size.rows is None else f" [{size.rows}]"
        chosen = size.chosen(self.intra_op_threads)
        if size.crowded is not None and size.is_crowded_alone:
            figure = "" if chosen is None else f" {chosen.alone_s * 1e3:.3g} ms"
            executor, threads = size.crowded
            return f"{size.signature}{rows} {_place(executor)} {_threads_text(threads)}{figure}"
        figure = "" if chosen is None else f" {chosen.alone_s * 1e3:.3g} ms"
        text = f"{size.signature}{rows} {_place(size.executor)}{figure}"
        if size.crowded is None:
            return text
        executor, threads = size.crowded
        crowded = size.crowded_figures()
        figure = "" if crowded is None else f" {crowded.together_s * 1e3:.3g} ms"
        return f"{text}, {self.callers} at once {_place(executor)} {_threads_text(threads)}{figure}"


def _threads_text(number: int) -> str:
    return f"{number or '?'} intra-op thread{'' if number == 1 else 's'}"


def _place(executor: Executor) -> str:
    return "calling thread" if executor is Executor.CALLING_THREAD else "pool"


def choose_executor(samples: Samples, intra_op_threads: int) -> Executor:
    """Return where to execute runs with *intra_op_threads*, of which one executor at least was measured."""
    measured = [setting for setting in samples if setting.intra_op_threads == intra_op_threads]
    if len(measured) == 1:
        return measured[0].executor
    pool = samples[Setting(Executor.POOL, intra_op_threads)]
    calling = samples[Setting(Executor.CALLING_THREAD, intra_op_threads)]
    default, other = Executor.CALLING_THREAD, Executor.POOL
    default_samples, other_samples = calling, pool
    if statistics.median(sample.alone_s for sample in calling) > LONGEST_CALLING_THREAD_RUN_S:
        default, other = other, default
        default_samples, other_samples = pool, calling
    ratios = [new.cost / old.cost for new, old in zip(other_samples, default_samples, strict=True)]
    return other if _is_clear_gain(ratios) else default


def choose_threads(inputs: Sequence[Samples], default: int) -> int:
    """Return the number of intra-op threads that is best for all *inputs* together, or *default*.

    Each input counts the same, with its best executor. What several callers gain is not taken from one
    who is alone. A number that an input was not measured with is out of the question.
    """
    best, best_median = default, 1.0
    numbers = [{setting.intra_op_threads for setting in samples} for samples in inputs]
    for threads in sorted(set.intersection(*numbers) - {default}):
        by_input = [list(_thread_ratios(samples, threads, default)) for samples in inputs]
        ratios = [statistics.geometric_mean(ratios) for ratios in zip(*by_input, strict=True)]
        loss = max(statistics.median(ratios) for ratios in by_input)
        lone = statistics.geometric_mean(_lone_ratio(samples, threads, default) for samples in inputs)
        if (
            _is_clear_gain(ratios)
            and loss < _LARGEST_LOSS
            and lone < _LARGEST_LONE_LOSS
            and statistics.median(ratios) < best_median
        ):
            best, best_median = threads, statistics.median(ratios)
    return best


def choose_crowded(samples: Samples, default: int) -> Setting | None:
    """Return the setting with other threads than *default* that is clearly better for several at once.

    None: there is none, or together with the pool for a lone caller it costs more than what holds otherwise.
    The two must not run on the same threads (``tuner.Tuner``), so a lone caller has to go to the pool, which
    shorter runs should not.
    """
    in_force = samples[Setting(choose_executor(samples, default), default)]
    if statistics.median(sample.alone_s for sample in in_force) <= LONGEST_CALLING_THREAD_RUN_S:
        return None
    pool = samples[Setting(Executor.POOL, default)]
    best: Setting | None = None
    best_median = 1.0
    for setting, crowded in samples.items():
        if setting.intra_op_threads == default or setting.executor is Executor.POOL:
            continue
        ratios = _together_ratios(crowded, in_force)
        costs = [
            Sample(alone.alone_s, new.together_s).cost / old.cost
            for alone, new, old in zip(pool, crowded, in_force, strict=True)
        ]
        median = statistics.median(ratios)
        if _is_clear_gain(ratios) and statistics.median(costs) < 1.0 and median < best_median:
            best, best_median = setting, median
    return best


def serves_lone_callers_alike(samples: Samples, threads: int, default: int) -> bool:
    """Return whether a caller who is alone gains nothing clear from *threads* instead of *default*."""
    return _lone_ratio(samples, threads, default) > _CLEAR_GAIN


def is_settled(inputs: Sequence[Samples], default: int, may_hold_two: bool = False) -> bool:
    """Return whether more rounds would hardly change a choice: in each comparison the rounds agree."""
    return all(
        all(ratio <= _CLEAR_GAIN for ratio in ratios) or all(ratio > _CLEAR_GAIN for ratio in ratios)
        for ratios in _comparisons(inputs, default, may_hold_two)
    )


def _comparisons(inputs: Sequence[Samples], default: int, may_hold_two: bool) -> Iterator[list[float]]:
    for samples in inputs:
        for threads in {setting.intra_op_threads for setting in samples}:
            pool = samples.get(Setting(Executor.POOL, threads))
            calling = samples.get(Setting(Executor.CALLING_THREAD, threads))
            if pool is not None and calling is not None:
                yield [new.cost / old.cost for new, old in zip(pool, calling, strict=True)]
            if threads != default:
                yield list(_thread_ratios(samples, threads, default))
        if may_hold_two:
            yield from _crowded_ratios(samples, default)


def _thread_ratios(samples: Samples, threads: int, default: int) -> Iterator[float]:
    new = samples[Setting(choose_executor(samples, threads), threads)]
    old = samples[Setting(choose_executor(samples, default), default)]
    return (a.cost / b.cost for a, b in zip(new, old, strict=True))


def _crowded_ratios(samples: Samples, default: int) -> Iterator[list[float]]:
    """Yield for each setting with other threads what several at once gain from it, round by round."""
    old = samples[Setting(choose_executor(samples, default), default)]
    for setting, new in samples.items():
        if setting.intra_op_threads != default:
            yield _together_ratios(new, old)


def _together_ratios(new: Sequence[Sample], old: Sequence[Sample]) -> list[float]:
    return [a.together_s / b.together_s for a, b in zip(new, old, strict=True)]


def _lone_ratio(samples: Samples, threads: int, default: int) -> float:
    """Return by how many times a run of one caller takes longer with *threads*."""
    new = samples[Setting(choose_executor(samples, threads), threads)]
    old = samples[Setting(choose_executor(samples, default), default)]
    return statistics.median(a.alone_s / b.alone_s for a, b in zip(new, old, strict=True))


def _is_clear_gain(ratios: Sequence[float]) -> bool:
    return statistics.median(ratios) <= _CLEAR_GAIN and sum(
        ratio < 1.0 for ratio in ratios
    ) >= _AGREEING_ROUNDS * len(ratios)


def tuning_to_dict(tuning: Tuning) -> dict[str, Any]:
    """Return *tuning* as JSON can hold it."""
    return {
        "source": tuning.source,
        "intra_op_threads": tuning.intra_op_threads,
        "merged_rows": dict(tuning.merged_rows),
        "callers": tuning.callers,
        "seconds": tuning.seconds,
        "reason": tuning.reason,
        "sizes": [
            {
                "signature": size.signature,
                "rows": size.rows,
                "input_bytes": size.input_bytes,
                "executor": size.executor.name,
                "crowded": size.crowded and [size.crowded.executor.name, size.crowded.intra_op_threads],
                "is_crowded_alone": size.is_crowded_alone,
                "alternatives": [
                    {
                        "executor": alternative.executor.name,
                        "intra_op_threads": alternative.intra_op_threads,
                        "alone_s": alternative.alone_s,
                        "together_s": alternative.together_s,
                    }
                    for alternative in size.alternatives
                ],
            }
            for size in tuning.sizes
        ],
    }


def tuning_from_dict(value: Any) -> Tuning:
    """Return the tuning that ``tuning_to_dict`` made *value* of.

    Raises:
        ValueError: *value* is something else.
    """
    try:
        return Tuning(
            source=_one_of(value["source"], ("measured", "cached", "explicit", "default")),
            intra_op_threads=_natural(value["intra_op_threads"]),
            merged_rows=tuple((str(key), _natural(rows)) for key, rows in value["merged_rows"].items()),
            callers=_natural(value["callers"]),
            seconds=_seconds(value["seconds"]),
            reason=str(value["reason"]),
            sizes=tuple(
                SizeTuning(
                    signature=str(size["signature"]),
                    rows=None if size["rows"] is None else _natural(size["rows"]),
                    input_bytes=_natural(size["input_bytes"]),
                    executor=Executor[size["executor"]],
                    crowded=None if size["crowded"] is None else _setting(*size["crowded"]),
                    is_crowded_alone=size["is_crowded_alone"] is True,
                    alternatives=tuple(
                        Alternative(
                            executor=Executor[alternative["executor"]],
                            intra_op_threads=_natural(alternative["intra_op_threads"]),
                            alone_s=_seconds(alternative["alone_s"]),
                            together_s=_seconds(alternative["together_s"]),
                        )
                        for alternative in size["alternatives"]
                    ),
                )
                for size in value["sizes"]
            ),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no tuning: {error!r}") from error


def _setting(executor: Any, intra_op_threads: Any) -> Setting:
    return Setting(Executor[executor], _natural(intra_op_threads))


def _one_of(value: Any, choices: tuple[TuningSource, ...]) -> TuningSource:
    for choice in choices:
        if choice == value:
            return choice
    raise ValueError(f"expected one of {', '.join(choices)}, got {value!r}")


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number of at least 0, got {value!r}")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0.0 <= value < math.inf:
        raise ValueError(f"expected seconds of at least 0, got {value!r}")
    return float(value)
