"""Loads a version so that it runs fast: measures how, or does what an earlier measurement found.

Executors are tried on one session. Another number of intra-op threads needs a second one, which is loaded
beside the first only where that is quick and small. In the end one of the two is closed, or both are kept
where crowded runs want other threads (``crowd_session``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError

from inserve.errors import InserveError
from inserve.protos import messages
from inserve.saved_model.row_trial import most_rows_alike, trial_rows
from inserve.saved_model.run_cost import SHORT_RUN_S
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.tuner import MeasuredInput, Tuner
from inserve.saved_model.tuning import Tuning
from inserve.saved_model.tuning_cache import TuningCache, machine_text, model_digest
from inserve.saved_model.unnoticed_signatures import unnoticed_signatures
from inserve.tensorflow_c.interface import Runner, Session
from inserve.tensorflow_c.session_options import intra_op_threads, with_intra_op_threads
from inserve.tensorflow_c.usable_cpus import usable_cpus
from inserve.tensors.dtypes import DataType

__all__ = [
    "MAX_SECOND_LOAD_BYTES",
    "OpenVersion",
    "TunedLoad",
    "names_threads",
]

MAX_SECOND_LOAD_BYTES = 256 << 20
"""Versions with larger files are not in memory twice for the sake of a measurement."""

_LOAD_BUDGETS = 5.0
"""A network of 1.5 s still counts, with what TensorFlow's first load in a process takes besides."""

_MOST_CALLERS = 4

_RUNS_TO_TIME = 3
_SHARE_OF_SHORT = 0.5
"""Requests are one run only where that takes much less than may hold up an event loop."""

_Result = TypeVar("_Result")

_LOGGER = logging.getLogger("inserve.saved_model")


class OpenVersion(Protocol):
    """How the version is brought into memory."""

    def open(self, config: bytes) -> SavedModelServable:
        """Load it with a serialized ConfigProto.

        Raises:
            InserveError: What TensorFlow said.
        """
        ...

    def warm_up(self, servable: SavedModelServable) -> Sequence[MeasuredInput]:
        """Warm up; return what signatures may be run on without anybody noticing.

        Raises:
            InserveError: What a recorded request failed with.
        """
        ...


def names_threads(config: bytes) -> bool:
    """Return whether the serialized ``ConfigProto`` *config* says anything about threads."""
    try:
        proto = messages.ConfigProto.FromString(config)
    except DecodeError:
        return True  # the load says what is wrong
    return bool(
        proto.intra_op_parallelism_threads
        or proto.inter_op_parallelism_threads
        or proto.use_per_session_threads
        or proto.session_inter_op_thread_pool
    )


