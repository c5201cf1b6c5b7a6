"""One loaded version of a SavedModel: its session, its signatures, and how they are run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any, TypeAlias

from numpy.typing import NDArray

from inserve.saved_model.crowd_session import CrowdModel, CrowdRuns
from inserve.saved_model.meta_graph import parse_meta_graph
from inserve.saved_model.row_wise import row_wise_signatures
from inserve.saved_model.row_wise_sums import RULES_OF_SUMS
from inserve.saved_model.run_cost import SHORT_RUN_S, RunCost
from inserve.saved_model.signature import Signature
from inserve.saved_model.tuning import Tuning
from inserve.tensorflow_c.interface import Executor, LoadedModel, Runner
from inserve.tensors.dtypes import DataType

__all__ = ["RunObserver", "SavedModelServable", "SignatureRun"]

RunObserver: TypeAlias = "Callable[[SignatureRun, Sequence[NDArray[Any]], float], None]"
"""Hears of a run that succeeded, what it ran on and its seconds, on the thread that ran it."""

_MAX_OUTPUT_CHOICES = 64
"""Choices of outputs that are kept prepared for one signature; others are prepared per request."""

_DEADLINE_MARGIN = 10.0
"""A run whose deadline is further away than this many times its cost needs no timer."""


_POOL_RUNS_BETWEEN_PROBES = 64
"""One in so many runs that belong in the pool by their cost is executed on the calling thread."""

_UNTIMED_RUNS = 7
"""How many short runs follow a timed one before the next is timed."""

_MOST_ROW_WISE_ROWS = 1024
_MOST_ROW_WISE_BYTES = 64 << 10
"""Kernels share out elements to TensorFlow's threads from some 100,000 on."""

_CALLING_THREAD = Executor.CALLING_THREAD
_POOL = Executor.POOL


_Feeds: TypeAlias = tuple[tuple[str, DataType], ...]
_TensorRuns: TypeAlias = "dict[tuple[_Feeds, tuple[str, ...]], SignatureRun]"


