"""``:predict`` with a JSON body.

Order and texts: TensorFlow Serving, ``model_servers/http_rest_api_handler.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from numpy.typing import NDArray

from inserve.errors import InvalidArgumentError
from inserve.frontends.rest_api.response import JSON_TYPE, Response, json_response
from inserve.frontends.rest_api.route import (
    LONGEST_INLINE_BYTES,
    LONGEST_UNSENT_S,
    Answer,
    Rest,
    SignatureInfo,
)
from inserve.handlers.model_spec import DEFAULT_SIGNATURE_NAME, ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_together import PredictTogether
from inserve.metrics.request_record import RequestRecord
from inserve.tensors.dtypes import element_type_of
from inserve.tensors.json_predict import (
    PredictBody,
    bind_rows_together,
    encode_plain_response,
    encode_plain_row,
    encode_predict_response,
    parse_predict_body,
)

__all__ = ["FEWEST_TOGETHER", "PredictRoute", "require_signature", "response_of_outputs"]

FEWEST_TOGETHER = 2
"""Already two cost less together, in one run as well as in stages."""

_LONGEST_TOGETHER_BYTES = 32 << 10
"""Longer bodies are read one by one: together they would hold up the event loop."""

_SHORTEST_S = 1e-6
_WEIGHT_OF_NEW = 0.2
_FADING = 0.98
"""Requests that took too long are tried again some time: it may have been the machine."""

_Outputs: TypeAlias = "tuple[Sequence[str], Sequence[NDArray[Any]]]"
"""Aliases, and the arrays of each."""


class PredictRoute:
    """Runs a signature of the model that *spec* names; *timeout_s* limits the run.

    *together* runs requests that have come together; None: there is no such thing.
    """

    is_rest = True
    api = "predict"

    def __init__(
        self,
        handler: PredictHandler,
        spec: ModelSpec,
        timeout_s: float | None,
        together: PredictTogether | None = None,
    ) -> None:
        self.model_name = spec.name
        self._together = together
        self._predict = handler.predict_bound
        self._spec = spec
        self._timeout_s = timeout_s
        self._usual_s = _SHORTEST_S
        """What a request takes in ``answer_in_stages``."""

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        if len(body) > LONGEST_INLINE_BYTES:
            return lambda record: self._answer_on_pool(parse_predict_body(body), record)
        call = parse_predict_body(body)
        try:
            outputs = self._run(call, False, record)
        except WouldBlock:
            return lambda record: self._answer_on_pool(call, record)
        return _written(call, outputs)

    def answer_together(self, bodies: Sequence[bytes]) -> list[tuple[Response, RequestRecord]] | None:
        """Answer the first of several requests in one run, or in a few, without holding up this thread.

        None where each is to be answered alone; so it is where this raises.

        Raises:
            InserveError: An output cannot be written as JSON.
        """
        if self._together is None or max(map(len, bodies)) > _LONGEST_TOGETHER_BYTES:
            return None
        most = self._together.most_rows(self._spec)
        if most < FEWEST_TOGETHER:
            return None
        answers: list[tuple[Response, RequestRecord]] = []
        for start in range(0, len(bodies), most):
            answered = self._answer_in_one_run(self._together, bodies[start : start + most])
            if answered is None:
                break
            answers += answered
        return answers or None

    def _answer_in_one_run(
        self, together: PredictTogether, bodies: Sequence[bytes]
    ) -> list[tuple[Response, RequestRecord]] | None:
        def bind(signature: SignatureInfo) -> tuple[Mapping[str, NDArray[Any]], Sequence[int]] | None:
            return bind_rows_together(bodies, signature.input_types)

        ran = together.run_bound(self._spec, bind, self._timeout_s)
        if ran is None:
            return None
        aliases, parts, version, signature_name, run_s = ran
        answers = []
        for outputs in parts:
            record = RequestRecord(self.model_name)
            record.version, record.signature_name, record.run_s = version, signature_name, run_s
            answers.append((response_of_outputs(aliases, outputs, True), record))
        return answers

    def answer_in_stages(self, bodies: Sequence[bytes]) -> list[tuple[Answer | Exception, RequestRecord]]:
        """Answer the first of several requests, each by itself: all are read, then run, then written.

        A stage that is at work for several requests finds warm caches. As many are answered as take about
        ``LONGEST_UNSENT_S``; none where that would be one. An exception is what a request has failed with.
        """
        if max(map(len, bodies)) > _LONGEST_TOGETHER_BYTES:
            return []
        number = min(len(bodies), int(LONGEST_UNSENT_S / self._usual_s))
        if number < FEWEST_TOGETHER:
            self._usual_s *= _FADING
            return []
        started = perf_counter()
        calls = [_outcome(parse_predict_body, body) for body in bodies[:number]]
        ran: list[Any] = []
        records: list[RequestRecord] = []
        for call in calls:
            if ran and perf_counter() - started > LONGEST_UNSENT_S:
                break
            record = RequestRecord(self.model_name)
            failed = isinstance(call, Exception)
            ran.append(call if failed else _outcome(self._run_or_rest, call, record))
            records.append(record)
        answers: list[Answer | Exception] = []
        for call, result in zip(calls, ran, strict=False):
            is_written = isinstance(result, tuple)
            answers.append(_outcome(_written, call, result) if is_written else result)
        usual_s = (perf_counter() - started) / len(answers)
        self._usual_s = max(_SHORTEST_S, self._usual_s + _WEIGHT_OF_NEW * (usual_s - self._usual_s))
        return list(zip(answers, records, strict=True))

    def _run_or_rest(self, call: PredictBody, record: RequestRecord | None) -> _Outputs | Rest:
        try:
            return self._run(call, False, record)
        except WouldBlock:
            return lambda record: self._answer_on_pool(call, record)

    def _answer_on_pool(self, call: PredictBody, record: RequestRecord | None) -> Response:
        aliases, arrays = self._run(call, True, record)
        return response_of_outputs(aliases, arrays, call.is_row)

    def _run(self, call: PredictBody, may_block: bool, record: RequestRecord | None) -> _Outputs:
        def bind(signature: SignatureInfo | None) -> Mapping[str, NDArray[Any]]:
            if signature is None or not signature.inputs:
                signature = require_signature(signature, call.signature_name)
            return call.bind(signature.input_types)

        spec = self._spec
        if call.signature_name:
            spec = spec._replace(signature_name=call.signature_name)
        return self._predict(spec, bind, self._timeout_s, may_block, record)


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what *function* returns, or raises."""
    try:
        return function(*args)
    except Exception as error:
        return error