class TunedLoad:
    """One load of the version in *path* with *config* and meta graph *tags*.

    *version_bytes* tells the size of its files. *measure_anew* uses no tuning of an earlier load. If it is
    no larger than *held_twice_bytes* and no signature leaves a trace, it may stay in memory twice. *budget_s*
    bounds the measuring; a second session is made only where the first was loaded within five times that.
    With *merges_rows* trials find out which requests may be one run. Tunings are remembered apart for
    other *devices*. *num_cpus* is what the process may use, by default what the system says.
    """

    def __init__(
        self,
        path: str,
        version: OpenVersion,
        *,
        config: bytes,
        tags: Sequence[str],
        budget_s: float,
        cache: TuningCache | None,
        version_bytes: Callable[[], int],
        measure_anew: bool = False,
        held_twice_bytes: int = 0,
        merges_rows: bool = False,
        devices: str = "",
        num_cpus: int | None = None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self._path = path
        self._version = version
        self._config = config
        self._tags = tags
        self._cache = cache
        self._version_bytes = version_bytes
        self._measure_anew = measure_anew
        self._held_twice_bytes = held_twice_bytes
        self._merges_rows = merges_rows
        self._devices = devices
        self._num_cpus = usable_cpus() if num_cpus is None else num_cpus
        self._budget_s = budget_s
        self._longest_load_s = _LOAD_BUDGETS * budget_s
        self._tuner = Tuner(min(self._num_cpus, _MOST_CALLERS), budget_s, now)
        self._now = now

    def load(self) -> SavedModelServable:
        """Return the servable, warmed up, with its tuning applied.

        Raises:
            InserveError: What the load or a recorded request failed with.
        """
        if names_threads(self._config):
            threads = intra_op_threads(self._config) or self._num_cpus
            tuning = Tuning("explicit", threads, reason="the session config names threads")
            return self._opened(self._config, tuning)
        key = self._key() if self._cache is not None else None
        if self._cache is not None and key is not None and not self._measure_anew:
            cached = self._cache.get(key)
            if cached is not None:
                tuning = replace(cached, source="cached")
                servable = self._opened(self._config_with(tuning.intra_op_threads), tuning)
                _LOGGER.info("%s: %s", self._path, servable.tuning)
                return servable
        servable = self._measured()
        if servable.tuning.source == "measured":
            if self._cache is not None and key is not None:
                self._cache.put(key, servable.tuning)
            _LOGGER.info("%s: %s", self._path, servable.tuning)
        return servable

    def _opened(self, config: bytes, tuning: Tuning) -> SavedModelServable:
        servable = self._version.open(config)
        try:
            self._version.warm_up(servable)
            servable.apply_tuning(tuning)
            if tuning.is_for_two_sessions:
                self._hold_second_beside(servable, tuning)
            for key, rows in tuning.merged_rows:
                self._merge_rows(servable, key, rows)
        except BaseException:
            servable.close()
            raise
        return servable

    def _hold_second_beside(self, servable: SavedModelServable, tuning: Tuning) -> None:
        try:
            second = self._version.open(self._config_with(1))
        except InserveError as error:
            sizes = tuple(replace(size, crowded=None, is_crowded_alone=False) for size in tuning.sizes)
            reason = f"a second load failed: {error.message}"
            servable.apply_tuning(replace(tuning, sizes=sizes, reason=reason))
            return
        servable.hold_beside(second, tuning)
        with servable.crowded():
            _on_a_thread_of_its_own(lambda: self._version.warm_up(servable))

    def _measured(self) -> SavedModelServable:
        started = self._now()
        first = self._version.open(self._config)
        load_s = self._now() - started
        second: SavedModelServable | None = None
        kept: SavedModelServable | None = None
        try:
            inputs = _on_a_thread_of_its_own(lambda: self._version.warm_up(first))
            session = _session_to_tune(first)
            if session is None or not inputs:
                reason = "no inputs to measure with" if session is not None else "not a TensorFlow session"
                kept = self._as_default(first, reason)
                return kept
            started = self._now()
            slow = {given.signature for given in inputs if not self._tuner.fits(given, 1)}
            runners = [
                (given, _runner(first, session, given)) for given in inputs if given.signature not in slow
            ]
            reason = self._reason_against_second(load_s, runners)
            second = self._second() if not reason else None
            choices = [(given, self._choices(given, runner, second)) for given, runner in runners]
            may_hold_two = second is not None and self._is_small() and _leaves_no_trace(first)
            tuning = self._tuner.measure(choices, self._num_cpus, may_hold_two, is_all=not slow)
            seconds = self._now() - started
            if tuning is None:
                kept = self._as_default(first, reason or "the time did not suffice", seconds)
                return kept
            if second is not None and tuning.intra_op_threads != self._num_cpus:
                self._version.warm_up(second)
                kept = second
            else:
                kept = first
                if second is not None and tuning.is_for_two_sessions:
                    first.hold_beside(second, tuning)
                    second = None
            kept.apply_tuning(replace(tuning, seconds=seconds, reason=reason))
            self._try_rows(kept)
            return kept
        finally:
            for servable in (first, second):
                if servable is not None and servable is not kept:
                    servable.close()

    def _try_rows(self, servable: SavedModelServable) -> None:
        """Find out of which signatures requests that come together may be one run, and let them be.

        Only on one intra-op thread: TensorFlow takes denormal numbers for zero on others.
        """
        tuning = servable.tuning
        if not self._merges_rows or tuning.intra_op_threads != 1:
            return
        found: dict[str, int] = {}
        for key in sorted(servable.mergeable):
            rows = trial_rows(servable.signatures[key])
            run = servable.signature_run(servable.signatures[key], ())
            if rows is None or not run.is_short([array[:1] for array in rows]):
                continue
            most = most_rows_alike(run.run_in_trial, rows, self._budget_s, self._now)
            if most > 1 and self._merge_rows(servable, key, most):
                found[key] = most
        servable.apply_tuning(replace(tuning, merged_rows=tuple(found.items())))

    def _merge_rows(self, servable: SavedModelServable, key: str, most_rows: int) -> bool:
        """Let requests of a signature be one run of as many rows as take a short time; return whether any."""
        rows = trial_rows(servable.signatures[key]) if key in servable.mergeable else None
        if rows is None:
            return False
        run = servable.signature_run(servable.signatures[key], ())
        allowed = 0
        number = 2
        while number <= most_rows:
            arrays = [array[:number] for array in rows]
            seconds = []
            for _ in range(_RUNS_TO_TIME):
                started = self._now()
                try:
                    run.run_in_trial(arrays)
                except InserveError:
                    return False
                seconds.append(self._now() - started)
            if min(seconds) > SHORT_RUN_S * _SHARE_OF_SHORT:
                break
            run.settle_cost(arrays, min(seconds))
            allowed = most_rows if 2 * number > most_rows else number
            number *= 2
        if allowed:
            servable.merge_rows(key, allowed)
        return allowed > 0

    def _as_default(
        self, servable: SavedModelServable, reason: str, seconds: float = 0.0
    ) -> SavedModelServable:
        servable.apply_tuning(Tuning("default", self._num_cpus, seconds=seconds, reason=reason))
        return servable

    def _reason_against_second(self, load_s: float, runners: Sequence[tuple[MeasuredInput, Runner]]) -> str:
        if self._num_cpus == 1:
            return "one processor"
        if load_s > self._longest_load_s:
            return "too slow for a second load"
        if self._version_bytes() > MAX_SECOND_LOAD_BYTES:
            return "too large for a second load"
        if not any(self._tuner.fits(given, 2) for given, _ in runners):
            return "runs take too long to be measured"
        if not any(self._tuner.is_worth_sharing(runner, given) for given, runner in runners):
            return "runs are too short to be shared out"
        return ""

    def _is_small(self) -> bool:
        return self._held_twice_bytes > 0 and self._version_bytes() <= self._held_twice_bytes

    def _second(self) -> SavedModelServable | None:
        try:
            return self._version.open(self._config_with(1))
        except InserveError as error:
            _LOGGER.debug("%s: a second load failed: %s", self._path, error)
            return None

    def _choices(
        self, given: MeasuredInput, runner: Runner, second: SavedModelServable | None
    ) -> dict[int, Runner]:
        choices = {self._num_cpus: runner}
        session = None if second is None else _session_to_tune(second)
        if second is not None and session is not None:
            choices[1] = _runner(second, session, given)
        return choices

    def _config_with(self, threads: int) -> bytes:
        """Return the config for *threads*; for all processors the shared pool of the process will do."""
        return self._config if threads == self._num_cpus else with_intra_op_threads(self._config, threads)

    def _key(self) -> str | None:
        with suppress(OSError):
            parts = [
                model_digest(self._path),
                machine_text(),
                str(self._num_cpus),
                self._config.hex(),
                self._devices,
                "two" if self._is_small() else "one",
                "merged" if self._merges_rows else "apart",
            ]
            return hashlib.blake2b("|".join([*parts, *self._tags]).encode(), digest_size=16).hexdigest()
        return None


def _on_a_thread_of_its_own(work: Callable[[], _Result]) -> _Result:
    """Return what *work* does on a thread that ends with it.

    What oneDNN prepares there for one number of intra-op threads is not in the way of another; see ``Tuner``.
    """
    with ThreadPoolExecutor(1, "inserve-load") as thread:
        return thread.submit(work).result()


def _leaves_no_trace(servable: SavedModelServable) -> bool:
    """Return whether no signature changes anything, so that two sessions stay the same."""
    signatures = servable.signatures.values()
    return len(unnoticed_signatures(servable.model.meta_graph_def, signatures)) == len(signatures)


def _session_to_tune(servable: SavedModelServable) -> Session | None:
    """Return the session whose runs can be placed; see ``interface.LoadedModel``."""
    model = servable.model
    session: Session | None = getattr(model, "tunable_session", model.session)
    return session


def _runner(servable: SavedModelServable, session: Session, given: MeasuredInput) -> Runner:
    signature = servable.signatures[given.signature]
    return session.runner(
        [(spec.tensor_name, DataType(spec.data_type)) for spec in signature.inputs.values()],
        [signature.outputs[alias].tensor_name for alias in given.output_aliases],
    )
