"""``inserve.record_warmup``: writes the warm-up file of a model from the requests it gets."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from inserve.errors import DeadlineExceededError
from inserve.handlers.prediction_log import encode_prediction_log
from inserve.handlers.request_tap import RequestTap, ServedRequest
from inserve.saved_model.tf_record import write_records
from inserve.saved_model.warmup import MAX_WARMUP_RECORDS, warmup_file
from inserve.server.model_server import Server

__all__ = ["WarmupRecording", "record_warmup"]


class WarmupRecording:
    """A recording under way; ``record_warmup`` starts it. Any thread may call any method.

    It is over when it has all requests it wants, or at ``close``, which the end of a ``with`` block
    calls; the file is written then, by a thread ``inserve-record-warmup`` or by the caller of
    ``close``. While it is under way the requests are held in memory.
    """

    def __init__(self, tap: RequestTap, model: str, path: str, num_records: int, max_bytes: int) -> None:
        self._tap = tap
        self._model = model
        self._path = path
        self._num_records = num_records
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._records: list[bytes] = []
        self._bytes = 0
        self._over = False
        self._written = threading.Event()
        self._failure: OSError | None = None
        tap.add(self)

    def __repr__(self) -> str:
        state = "over" if self._over else "under way"
        return f"<WarmupRecording {self._model} {self.num_recorded}/{self._num_records} {state}>"

    @property
    def path(self) -> str:
        """Where the file is, or will be."""
        return self._path

    @property
    def num_recorded(self) -> int:
        """How many requests have been recorded."""
        return len(self._records)

    def hear(self, served: ServedRequest) -> None:
        """Record one request; handlers call this."""
        if served.id.name != self._model:
            return
        record = encode_prediction_log(served.log_type, served.request())
        with self._lock:
            if self._over:
                return
            fits = self._bytes + len(record) <= self._max_bytes
            if fits:
                self._records.append(record)
                self._bytes += len(record)
            elif not self._records:
                return
            if fits and len(self._records) < self._num_records:
                return
            self._over = True
        threading.Thread(target=self._finish, name="inserve-record-warmup", daemon=True).start()

    def wait(self, timeout: float | None = None) -> str:
        """Return the path of the file once it is written; *timeout* is in seconds.

        Raises:
            DeadlineExceededError: *timeout* has passed; the recording goes on.
            OSError: The file could not be written.
        """
        if not self._written.wait(timeout):
            raise DeadlineExceededError(
                f"{self.num_recorded} of {self._num_records} requests to {self._model} came in {timeout} s"
            )
        if self._failure is not None:
            raise self._failure
        return self._path

    def close(self) -> None:
        """End the recording and write what it has, if anything; returns when that is done.

        Without a single request no file is written and one that was there stays. More calls do nothing.

        Raises:
            OSError: The file could not be written.
        """
        with self._lock:
            was_over, self._over = self._over, True
        if not was_over:
            self._finish()
        self.wait()

    def _finish(self) -> None:
        self._tap.remove(self)
        try:
            if self._records:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                write_records(self._path, self._records)
        except OSError as error:
            self._failure = error
        finally:
            self._written.set()

    def __enter__(self) -> WarmupRecording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def record_warmup(
    server: Server,
    model: str,
    path: str | os.PathLike[str],
    num_records: int = 100,
    *,
    max_bytes: int = 64 << 20,
) -> WarmupRecording:
    """Record the next *num_records* requests to *model* that *server* answers, as its warm-up file.

    In-process calls count as well as remote ones, and every API that runs the model; a request that
    fails does not. *path* is a version's folder, whose ``assets.extra/tf_serving_warmup_requests`` is
    written, or a file. The file appears complete or not at all, in the place of one that was there.
    Its requests are replayed when a version that holds it is loaded, so they must stay valid for it;
    they hold what clients have sent, word for word. Together they take up to *max_bytes*: the
    recording is over early where the next would not fit, and a first one that is larger is left out.

    Raises:
        ValueError: *num_records* is not within 1 and 1000, or *max_bytes* is below 1.
    """
    if not 1 <= num_records <= MAX_WARMUP_RECORDS:
        raise ValueError(f"num_records is {num_records}, expected 1 to {MAX_WARMUP_RECORDS}")
    if max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}, expected at least 1")
    target = os.path.abspath(path)
    if os.path.isdir(target):
        target = warmup_file(target)
    return WarmupRecording(server.request_tap, model, target, num_records, max_bytes)