class SignatureRun:
    """One signature with one choice of outputs, ready to run.

    Runs that are not *is_predictable* take as long as the values they are given say: nothing that was
    measured tells how long the next one takes.

    *output_aliases* name the arrays that ``run`` returns, in order. The first run of it tells nothing
    of its cost: TensorFlow prunes the graph and builds the executor for these feeds and fetches.
    """

    __slots__ = (
        "_cost",
        "_estimate",
        "_is_predictable",
        "_most_merged_bytes",
        "_observe",
        "_on_calling_thread",
        "_pool_runs",
        "_run",
        "_runner",
        "_seconds_of_size",
        "_untimed_runs",
        "_would_wait",
        "is_row_wise",
        "may_merge",
        "most_merged_rows",
        "output_aliases",
        "signature",
    )

    def __init__(
        self,
        runner: Runner,
        output_aliases: tuple[str, ...],
        cost: RunCost,
        signature: Signature | None = None,
        is_predictable: bool = True,
    ) -> None:
        self.signature = signature
        """The signature that ``run`` runs; None for a run of tensors by name."""
        self.may_merge = True
        """Whether rows of several requests may be one run; not once its outputs were seen to lack rows."""
        self.is_row_wise = False
        """Whether rows of several requests may be one run, ``run_row_wise``, although nobody asked for
        batches: the graph proves it, or a trial has found so; see ``row_wise`` and ``row_trial``."""
        self.most_merged_rows = 0
        """How many rows such a run may have."""
        self._most_merged_bytes = 0
        self._is_predictable = is_predictable
        self._runner = runner
        self._run = runner.run
        self._cost = cost
        self._would_wait: Callable[[], bool] | None = getattr(runner, "would_wait", None)
        self._estimate = cost.estimate_s
        self._seconds_of_size = cost.seconds_of_size
        self._on_calling_thread = cost.on_calling_thread.get
        self._untimed_runs = 0
        self._pool_runs = 0
        self._observe: Callable[[int, float], bool] = self._pass_over_first_run
        self.output_aliases = output_aliases

    def is_short(self, arrays: Sequence[NDArray[Any]]) -> bool:
        """Return whether runs with inputs of this size are known to be short, and wait for no others."""
        if not self._is_predictable or (self._would_wait is not None and self._would_wait()):
            return False
        size = 0
        for array in arrays:
            size += array.nbytes
        seconds = self._seconds_of_size(size.bit_length())
        return seconds is not None and seconds <= SHORT_RUN_S

    def is_long(self, arrays: Sequence[NDArray[Any]]) -> bool:
        """Return whether runs with inputs of this size are known not to be short."""
        seconds = self._estimate(sum(array.nbytes for array in arrays))
        return seconds is not None and seconds > SHORT_RUN_S

    def run(self, arrays: Sequence[NDArray[Any]], timeout_s: float | None = None) -> list[NDArray[Any]]:
        """Run the graph on *arrays*, which stand in the order of the signature's inputs.

        They must have passed ``Signature.check``. A run known to take a few milliseconds at most, or
        for which it was measured to be faster, executes on the calling thread; TensorFlow cannot end
        such a run, so one whose deadline is near goes to its pool.

        Raises:
            InserveError: What TensorFlow said.
        """
        size = 0
        for array in arrays:
            size += array.nbytes
        seconds = self._on_calling_thread(size.bit_length())
        if seconds is not None and (
            timeout_s is None or (self._is_predictable and timeout_s > _DEADLINE_MARGIN * seconds)
        ):
            # The deadline counts while a run waits to be batched, if it is.
            if self._untimed_runs:
                self._untimed_runs -= 1
                return self._run(arrays, timeout_s, _CALLING_THREAD)
            self._untimed_runs = _UNTIMED_RUNS
            started = perf_counter()
            outputs = self._run(arrays, timeout_s, _CALLING_THREAD)
        else:
            executor = self._probing(size, timeout_s)
            started = perf_counter()
            outputs = self._run(arrays, timeout_s, executor)
        if self._observe(size, perf_counter() - started):
            self._untimed_runs = 0
        return outputs

    def run_in_trial(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph on the calling thread, whatever that takes.

        Raises:
            InserveError: What TensorFlow said.
        """
        return self._run(arrays, None, _CALLING_THREAD)

    def merge(self, most_rows: int, most_bytes: int) -> None:
        """Let ``run_row_wise`` have so many rows and bytes."""
        self.is_row_wise = True
        self.most_merged_rows, self._most_merged_bytes = most_rows, most_bytes

    def run_row_wise(
        self, rows: Sequence[int], merged: Sequence[NDArray[Any]], limit_s: float | None
    ) -> list[NDArray[Any]] | None:
        """Return the outputs of several requests in one run of *merged*, which has all their rows in order.

        *rows* says how many each request has, at least one. None where some might have other bits than
        alone: TensorFlow takes denormal numbers for zero on its own threads, so all must belong on the
        calling thread, and be too few to be shared out to others. None also where *limit_s*, seconds until
        the nearest deadline, may not be enough.

        Raises:
            InserveError: What TensorFlow said.
        """
        size = 0
        for array in merged:
            size += array.nbytes
        if size > self._most_merged_bytes:
            return None
        total = sum(rows)
        seconds = 0.0
        for own in rows:
            own_s = self._on_calling_thread((size * own // total).bit_length())
            if own_s is None:
                return None
            seconds += own_s
        known_s = self._seconds_of_size(size.bit_length())
        if known_s is not None and known_s < seconds:
            seconds = known_s
        if seconds > SHORT_RUN_S or (limit_s is not None and limit_s <= _DEADLINE_MARGIN * seconds):
            return None
        return self._run(merged, None, _CALLING_THREAD)

    def _probing(self, size: int, timeout_s: float | None) -> Executor:
        """Return the pool, and now and then the calling thread.

        In the pool a run waits behind others, and a signature that a busy moment has sent there would never
        learn that its runs are short.
        """
        self._pool_runs += 1
        if self._pool_runs % _POOL_RUNS_BETWEEN_PROBES or not self._cost.may_be_on_calling_thread(size):
            return _POOL
        known = self._estimate(size)
        if known is None or not self._is_predictable:
            return _POOL
        if timeout_s is not None and timeout_s <= _DEADLINE_MARGIN * known:
            return _POOL
        return _CALLING_THREAD

    def settle_cost(self, arrays: Sequence[NDArray[Any]], seconds: float) -> None:
        """Take *seconds* for what a run with inputs of this size takes, whatever was seen before."""
        self._cost.settle(sum(array.nbytes for array in arrays), seconds)

    def tell(self, observer: RunObserver | None) -> None:
        """Let *observer* hear of each run from now on; None: nobody."""
        run = self._runner.run
        if observer is None:
            self._run = run
            return

        def observed(
            arrays: Sequence[NDArray[Any]], timeout_s: float | None = None, executor: Executor = _POOL
        ) -> list[NDArray[Any]]:
            started = perf_counter()
            outputs = run(arrays, timeout_s, executor)
            observer(self, arrays, perf_counter() - started)
            return outputs

        self._run = observed

    def _pass_over_first_run(self, input_bytes: int, seconds: float) -> bool:
        del input_bytes, seconds
        self._observe = self._cost.observe
        return False


class SavedModelServable:
    """A version of a model in memory; any number of threads may use it at once.

    *check_shapes* makes ``SignatureRun`` inputs subject to the shapes the signature states. *merge_row_wise*
    lets callers run requests that they have at the same time as one, where the graph proves that each has the
    same answer as alone; for models on processors, run by TensorFlow's own kernels.
    """

    def __init__(self, model: LoadedModel, check_shapes: bool = True, merge_row_wise: bool = False) -> None:
        meta_graph = parse_meta_graph(model.meta_graph_def)
        self.signatures: Mapping[str, Signature] = meta_graph.signatures
        self.signature_def_map: bytes = meta_graph.signature_def_map
        """Serialized ``tensorflow.serving.SignatureDefMap`` with every signature, complete."""
        self.check_shapes = check_shapes or meta_graph.needs_checked_shapes
        self.is_fragile = meta_graph.needs_checked_shapes
        """Whether the graph has operations that end the process over some inputs of a wrong shape."""
        self._model = model
        self._runs: dict[tuple[str, tuple[str, ...]], SignatureRun] = {}
        self._runs_of_all_outputs: dict[str, SignatureRun] = {}
        self._is_predictable = not meta_graph.has_loops
        self._row_wise: frozenset[str] = frozenset()
        self._tried_rows: dict[str, int] = {}
        """By signatures whose rows are kept apart, but may have other bits in company: how many rows were
        found to have the same."""
        # Where a model is batched its options say what may be merged.
        if merge_row_wise and self.check_shapes and self._is_predictable and not hasattr(model, "row_limit"):
            graph = meta_graph.small_graph
            self._row_wise = row_wise_signatures(graph, self.signatures)
            others = {key: one for key, one in self.signatures.items() if key not in self._row_wise}
            self._tried_rows = dict.fromkeys(row_wise_signatures(graph, others, RULES_OF_SUMS), 0)
        self._tensor_runs: _TensorRuns = {}
        self._string_runs: _TensorRuns = {}
        """Kept apart: callers choose the others, and could leave no place for these."""
        self._costs = {key: RunCost() for key in self.signatures}
        self._observer: RunObserver | None = None
        self._tuning = Tuning("default", 0, reason="not measured")

    def __repr__(self) -> str:
        return f"<SavedModelServable signatures: {', '.join(sorted(self.signatures))}>"

    @property
    def model(self) -> LoadedModel:
        """The session and the graph, owned by this object."""
        return self._model

    @property
    def row_limit(self) -> int:
        """The most rows of several requests that whoever has them may merge; 0: none may be merged."""
        limit: int = getattr(self._model, "row_limit", 0)
        return limit

    @property
    def tuning(self) -> Tuning:
        """How this version is run, and the figures behind it."""
        return self._tuning

    def apply_tuning(self, tuning: Tuning) -> None:
        """Place runs as *tuning* says; its intra-op threads are a matter of how the model was loaded."""
        self._tuning = tuning
        for size in tuning.sizes:
            cost = self._costs.get(size.signature)
            chosen = size.chosen(tuning.intra_op_threads)
            if cost is not None and chosen is not None:
                cost.choose(size.input_bytes, size.executor, chosen.alone_s)
                if tuning.source == "measured":
                    cost.settle(size.input_bytes, chosen.alone_s)

    @property
    def num_sessions(self) -> int:
        """How many times the graph and its variables are in memory, replicas aside."""
        return 2 if isinstance(self._model, CrowdModel) else 1

    def hold_beside(self, together: SavedModelServable, tuning: Tuning) -> None:
        """Let *together*, the same version with other threads, have the crowded runs of *tuning*.

        It is owned from now on. For the thread that loads, before others use either.
        """
        self._model = CrowdModel(self._model, together.model, tuning.callers, self._crowd_runs(tuning))
        prepared = list(self._runs)
        for kept in (self._runs, self._runs_of_all_outputs, self._tensor_runs, self._string_runs):
            kept.clear()
        for key, output_filter in prepared:
            self.signature_run(self.signatures[key], output_filter)

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Run everything as if it were crowded inside, where ``hold_beside`` was called: for warm-up."""
        with self._model.session.crowded() if isinstance(self._model, CrowdModel) else nullcontext():
            yield

    def _crowd_runs(self, tuning: Tuning) -> dict[frozenset[str], CrowdRuns]:
        """Return the crowded runs by the tensors that they feed, up to a power of two."""
        found: dict[frozenset[str], CrowdRuns] = {}
        for size in tuning.sizes:
            signature, figures = self.signatures.get(size.signature), size.crowded_figures()
            if signature is None or figures is None:
                continue
            feeds = frozenset(spec.tensor_name for spec in signature.inputs.values())
            most_bytes = (1 << size.input_bytes.bit_length()) - 1
            runs = CrowdRuns(most_bytes, figures.executor, figures.alone_s, size.is_crowded_alone)
            known = found.get(feeds)
            if known is None or known.most_bytes < runs.most_bytes:
                found[feeds] = runs
        return found

    @property
    def mergeable(self) -> frozenset[str]:
        """The signatures whose requests may be one run where a trial finds the same bits."""
        return frozenset(self._tried_rows)

    def merge_rows(self, key: str, most_rows: int) -> None:
        """Let requests for all outputs of the *mergeable* signature *key* be one run of so many rows.

        A trial has found that each row has the bits that it has alone, on one thread.
        """
        self._tried_rows[key] = most_rows
        run = self._runs_of_all_outputs.get(key)
        if run is not None:
            run.merge(most_rows, sys.maxsize)

    @contextmanager
    def observed_runs(self, observer: RunObserver) -> Iterator[None]:
        """Let *observer* hear of every run of a signature that happens inside; for one thread."""
        self._observer = observer
        for run in self._runs.values():
            run.tell(observer)
        try:
            yield
        finally:
            self._observer = None
            for run in self._runs.values():
                run.tell(None)

    def prepared_run(self, signature_key: str, output_filter: Sequence[str]) -> SignatureRun | None:
        """Return what ``signature_run`` has prepared for these, None if that was not called or kept."""
        if not output_filter:
            return self._runs_of_all_outputs.get(signature_key)
        return self._runs.get((signature_key, tuple(output_filter)))

    def signature_run(self, signature: Signature, output_filter: Sequence[str]) -> SignatureRun:
        """Return *signature* prepared for the outputs that *output_filter* names (all if empty).

        Raises:
            InvalidArgumentError: The filter names no output, or one twice.
            InserveError: The graph lacks a tensor that the signature names.
        """
        key = (signature.key, tuple(output_filter))
        run = self._runs.get(key)
        if run is None:
            aliases = signature.choose_outputs(output_filter)
            runner = self._model.session.runner(
                [(spec.tensor_name, DataType(spec.data_type)) for spec in signature.inputs.values()],
                [signature.outputs[alias].tensor_name for alias in aliases],
            )
            run = SignatureRun(runner, aliases, self._costs[signature.key], signature, self._is_predictable)
            if signature.key in self._row_wise:
                run.merge(_MOST_ROW_WISE_ROWS, _MOST_ROW_WISE_BYTES)
            elif not output_filter and self._tried_rows.get(signature.key):
                run.merge(self._tried_rows[signature.key], sys.maxsize)
            if self._observer is not None:
                run.tell(self._observer)
            if not output_filter:
                self._runs_of_all_outputs[signature.key] = run
            if len(self._runs) < _MAX_OUTPUT_CHOICES * len(self.signatures):
                self._runs[key] = run
        return run

    def run_of_tensors(self, feeds: _Feeds, fetches: tuple[str, ...]) -> SignatureRun:
        """Return a run that feeds and fetches tensors by their names in the graph, ``operation:index``.

        Its ``output_aliases`` are *fetches*; its cost is its own. Nothing of what it is fed is checked:
        shapes that a kernel cannot take may end the process (``is_fragile``).

        Raises:
            InvalidArgumentError: The graph lacks one of the tensors, a feed has another type there, or
                no array can have the type of a tensor.
            FailedPreconditionError: The version is closed.
        """
        if isinstance(self._model, CrowdModel):
            # It may change a variable, in one of two sessions.
            self._model.session.is_given_up = True
        return self._prepared(self._tensor_runs, feeds, fetches)

    def tensor_run(self, string_feeds: tuple[str, ...], fetches: tuple[str, ...]) -> SignatureRun:
        """Return ``run_of_tensors`` where every feed is a tensor of strings.

        Raises:
            InserveError: As ``run_of_tensors``.
        """
        feeds = tuple((name, DataType.DT_STRING) for name in string_feeds)
        return self._prepared(self._string_runs, feeds, fetches)

    def _prepared(self, kept: _TensorRuns, feeds: _Feeds, fetches: tuple[str, ...]) -> SignatureRun:
        run = kept.get((feeds, fetches))
        if run is None:
            runner = self._model.session.runner(feeds, fetches)
            run = SignatureRun(runner, fetches, RunCost(), is_predictable=self._is_predictable)
            if len(kept) < _MAX_OUTPUT_CHOICES:
                kept[feeds, fetches] = run
        return run

    def close(self) -> None:
        """Free the session once no run is in progress; more calls do nothing."""
        self._model.close()
