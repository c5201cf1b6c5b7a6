"""gRPC over ``pygrpc_native``: HTTP/2 in Rust outside the GIL, requests handed over in batches."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import grpc
from pygrpc_native import NativeGrpcFront

from inserve.errors import Code, DeadlineExceededError, UnavailableError
from inserve.frontends.grpc_api.byte_handlers import methods_by_service
from inserve.frontends.grpc_api.grpcio_transport import GrpcioTransport
from inserve.frontends.grpc_api.listen_address import ListenAddress, clear_socket_path, remove_socket
from inserve.frontends.grpc_api.method import CallContext, Method, MethodTable, TogetherTable
from inserve.frontends.grpc_api.status_codes import status_of
from inserve.frontends.grpc_api.transport import SHUTTING_DOWN, STOP_LIMIT_S, TransportOptions
from inserve.frontends.grpc_api.worker_pool import WorkerPool
from inserve.handlers.placement import WouldBlock

__all__ = ["NATIVE_CHANNEL_ARGUMENTS", "NativeTransport"]

NATIVE_CHANNEL_ARGUMENTS: dict[str, str] = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.keepalive_permit_without_calls": "keepalive_permit_without_calls",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.absolute_max_metadata_size": "max_metadata_size",
}
"""gRPC channel arguments that the native front honours -> its own names for them."""

_BATCH_SIZE = 64

_MOST_UNSENT = 8
_LONGEST_UNSENT_S = 0.3e-3
"""For so long answers are kept, up to 8 of them, until they are sent together."""

_LOGGER = logging.getLogger("inserve.grpc")

_RECEIVE_TIMEOUT_MS = 100
"""Closing a front wakes one of the threads that wait for calls; the others notice after this long."""

_FLUSH_S = 0.05
"""The front is left open this long after the last answer: what it counts as ended may not have left yet."""

_FLUSH_LIMIT_S = 1.0
"""How long after the last answer calls that have not ended for the front are waited for."""

_LOOK_EVERY_S = 0.005


def _io_threads() -> int:
    """Return how many threads of a front carry connections: a second one is only in the way of others."""
    return 1 if (os.cpu_count() or 1) < 4 else 2


def _receiver_threads() -> int:
    """Return how many threads take calls over.

    Each call into TensorFlow's C API lets go of the GIL several times, and every other receiver then
    takes it: on two processors three receivers answered half as many Predict calls as one.
    """
    return 1 if (os.cpu_count() or 1) < 4 else 2


class NativeTransport:
    """One native front per address; receiver threads try each call inline, a pool runs what would block.

    Paths outside *methods* go to a grpcio server on a private Unix socket, which carries
    *generic_handlers* (streaming methods, for instance) and answers UNIMPLEMENTED for the rest.
    """

    name = "native"

    def __init__(
        self,
        methods: MethodTable,
        addresses: Sequence[ListenAddress],
        options: TransportOptions,
        generic_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
        together: TogetherTable | None = None,
    ) -> None:
        methods_by_service(methods)
        self._together = together or {}
        self._methods = dict(methods)
        self._addresses = tuple(addresses)
        self._options = options
        self._generic_handlers = tuple(generic_handlers)
        self._pool = WorkerPool("inserve-grpc-worker", options.max_workers, options.max_queued)
        self._listeners: list[_Listener] = []
        self._fallback: GrpcioTransport | None = None
        self._private_folder: str | None = None

    def start(self) -> tuple[ListenAddress, ...]:
        with ExitStack() as undo:
            socket_path = self._start_fallback(undo)
            for address in self._addresses:
                listener = _Listener(address, self._methods, self._together, self._options, self._pool)
                undo.callback(listener.close)
                listener.front.set_fallback(socket_path)
                self._listeners.append(listener)
            for listener in self._listeners:
                listener.start()
            undo.pop_all()
        return tuple(listener.address for listener in self._listeners)

    def stop(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for listener in self._listeners:
            listener.refuse_new_calls()
        for listener in self._listeners:
            listener.wait_until_idle(deadline)
        for listener in self._listeners:
            listener.cancel_calls()
        if self._fallback is not None:
            self._fallback.stop(max(0.0, deadline - time.monotonic()))
        for listener in self._listeners:
            listener.close()
        self._pool.stop(STOP_LIMIT_S / 2)
        if self._private_folder is not None:
            shutil.rmtree(self._private_folder, ignore_errors=True)

    def _start_fallback(self, undo: ExitStack) -> str:
        folder = tempfile.mkdtemp(prefix="inserve-")
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, "grpc")
        limits = TransportOptions(self._options.max_workers, self._options.max_queued)
        fallback = GrpcioTransport({}, (ListenAddress(path=path),), limits, self._generic_handlers)
        fallback.start()
        undo.callback(fallback.stop, 0.0)
        self._private_folder, self._fallback = folder, fallback
        return path


_Call: TypeAlias = tuple[int, int, bytes, CallContext]
"""Its number, that of its method, request and context."""


class _Listener:
    """One address: its front, its receiver threads and the calls it has in the pool."""

    def __init__(
        self,
        address: ListenAddress,
        methods: dict[str, Method],
        together: TogetherTable,
        options: TransportOptions,
        pool: WorkerPool,
    ) -> None:
        self._paths = list(methods)
        self._methods = list(methods.values())
        self._together = {self._paths.index(path): method for path, method in together.items()}
        self._pool = pool
        self._pooled: dict[int, CallContext] = {}
        self._changed = threading.Condition()
        self._refusing = False
        self._last_answer = 0.0
        self._socket_inode: int | None = None
        if address.path is not None:
            clear_socket_path(address.path)
        arguments: dict[str, Any] = {
            NATIVE_CHANNEL_ARGUMENTS[name]: value for name, value in options.channel_arguments
        }
        arguments.setdefault("keepalive_permit_without_calls", False)
        arguments["keepalive_permit_without_calls"] = bool(arguments["keepalive_permit_without_calls"])
        try:
            self.front = NativeGrpcFront(
                str(address),
                [(path, False) for path in self._paths],
                io_threads=_io_threads(),
                call_details=True,
                metrics=True,
                reuse_port=options.reuse_port,
                **arguments,
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise UnavailableError(f"cannot listen on {address}: {reason}") from error
        if address.path is not None:
            self._socket_inode = os.lstat(address.path).st_ino
            self.address = address
        else:
            self.address = ListenAddress(address.host, self.front.bound_port)
        self._busy = [False] * _receiver_threads()
        self._receivers = [
            threading.Thread(
                target=self._receive,
                args=(index,),
                name=f"inserve-grpc-receive-{self.address}-{index}",
                daemon=True,
            )
            for index in range(len(self._busy))
        ]

    def start(self) -> None:
        self.front.start()
        for receiver in self._receivers:
            receiver.start()

    def refuse_new_calls(self) -> None:
        self._refusing = True

    def wait_until_idle(self, deadline: float) -> None:
        """Wait until no call runs, at most until *deadline* in monotonic seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._pooled and not any(self._busy), max(0.0, deadline - time.monotonic())
            )

    def cancel_calls(self) -> None:
        for call_id, context in list(self._pooled.items()):
            context.cancelled = True
            self._fail(call_id, Code.UNAVAILABLE, SHUTTING_DOWN)

    def close(self) -> None:
        """Send what is on its way, close the front and wait for the receiver threads."""
        while self._has_unsent_answers() and time.monotonic() < self._last_answer + _FLUSH_LIMIT_S:
            time.sleep(_LOOK_EVERY_S)
        flushed_at = self._last_answer + _FLUSH_S
        while (wait_s := flushed_at - time.monotonic()) > 0:
            time.sleep(wait_s)
        self.front.close()
        for receiver in self._receivers:
            if receiver.is_alive():
                receiver.join(STOP_LIMIT_S / 4)
        if self.address.path is not None and self._socket_inode is not None:
            remove_socket(self.address.path, self._socket_inode)

    def _has_unsent_answers(self) -> bool:
        """Return whether a call has begun and not ended, as the front counts them."""
        metrics = self.front.metrics() or {"methods": {}}
        return any(
            method["started"] > sum(status["count"] for status in method["status"].values())
            for method in metrics["methods"].values()
        )

    def _receive(self, index: int) -> None:
        receive, busy = self.front.recv_batch_details, self._busy
        while (events := receive(_BATCH_SIZE, _RECEIVE_TIMEOUT_MS)) is not None:
            if not events:
                continue
            # Busy is set before _refusing is read: stop() sees either this batch or its refusal.
            busy[index] = True
            if self._refusing:
                self._refuse(events)
            else:
                self._serve(events)
            del events
            busy[index] = False
            self._last_answer = time.monotonic()
            if self._refusing:
                with self._changed:
                    self._changed.notify_all()

    def _serve(self, events: Sequence[Any]) -> None:
        """Answer *events*, ``(kind, call, method, payload, _, (metadata, peer, seconds left))``.

        Sending an answer wakes a thread of the front. A few answers are sent together: calls one behind the
        other, with no visit to the system between them, find warm caches.
        """
        monotonic = time.monotonic
        calls: list[_Call] = []
        for kind, call_id, method_id, payload, _, details in events:
            if kind:
                self._note_end(call_id)
                continue
            metadata, _, remaining_s = details
            if remaining_s is None:
                context = CallContext(None, metadata, False)
            elif remaining_s > 0.0:
                context = CallContext(monotonic() + remaining_s, metadata, False)
            else:
                self._fail(call_id, Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
                continue
            calls.append((call_id, method_id, payload, context))
        if len(calls) > 1 and self._together:
            calls = self._answer_together(calls)
        self._answer(calls)

    def _answer(self, calls: Sequence[_Call]) -> None:
        methods, monotonic = self._methods, time.monotonic
        unsent: list[tuple[int, int, bytes]] = []
        unsent_since = monotonic()
        for call_id, method_id, payload, context in calls:
            try:
                unsent.append((call_id, method_id, methods[method_id](payload, context)))
            except WouldBlock:
                self._hand_over(call_id, method_id, payload, context)
            except BaseException as error:
                self._fail(call_id, *status_of(error, self._paths[method_id]))
            if len(unsent) >= _MOST_UNSENT or monotonic() - unsent_since > _LONGEST_UNSENT_S:
                self._send(unsent)
                unsent.clear()
                unsent_since = monotonic()
        self._send(unsent)

    def _send(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        respond = self.front.respond
        for call_id, method_id, answer in answers:
            try:
                respond(call_id, answer)
            except BaseException as error:  # noqa: PERF203 - no call may take the others with it
                self._fail(call_id, *status_of(error, self._paths[method_id]))

    def _answer_together(self, calls: Sequence[_Call]) -> list[_Call]:
        """Answer those of *calls* whose methods take several at once; return the others."""
        gathered: dict[int, list[_Call]] = {}
        others: list[_Call] = []
        for call in calls:
            if call[1] in self._together:
                gathered.setdefault(call[1], []).append(call)
            else:
                others.append(call)
        for method_id, group in gathered.items():
            try:
                answers = self._together[method_id](
                    [payload for _, _, payload, _ in group], [context for *_, context in group]
                )
            except BaseException:
                _LOGGER.exception("Calls of %s are answered one by one", self._paths[method_id])
                answers = [None] * len(group)
            answered = []
            for call, answer in zip(group, answers, strict=True):
                if answer is None:
                    others.append(call)
                else:
                    answered.append((call[0], method_id, answer))
            self._send(answered)
        return others

    def _refuse(self, events: Sequence[Any]) -> None:
        for kind, call_id, *_ in events:
            if kind:
                self._note_end(call_id)
            else:
                self._fail(call_id, Code.UNAVAILABLE, SHUTTING_DOWN)

    def _note_end(self, call_id: int) -> None:
        """Tell the method, if it still runs in the pool, that its caller has left or its deadline passed."""
        context = self._pooled.get(call_id)
        if context is not None:
            context.cancelled = True

    def _hand_over(self, call_id: int, method_id: int, payload: bytes, context: CallContext) -> None:
        context.may_block = True
        self._pooled[call_id] = context

        def abandon() -> None:
            self._finish(call_id, Code.UNAVAILABLE, SHUTTING_DOWN)

        def run() -> None:
            self._run(call_id, method_id, payload, context)

        try:
            self._pool.execute(run, abandon)
        except BaseException as error:
            self._finish(call_id, *status_of(error, self._paths[method_id]))

    def _run(self, call_id: int, method_id: int, payload: bytes, context: CallContext) -> None:
        try:
            if context.cancelled:
                self._finish(call_id, Code.CANCELLED, "")
                return
            if context.remaining_s() == 0.0:
                raise DeadlineExceededError("Deadline Exceeded")  # noqa: TRY301
            response = self._methods[method_id](payload, context)
            self.front.respond(call_id, response)
        except BaseException as error:
            self._finish(call_id, *status_of(error, self._paths[method_id]))
        else:
            self._finish(call_id)

    def _fail(self, call_id: int, code: Code, message: str) -> None:
        self.front.fail(call_id, int(code), message)
        self._last_answer = time.monotonic()

    def _finish(self, call_id: int, code: Code = Code.OK, message: str = "") -> None:
        """Forget a call of the pool; send *code* unless it is OK, which has been sent."""
        if code is not Code.OK:
            self.front.fail(call_id, int(code), message)
        self._last_answer = time.monotonic()
        self._pooled.pop(call_id, None)
        if self._refusing:
            with self._changed:
                self._changed.notify_all()
