"""Two processes of one server that ask each other things over a pipe."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from inserve.errors import (
    DeadlineExceededError,
    InserveError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)

__all__ = ["Operations", "Peer"]

Operations: TypeAlias = Mapping[str, Callable[..., Any]]
"""What the other side may ask for, by name. Arguments and results must be picklable."""

_MAX_ANSWERING = 64
"""Questions of the other side that are answered at the same time; more are refused."""

_logger = logging.getLogger("inserve.server")


class Peer:
    """The other end of *connection*; any thread may call.

    *operations* answer what the other side asks, each on a thread of its own, since an answer may
    take long. *notices* take what it tells, one after another in the order in which it was told, and
    must return at once. *on_end* is called once, when the pipe is closed at either end.

    Both ends are processes of one program: what comes is unpickled.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        operations: Operations,
        notices: Operations,
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._pipe = socket.socket(fileno=os.dup(connection.fileno()))
        self._name = name
        self._operations = operations
        self._notices = notices
        self._on_end = on_end
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[int, Future[Any]] = {}
        self._ended = False
        self._places = threading.Semaphore(_MAX_ANSWERING)
        self._reader = threading.Thread(target=self._read, name=f"inserve-peer-{name}", daemon=True)

    def __repr__(self) -> str:
        return f"<Peer {self._name}{' [ended]' if self._ended else ''}>"

    def start(self) -> None:
        self._reader.start()

    def ask(self, operation: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Return what *operation* of the other side returns for *arguments*.

        Raises:
            InserveError: What it raised.
            InternalError: The arguments cannot be pickled.
            DeadlineExceededError: It took longer than *timeout_s* seconds; it goes on all the same.
            UnavailableError: The other side is gone.
        """
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                raise UnavailableError(f"{self._name} is gone")
            self._pending[number] = future
        try:
            self._send(("ask", number, operation, arguments))
            return future.result(timeout_s)
        except FutureTimeoutError:
            raise DeadlineExceededError(f"{self._name} has not answered within {timeout_s} s") from None
        finally:
            with self._lock:
                self._pending.pop(number, None)

    def tell(self, notice: str, *arguments: Any) -> None:
        """Send *notice*, which has no answer; one to a side that is gone is lost."""
        with contextlib.suppress(UnavailableError):
            self._send(("tell", 0, notice, arguments))

    def close(self) -> None:
        """Close this end; every question that waits ends with ``UnavailableError``."""
        self._end()
        if not self._reader.is_alive():
            self._close_connection()

    def _send(self, message: tuple[str, int, Any, Any]) -> None:
        try:
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # pickling calls code of the objects
            raise InternalError(
                f"{message[0]} {message[2]!r:.100} cannot be sent to {self._name}: {error}"
            ) from error
        try:
            with self._send_lock:
                self._connection.send_bytes(data)
        except (OSError, ValueError):
            raise UnavailableError(f"{self._name} is gone") from None

    def _read(self) -> None:
        try:
            while True:
                kind, number, what, value = pickle.loads(self._connection.recv_bytes())
                if kind == "ask":
                    self._take_question(number, what, value)
                elif kind == "tell":
                    self._take_notice(what, value)
                else:
                    self._take_answer(number, what, value)
        except (EOFError, OSError):
            pass  # the pipe has ended, which is how either side says that it is done
        except Exception:  # unpickling calls code of the objects; what follows them cannot be found any more
            _logger.exception("What %s has sent cannot be read; the connection is closed", self._name)
        finally:
            self._end()
            self._close_connection()

    def _end(self) -> None:
        with self._lock:
            first, self._ended = not self._ended, True
            pending = list(self._pending.values())
        if not first:
            return
        for future in pending:
            if not future.done():
                future.set_exception(UnavailableError(f"{self._name} is gone"))
        with contextlib.suppress(OSError):
            self._pipe.shutdown(socket.SHUT_RDWR)
        self._on_end()

    def _close_connection(self) -> None:
        """Give the files back. The thread that reads does this: their numbers could be others' by then."""
        with self._send_lock:
            self._connection.close()
            self._pipe.close()

    def _take_answer(self, number: int, is_error: bool, value: Any) -> None:
        with self._lock:
            future = self._pending.pop(number, None)
        if future is None:
            return
        if is_error:
            future.set_exception(value)
        else:
            future.set_result(value)

    def _take_notice(self, notice: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._notices[notice](*arguments)
        except Exception:
            _logger.exception("Unexpected error over the notice %s of %s", notice, self._name)

    def _take_question(self, number: int, operation: str, arguments: tuple[Any, ...]) -> None:
        if not self._places.acquire(blocking=False):
            self._answer(
                number, True, ResourceExhaustedError(f"{_MAX_ANSWERING} questions are being answered")
            )
            return

        def answer() -> None:
            try:
                result = self._operations[operation](*arguments)
            except InserveError as error:
                self._answer(number, True, error)
            except Exception as error:
                _logger.exception("Unexpected error over the question %s of %s", operation, self._name)
                self._answer(number, True, InternalError(f"{type(error).__name__}: {error}"))
            else:
                self._answer(number, False, result)
            finally:
                self._places.release()

        threading.Thread(target=answer, name=f"inserve-peer-{self._name}-{operation}", daemon=True).start()

    def _answer(self, number: int, is_error: bool, value: Any) -> None:
        with contextlib.suppress(UnavailableError):
            try:
                self._send(("answer", number, is_error, value))
            except InternalError as error:  # the asking side must not wait for ever
                self._send(("answer", number, True, InternalError(str(error))))
