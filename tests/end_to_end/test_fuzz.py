"""Whatever arrives, the server answers: it neither dies nor hangs, and no answer is a defect of its own.

The server lives in a child process (``fuzz_child.py``), because some kernels of TensorFlow end theirs. Only
a failing example is shrunk, each attempt with a new child where the last one died.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.strategies import SearchStrategy

from inserve.errors import Code
from inserve.protos import messages
from inserve.saved_model.signature import parse_signature

HERE = Path(__file__).parent
MODELS = HERE.parent / "golden" / "models"
NAMES = ("cnn", "defaults", "error", "half_plus_two", "lookup", "multi", "strings", "types")
CHECKED_NAMES = ("batchable", *NAMES)
"""Unchecked, a tensor ``[2**31,0]`` makes the sums of ``batchable`` take 8 GiB."""

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"

NO_VALUE = -3

LIMIT_S = 60.0
PEAK_GROWTH_BYTES = 3 << 30
"""A few tensors of ``MAX_FILLED_BYTES`` each, in a request, its arrays, the graph and the response."""

MANY = 20_000
"""Examples of one test in the long run."""


def _load_strategies() -> Any:
    # A test file cannot import its neighbour in pytest's importlib mode.
    spec = importlib.util.spec_from_file_location("fuzz_requests", HERE / "fuzz_requests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


strategies = _load_strategies()


class Child:
    """The server process; a new one takes the place of one that died."""

    def __init__(self, check_shapes: bool) -> None:
        self.names = CHECKED_NAMES if check_shapes else NAMES
        self.check_shapes = check_shapes
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def start(self) -> None:
        """Start a child unless one runs."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # the child keeps writing to it
        arguments = [HERE / "fuzz_child.py", theirs.fileno(), self.check_shapes, MODELS, *self.names]
        # Newer processors get oneDNN's kernels by default; those of convolutions end the process more often.
        environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0" if self.check_shapes else "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                pass_fds=[theirs.fileno()],
                stderr=self._errors,
                env=environment,
            )
        self._connection = Connection(ours.detach())
        self._port = self._receive()
        self._peak_at_start: int | None = None

    def ask(self, *item: object) -> tuple[int, str, bytes]:
        """Return code, text and response; fail where the child dies, hangs or takes too much memory."""
        self.start()
        try:
            self._connection.send(item)
        except OSError as error:
            self._fail(f"gone before the question: {error}")
        code, text, response, peak = self._receive()
        if self._peak_at_start is None:
            self._peak_at_start = peak
        if peak - self._peak_at_start > PEAK_GROWTH_BYTES:
            self._fail(f"took {peak} bytes of memory, {self._peak_at_start} at the start")
        return code, text, response

    def ask_by_tcp(self, path: str, request: bytes) -> tuple[int, str, bytes]:
        """Return code, text and response of a call over a socket."""
        self.start()
        assert self._process is not None
        if self._channel is None:
            options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self._port}", options)
        try:
            return int(Code.OK), "", self._channel.unary_unary(path, None, None)(request, timeout=LIMIT_S)
        except grpc.RpcError as error:
            if self._process.poll() is not None or error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                self._fail(f"{error.code()} {error.details()}")
            return int(error.code().value[0]), error.details() or "", b""

    def close(self) -> None:
        """End the child in good order.

        Raises:
            AssertionError: It did not end with status 0.
        """
        if self._process is None:
            return
        if self._channel is not None:
            self._channel.close()
        self._connection.send(None)
        status = self._process.wait(LIMIT_S)
        errors = self._last_words()
        self._errors.close()
        self._connection.close()
        self._process = self._channel = None
        assert status == 0, errors

    def _receive(self) -> Any:
        try:
            if self._connection.poll(LIMIT_S):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            self._fail(repr(error))
        self._fail(f"no answer within {LIMIT_S} s")

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-6000:].decode(errors="replace")

    def _fail(self, what: str) -> None:
        assert self._process is not None
        try:
            status: object = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            status = f"{self._process.wait(LIMIT_S)}, asked to abort"
        words = self._last_words()
        self._errors.close()
        self._connection.close()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None
        pytest.fail(f"the server process: {what}; exit status {status}\n{words}", pytrace=False)


@pytest.fixture(scope="module", params=[True, False], ids=["checked", "unchecked"])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    child = Child(request.param)
    child.start()
    yield child
    child.close()


@pytest.fixture(scope="module")
def signatures(child: Child) -> Any:
    """The signatures that the server itself states, by model and key."""
    found = strategies.Signatures(vast=child.check_shapes)
    for name in child.names:
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        code, text, response = child.ask("message", METADATA, request.SerializeToString())
        assert code == Code.OK, text
        value = messages.GetModelMetadataResponse.FromString(response).metadata["signature_def"].value
        found[name] = {
            key: parse_signature(key, signature)
            for key, signature in messages.SignatureDefMap.FromString(value).signature_def.items()
            if key != "__saved_model_init_op"
        }
    return found


def fuzz(times: int, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Call *check* with *times* examples; the same ones every time where they are few."""
    run: Callable[[], None] = given(strategy)(check)
    settings(
        max_examples=times,
        database=None,
        deadline=None,
        derandomize=times < MANY,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )(run)()


def assert_is_answer(code: int, text: str, response: bytes, message: Any) -> None:
    """Check what holds for every answer to every request."""
    assert isinstance(text, str)
    assert code in Code.__members__.values(), text
    assert (code, text) != (Code.INTERNAL, "internal error")
    if code == Code.OK:
        message.FromString(response)


def examples(few: int) -> pytest.MarkDecorator:
    """Run a test with *few* examples, and in the long run with ``MANY``."""
    return pytest.mark.parametrize("times", [few, pytest.param(MANY, marks=pytest.mark.nightly)])


@examples(200)
def test_every_predict_message_gets_an_answer(child: Child, signatures: Any, times: int) -> None:
    def check(request: bytes) -> None:
        answer = child.ask("message", PREDICT, request)
        assert_is_answer(*answer, messages.PredictResponse)

    fuzz(times, strategies.predict_requests(signatures), check)


@examples(60)
def test_every_predict_message_gets_an_answer_over_tcp(child: Child, signatures: Any, times: int) -> None:
    def check(request: bytes) -> None:
        code, text, response = child.ask_by_tcp(PREDICT, request)
        assert_is_answer(code, text, response, messages.PredictResponse)

    fuzz(times, strategies.predict_requests(signatures), check)


@examples(60)
def test_every_metadata_message_gets_an_answer(child: Child, signatures: Any, times: int) -> None:
    def check(request: bytes) -> None:
        assert_is_answer(*child.ask("message", METADATA, request), messages.GetModelMetadataResponse)
        assert_is_answer(*child.ask_by_tcp(METADATA, request), messages.GetModelMetadataResponse)

    fuzz(times, strategies.metadata_requests(signatures), check)


@examples(200)
def test_every_value_of_a_python_caller_gets_an_answer(child: Child, signatures: Any, times: int) -> None:
    def check(source: str) -> None:
        code, text, _ = child.ask("values", source)
        assume(code != NO_VALUE)
        assert code in Code.__members__.values(), text

    fuzz(times, strategies.calls(signatures), check)
