"""Predict requests that arrive together: those that ask one model for the same are one run of it.

Only where the rows of requests may be merged at all: where the model is batched, and where its graph proves
that every row has the answer that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inserve.errors import InserveError
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec, ServableFinder
from inserve.handlers.predict import decode_input
from inserve.handlers.predict_codec import (
    PredictCall,
    decode_predict_request,
    encode_predict_response,
)
from inserve.handlers.request_tap import RequestTap
from inserve.lifecycle.servable_handle import ServableHandle
from inserve.metrics.request_record import RequestRecord
from inserve.saved_model.saved_model_servable import SavedModelServable, SignatureRun
from inserve.saved_model.signature import Signature

__all__ = ["FEWEST_TOGETHER", "Answered", "PredictTogether", "RanTogether"]

FEWEST_TOGETHER = 3
"""Two requests are answered sooner one after the other."""

_DECLINED_BETWEEN_TRIES = 32


class Answered(NamedTuple):
    """A request that was answered together with others."""

    answer: bytes
    """The serialized response."""
    record: RequestRecord


class RanTogether(NamedTuple):
    """Requests that were one run."""

    aliases: tuple[str, ...]
    outputs: list[list[NDArray[Any]]]
    """Of each request: its rows of the outputs, in the order of *aliases*."""
    version: int
    signature_name: str
    run_s: float
    """Seconds that the run took."""


class _Member(NamedTuple):
    """A request that may be merged with others."""

    number: int
    arrays: list[NDArray[Any]]
    rows: int


_Group: TypeAlias = "list[tuple[int, PredictCall]]"


class PredictTogether:
    """Answers requests that have company, on a thread that must stay free; called by many threads.

    *as_content* and *tap* are those of the ``PredictHandler`` that answers the others.
    """

    def __init__(self, finder: ServableFinder, as_content: bool, tap: RequestTap) -> None:
        self._find = finder.find
        self._as_content = as_content
        self._tap = tap
        self._num_declined = 0

    def answer(
        self, requests: Sequence[bytes], timeouts_s: Sequence[float | None]
    ) -> Sequence[Answered | None]:
        """Return what becomes of each of *requests*, in their order; *timeouts_s* count from now.

        None for those that are to be answered alone: they have no company, or something is wrong with them,
        or a run that held them failed.
        """
        answers: list[Answered | None] = [None] * len(requests)
        if len(requests) < FEWEST_TOGETHER or self._tap.listeners or not self._may_merge(requests[0]):
            return answers
        for group in _groups(requests):
            self._answer_group(group, timeouts_s, answers)
        return answers

    def most_rows(self, spec: ModelSpec) -> int:
        """Return how many rows ``run_bound`` may take for *spec*; below 2 there is no sense in asking it."""
        try:
            with self._find(spec) as handle:
                run = handle.servable.prepared_run(spec.signature_name or DEFAULT_SIGNATURE_NAME, ())
                return 0 if run is None or not run.may_merge else _row_limit(handle.servable, run)
        except InserveError:
            return 0

    def run_bound(
        self,
        spec: ModelSpec,
        bind: Callable[[Signature], tuple[Mapping[str, NDArray[Any]], Sequence[int]] | None],
        timeout_s: float | None,
    ) -> RanTogether | None:
        """Run requests that all ask for the outputs of the signature that *spec* names, as one.

        *bind* returns the rows of all of them, one request behind the other, by alias and of the
        signature's dtypes, and how many rows each has; None, or what does not fit the signature: they are
        to be answered alone. So they are where this returns None.
        """
        if self._tap.listeners:
            return None
        try:
            handle = self._find(spec)
        except InserveError:
            return None
        try:
            servable = handle.servable
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME
            run = servable.prepared_run(signature_name, ())
            if run is None or run.signature is None or not run.may_merge:
                return None
            limit = _row_limit(servable, run)
            bound = bind(run.signature) if limit > 1 else None
            if bound is None:
                return None
            inputs, rows = bound
            if sum(rows) > limit:
                return None
            merged = run.signature.bind_checked(inputs, _as_is, servable.check_shapes)
            started = perf_counter()
            outputs = self._run(run, rows, merged, timeout_s)
            if outputs is None:
                return None
            run_s = perf_counter() - started
            parts = _parts(outputs, rows)
            return RanTogether(run.output_aliases, parts, handle.id.version, signature_name, run_s)
        except InserveError:
            return None
        finally:
            handle.release()

    def _may_merge(self, request: bytes) -> bool:
        """Return whether the model of one of the requests lets merge any, so that a look at all may pay."""
        try:
            spec, _, output_filter = decode_predict_request(request)
            with self._find(spec) as handle:
                assert spec is not None
                run = handle.servable.prepared_run(
                    spec.signature_name or DEFAULT_SIGNATURE_NAME, output_filter
                )
                return run is not None and (run.is_row_wise or handle.servable.row_limit > 1)
        except InserveError:
            return True

    def _answer_group(
        self, group: _Group, timeouts_s: Sequence[float | None], answers: list[Answered | None]
    ) -> None:
        """Answer what can be merged of *group*, whose calls name one model and the same outputs."""
        spec, _, output_filter = group[0][1]
        assert spec is not None
        try:
            handle = self._find(spec)
        except InserveError:
            return
        try:
            servable = handle.servable
            signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME
            run = servable.prepared_run(signature_name, output_filter)
            if run is None or run.signature is None or not run.may_merge:
                return
            limit = _row_limit(servable, run)
            if limit < 2:
                return
            members = _members(group, servable, run)
            while len(members) >= FEWEST_TOGETHER:
                chunk, members = _first_chunk(members, limit)
                if len(chunk) >= FEWEST_TOGETHER:
                    self._answer_chunk(chunk, handle, run, spec, timeouts_s, answers)
        finally:
            handle.release()

    def _answer_chunk(
        self,
        chunk: Sequence[_Member],
        handle: ServableHandle[SavedModelServable],
        run: SignatureRun,
        spec: ModelSpec,
        timeouts_s: Sequence[float | None],
        answers: list[Answered | None],
    ) -> None:
        merged = [np.concatenate(parts) for parts in zip(*(member.arrays for member in chunk), strict=True)]
        limits = [limit for member in chunk if (limit := timeouts_s[member.number]) is not None]
        rows = [member.rows for member in chunk]
        started = perf_counter()
        try:
            outputs = self._run(run, rows, merged, min(limits, default=None))
        except InserveError:
            return
        if outputs is None:
            return
        run_s = perf_counter() - started
        signature_name = spec.signature_name or DEFAULT_SIGNATURE_NAME
        name, version = handle.id
        for member, parts in zip(chunk, _parts(outputs, rows), strict=True):
            record = RequestRecord(spec.name)
            record.version, record.signature_name, record.run_s = version, signature_name, run_s
            own = zip(run.output_aliases, parts, strict=True)
            response = encode_predict_response(own, name, version, signature_name, self._as_content)
            answers[member.number] = Answered(response, record)

    def _run(
        self,
        run: SignatureRun,
        rows: Sequence[int],
        merged: Sequence[NDArray[Any]],
        timeout_s: float | None,
    ) -> list[NDArray[Any]] | None:
        """Return outputs with the *rows* of all requests, None where these are to be answered alone."""
        if run.is_row_wise:
            outputs = run.run_row_wise(rows, merged, timeout_s)
        # Of a size that never ran nothing is known, but that it hardly takes longer than its parts in turn.
        elif not run.is_short([array[: rows[0]] for array in merged]) or (
            run.is_long(merged) and self._stays_declined()
        ):
            outputs = None
        else:
            outputs = run.run(merged, timeout_s)
        if outputs is not None:
            shape = (sum(rows),)
            for output in outputs:
                if not isinstance(output, np.ndarray) or output.shape[:1] != shape:
                    run.may_merge = False
                    return None
        return outputs

    def _stays_declined(self) -> bool:
        """Return whether a run that was long so far is not tried.

        Now and then one is: it may have been the machine that was slow, and a run that is never made is
        never seen to be short.
        """
        self._num_declined += 1
        return self._num_declined % _DECLINED_BETWEEN_TRIES != 0


def _row_limit(servable: SavedModelServable, run: SignatureRun) -> int:
    """Return the most rows that requests of *run* may have together; below 2 they are not merged."""
    return run.most_merged_rows if run.is_row_wise else servable.row_limit


def _parts(outputs: Sequence[NDArray[Any]], rows: Sequence[int]) -> list[list[NDArray[Any]]]:
    """Return of each request its rows of all *outputs*."""
    parts = []
    start = 0
    for own in rows:
        stop = start + own
        parts.append([output[start:stop] for output in outputs])
        start = stop
    return parts


def _as_is(array: NDArray[Any], _: object) -> NDArray[Any]:
    return array


def _groups(requests: Sequence[bytes]) -> list[_Group]:
    """Return those of *requests* that ask one model for the same outputs, with their numbers."""
    groups: dict[Any, _Group] = {}
    for index, request in enumerate(requests):
        try:
            call = decode_predict_request(request)
        except InserveError:
            continue
        if call.spec is not None:
            groups.setdefault((call.spec, tuple(call.output_filter)), []).append((index, call))
    return [group for group in groups.values() if len(group) >= FEWEST_TOGETHER]


def _members(group: _Group, servable: SavedModelServable, run: SignatureRun) -> list[_Member]:
    """Return the requests of *group* that are right and differ from the first such in their rows only."""
    signature = run.signature
    assert signature is not None
    members: list[_Member] = []
    kind: list[tuple[Any, tuple[int, ...]]] | None = None
    for index, call in group:
        try:
            arrays = signature.bind_checked(call.inputs, decode_input, servable.check_shapes)
        except InserveError:
            continue
        if not all(isinstance(array, np.ndarray) for array in arrays):
            continue
        rows = {array.shape[0] if array.ndim else 0 for array in arrays}
        own_kind = [(array.dtype, array.shape[1:]) for array in arrays]
        if len(rows) != 1 or 0 in rows or own_kind != (kind or own_kind):
            continue
        kind = own_kind
        members.append(_Member(index, arrays, rows.pop()))
    return members


def _first_chunk(members: list[_Member], limit: int) -> tuple[list[_Member], list[_Member]]:
    """Return as many of *members* as have at most *limit* rows together, at least one, and the others."""
    rows = 0
    for number, member in enumerate(members):
        rows += member.rows
        if rows > limit and number:
            return members[:number], members[number:]
    return members, []
