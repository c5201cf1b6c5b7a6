"""Calls without a message or a socket: arrays in, arrays out, on this process's own threads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from numpy.typing import NDArray

from inserve.errors import DeadlineExceededError
from inserve.frontends.grpc_api.worker_pool import WorkerPool
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.placement import WouldBlock
from inserve.handlers.predict import PredictHandler

__all__ = ["InprocessCalls"]


class InprocessCalls:
    """The calls of a ``Server`` that stay inside the process; any thread may make them."""

    _predict: PredictHandler
    _pool: WorkerPool

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return the outputs, by name, of a signature of *model* for *inputs*.

        An input may be an array, a number or string, or a nested sequence of them; arrays of the
        signature's dtype are used as they are. The newest available version answers, unless
        *version* or *label* names another. *output_filter* names the outputs wanted, all if empty;
        *timeout* is in seconds. Runs on the calling thread; arrays returned belong to the caller.

        Raises:
            NotFoundError: No such model or version is available.
            FailedPreconditionError: It has no such signature.
            InvalidArgumentError: The inputs do not fit the signature.
            DeadlineExceededError: *timeout* has passed.
            UnavailableError: The server is not running.
            InserveError: What TensorFlow said.
        """
        return self._predict.predict(
            ModelSpec(model, version, label, signature), inputs, output_filter, timeout
        )

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Future[dict[str, NDArray[Any]]]:
        """Return a future of what ``predict`` returns; it runs on a thread of the server.

        Inputs are read when it runs. *timeout* counts from the start of the run.

        Raises:
            ResourceExhaustedError: Too many calls are waiting.
            UnavailableError: The server is stopped.
        """
        spec = ModelSpec(model, version, label, signature)
        return self._pool.submit(self._predict.predict, spec, inputs, output_filter, timeout)

    async def predict_async(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return what ``predict`` returns, without holding up the event loop.

        A run known to be short takes place on the loop's own thread, any other on a thread of the
        server. *timeout* covers the wait for that thread. When the task is cancelled, a run that has
        not started never does.

        Raises:
            InserveError: As ``predict`` and ``submit``.
        """
        spec = ModelSpec(model, version, label, signature)
        try:
            return self._predict.predict(spec, inputs, output_filter, timeout, may_block=False)
        except WouldBlock:
            future = self._pool.submit(self._predict.predict, spec, inputs, output_filter, timeout)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            raise DeadlineExceededError("Deadline Exceeded") from None
