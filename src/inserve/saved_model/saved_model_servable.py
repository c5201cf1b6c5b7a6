"""One loaded version of a SavedModel: its session, its signatures, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from inserve.saved_model.meta_graph import parse_meta_graph
from inserve.saved_model.run_cost import SHORT_RUN_S, RunCost
from inserve.saved_model.signature import Signature
from inserve.tensorflow_c.interface import Executor, LoadedModel, Runner
from inserve.tensors.dtypes import DataType

__all__ = ["SavedModelServable", "SignatureRun"]

_MAX_OUTPUT_CHOICES = 64
"""Choices of outputs that are kept prepared for one signature; others are prepared per request."""

_DEADLINE_MARGIN = 10.0
"""A run whose deadline is further away than this many times its cost needs no timer."""


class SignatureRun:
    """One signature with one choice of outputs, ready to run.

    *output_aliases* name the arrays that ``run`` returns, in order.
    """

    __slots__ = ("_cost", "_runner", "output_aliases")

    def __init__(self, runner: Runner, output_aliases: tuple[str, ...], cost: RunCost) -> None:
        self._runner = runner
        self._cost = cost
        self.output_aliases = output_aliases

    def is_short(self, arrays: Sequence[NDArray[Any]]) -> bool:
        """Return whether runs with inputs of this size are known to be short."""
        seconds = self._cost.estimate_s(sum(array.nbytes for array in arrays))
        return seconds is not None and seconds <= SHORT_RUN_S

    def run(self, arrays: Sequence[NDArray[Any]], timeout_s: float | None = None) -> list[NDArray[Any]]:
        """Run the graph on *arrays*, which stand in the order of the signature's inputs.

        They must have passed ``Signature.check``. A run known to be short executes on the calling
        thread; TensorFlow cannot end such a run, so one whose deadline is near goes to its pool.

        Raises:
            InserveError: What TensorFlow said.
        """
        size = 0
        for array in arrays:
            size += array.nbytes
        seconds = self._cost.estimate_s(size)
        inline = (
            seconds is not None
            and seconds <= SHORT_RUN_S
            and (timeout_s is None or timeout_s > _DEADLINE_MARGIN * seconds)
        )
        started = perf_counter()
        if inline:
            outputs = self._runner.run(arrays, None, Executor.CALLING_THREAD)
        else:
            outputs = self._runner.run(arrays, timeout_s, Executor.POOL)
        self._cost.observe(size, perf_counter() - started)
        return outputs


class SavedModelServable:
    """A version of a model in memory; any number of threads may use it at once.

    *check_shapes* makes ``SignatureRun`` inputs subject to the shapes the signature states.
    """

    def __init__(self, model: LoadedModel, check_shapes: bool = True) -> None:
        meta_graph = parse_meta_graph(model.meta_graph_def)
        self.signatures: Mapping[str, Signature] = meta_graph.signatures
        self.signature_def_map: bytes = meta_graph.signature_def_map
        """Serialized ``tensorflow.serving.SignatureDefMap`` with every signature, complete."""
        self.check_shapes = check_shapes or meta_graph.needs_checked_shapes
        self._model = model
        self._runs: dict[tuple[str, tuple[str, ...]], SignatureRun] = {}
        self._costs = {key: RunCost() for key in self.signatures}

    def __repr__(self) -> str:
        return f"<SavedModelServable signatures: {', '.join(sorted(self.signatures))}>"

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
            run = SignatureRun(runner, aliases, self._costs[signature.key])
            if len(self._runs) < _MAX_OUTPUT_CHOICES * len(self.signatures):
                self._runs[key] = run
        return run

    def close(self) -> None:
        """Free the session once no run is in progress; more calls do nothing."""
        self._model.close()
