"""``:classify`` and ``:regress`` with a JSON body.

Order and texts: TensorFlow Serving, ``model_servers/http_rest_api_handler.cc``: the body is read to its end
before the model is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from inserve.frontends.rest_api.response import Response, json_response
from inserve.frontends.rest_api.route import LONGEST_INLINE_BYTES, Answer
from inserve.handlers.classify import ClassifyHandler
from inserve.handlers.inference_codec import Classification
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.regress import RegressHandler
from inserve.metrics.request_record import RequestRecord
from inserve.tensors.json_examples import (
    encode_classification_response,
    encode_regression_response,
    parse_examples_body,
)
from inserve.tensors.tf_example import serialized_examples

__all__ = ["ExamplesRoute", "classify_route", "regress_route"]

ResultT = TypeVar("ResultT")


class ExamplesRoute(Generic[ResultT]):
    """Runs a signature of the model that *spec* names on ``tf.Example``; *timeout_s* limits the run."""

    is_rest = True

    def __init__(
        self,
        api: str,
        run: Callable[[ModelSpec, Sequence[bytes], float | None, bool, RequestRecord | None], ResultT],
        encode: Callable[[ResultT], bytes],
        spec: ModelSpec,
        timeout_s: float | None,
    ) -> None:
        self.api = api
        self.model_name = spec.name
        self._run = run
        self._encode = encode
        self._spec = spec
        self._timeout_s = timeout_s

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        if len(body) > LONGEST_INLINE_BYTES:
            return lambda record: self._answer(*self._read(body), True, record)
        spec, examples = self._read(body)
        try:
            return self._answer(spec, examples, False, record)
        except WouldBlock:
            return lambda record: self._answer(spec, examples, True, record)

    def _read(self, body: bytes) -> tuple[ModelSpec, Sequence[bytes]]:
        parsed = parse_examples_body(body)
        spec = self._spec
        if parsed.signature_name:
            spec = spec._replace(signature_name=parsed.signature_name)
        return spec, serialized_examples(parsed.input)

    def _answer(
        self, spec: ModelSpec, examples: Sequence[bytes], may_block: bool, record: RequestRecord | None
    ) -> Response:
        result = self._run(spec, examples, self._timeout_s, may_block, record)
        return json_response(self._encode(result))


def classify_route(
    handler: ClassifyHandler, spec: ModelSpec, timeout_s: float | None
) -> ExamplesRoute[Classification]:
    """Return what answers ``:classify``."""
    return ExamplesRoute("classify", handler.classify, _encode_classification, spec, timeout_s)


def regress_route(
    handler: RegressHandler, spec: ModelSpec, timeout_s: float | None
) -> ExamplesRoute[NDArray[np.float32]]:
    """Return what answers ``:regress``."""
    return ExamplesRoute("regress", handler.regress, encode_regression_response, spec, timeout_s)


def _encode_classification(result: Classification) -> bytes:
    either = result.scores if result.labels is None else result.labels
    return encode_classification_response(*result, 0 if either is None else len(either))