def _written(call: PredictBody, outputs: _Outputs) -> Answer:
    aliases, arrays = outputs
    if _num_bytes(arrays) > LONGEST_INLINE_BYTES:
        return lambda _: response_of_outputs(aliases, arrays, call.is_row)
    return response_of_outputs(aliases, arrays, call.is_row)


def _num_bytes(arrays: Sequence[NDArray[Any]]) -> int:
    if len(arrays) == 1:
        return arrays[0].nbytes
    return sum(array.nbytes for array in arrays)


def require_signature(signature: SignatureInfo | None, name: str) -> SignatureInfo:
    """Return *signature*, which a request asked for by *name*, empty for the default one.

    Raises:
        InvalidArgumentError: The model has no such signature, or it has no inputs.
    """
    if signature is None:
        raise InvalidArgumentError(
            f'Serving signature name: "{name or DEFAULT_SIGNATURE_NAME}" not found in signature def'
        )
    if not signature.inputs:
        raise InvalidArgumentError(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    return signature


def response_of_outputs(aliases: Sequence[str], arrays: Sequence[NDArray[Any]], is_row: bool) -> Response:
    """Return outputs as JSON, in rows or by name.

    Raises:
        InvalidArgumentError: They cannot be written in this form.
    """
    body = None
    if len(arrays) == 1:
        body = encode_plain_response(arrays[0], is_row)
    elif is_row:
        body = encode_plain_row(aliases, arrays)
    if body is not None:
        return Response(200, JSON_TYPE, body)
    types = [element_type_of(array.dtype).data_type for array in arrays]
    return json_response(encode_predict_response(list(zip(aliases, arrays, strict=True)), types, is_row))
