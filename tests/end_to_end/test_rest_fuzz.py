"""Whatever arrives at the REST port, the server answers: no request ends it, holds it up or is its own fault.

The server lives in a child process (``rest_fuzz_child.py``), because some kernels of TensorFlow end theirs.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from inserve.protos import messages
from inserve.saved_model.signature import parse_signature

HERE = Path(__file__).parent
MODELS = HERE.parent / "golden" / "models"
NAMES = ("half_plus_two", "multi", "strings", "tf1_examples", "types")

LIMIT_S = 60.0
PEAK_GROWTH_BYTES = 3 << 29
"""For bodies of up to 100 MB: what came, what it stands for, and what is answered."""

REFUSALS = {400, 404, 408, 413, 429, 431, 499, 501, 503, 504}
MANY = 20_000
"""Examples of one test in the long run."""

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]+\r\n")
_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)\r\n")


def _load(name: str) -> Any:
    # A test file cannot import its neighbour in pytest's importlib mode.
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


strategies = _load("rest_fuzz_requests")
grpc_strategies = _load("fuzz_requests")


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


class Child:
    """The server process; a new one takes the place of one that died."""

    def __init__(self, check_shapes: bool) -> None:
        self.check_shapes = check_shapes
        self.metadata: dict[str, bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: http.client.HTTPConnection | None = None

    def start(self) -> None:
        """Start a child unless one runs."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # the child keeps writing to it
        arguments = [HERE / "rest_fuzz_child.py", theirs.fileno(), self.check_shapes, MODELS, *NAMES]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                pass_fds=[theirs.fileno()],
                stderr=self._errors,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            )
        self._connection = Connection(ours.detach())
        self.port, self.metadata = self._receive()
        _, self._peak_at_start = self._ask_state()

    def post(self, ask: Any) -> Answer:
        """Return the answer to *ask*, sent on a connection that is kept."""
        self.start()
        if self._kept is None:
            self._kept = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            self._kept.request("POST", ask.target, ask.body, ask.headers)
            response = self._kept.getresponse()
            return Answer(response.status, response.getheader("Content-Type", ""), response.read())
        except (OSError, http.client.HTTPException) as error:
            self._fail(repr(error))

    @contextlib.contextmanager
    def connect(self) -> Iterator[socket.socket]:
        """Return a new connection; what goes wrong with it is the server's fault."""
        self.start()
        try:
            with socket.create_connection(("127.0.0.1", self.port), LIMIT_S) as connection:
                yield connection
        except OSError as error:
            self._fail(repr(error))

    def check(self) -> None:
        """Fail where the server noticed a defect of its own, took too much memory, or does not answer."""
        defects, peak = self._ask_state()
        assert defects == []
        if peak - self._peak_at_start > PEAK_GROWTH_BYTES:
            self._fail(f"took {peak} bytes of memory, {self._peak_at_start} at the start")
        answer = self.post(strategies.Ask("/v1/models/half_plus_two:predict", b'{"instances": [3.0]}', {}))
        assert json.loads(answer.body) == strategies.GOOD_VALUE

    def close(self) -> None:
        """End the child in good order.

        Raises:
            AssertionError: It did not end with status 0.
        """
        if self._process is None:
            return
        self._connection.send(None)
        status = self._process.wait(LIMIT_S)
        errors = self._last_words()
        self._forget()
        assert status == 0, errors

    def _ask_state(self) -> tuple[list[str], int]:
        try:
            self._connection.send("state")
        except OSError as error:
            self._fail(f"gone before the question: {error}")
        defects, peak = self._receive()
        return defects, peak

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

    def _forget(self) -> None:
        self._errors.close()
        self._connection.close()
        if self._kept is not None:
            self._kept.close()
        self._process = self._kept = None

    def _fail(self, what: str) -> NoReturn:
        assert self._process is not None
        try:
            status: object = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            status = f"{self._process.wait(LIMIT_S)}, asked to abort"
        words = self._last_words()
        self._forget()
        pytest.fail(f"the server process: {what}; exit status {status}\n{words}", pytrace=False)


@pytest.fixture(scope="module", params=[True, False], ids=["checked", "unchecked"])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    child = Child(request.param)
    child.start()
    yield child
    child.close()


CHECKED_ONLY = pytest.mark.parametrize("child", [True], ids=["checked"], indirect=True)
"""For what has nothing to do with shapes."""


@pytest.fixture(scope="module")
def signatures(child: Child) -> Any:
    """The signatures that the server itself states, by model and key."""
    found = grpc_strategies.Signatures(vast=child.check_shapes)
    for name, response in child.metadata.items():
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


def examples(few: int) -> pytest.MarkDecorator:
    """Run a test with *few* examples, and in the long run with ``MANY``."""
    return pytest.mark.parametrize("times", [few, pytest.param(MANY, marks=pytest.mark.nightly)])


def json_of(body: bytes) -> Any:
    """Return the value of JSON whose strings may hold any bytes, as those of a model do."""
    return json.loads(body.decode("utf-8", "surrogateescape"), strict=False)


def assert_is_answer(answer: Answer) -> None:
    """Check what holds for every answer to every POST of a well-framed body."""
    if answer.status != 200:
        assert answer.status in REFUSALS, answer
        assert not answer.body or list(json_of(answer.body)) == ["error"]
    elif answer.content_type == "application/json":
        assert isinstance(json_of(answer.body), dict)
    elif answer.content_type == "application/x-protobuf":
        messages.PredictResponse.FromString(answer.body)
    else:
        assert answer.content_type == "application/x-npy"
        assert answer.body.startswith(b"\x93NUMPY")


@examples(150)
def test_every_json_body_gets_an_answer(child: Child, signatures: Any, times: int) -> None:
    def check(ask: Any) -> None:
        assert_is_answer(child.post(ask))
        child.check()

    fuzz(times, strategies.json_asks(signatures), check)


@examples(60)
def test_every_binary_body_gets_an_answer(child: Child, signatures: Any, times: int) -> None:
    def check(ask: Any) -> None:
        assert_is_answer(child.post(ask))
        child.check()

    fuzz(times, strategies.binary_asks(signatures, grpc_strategies.predict_requests(signatures)), check)


def split_answers(data: bytes) -> list[Answer]:
    """Return the final answers that *data* is made of.

    Raises:
        AssertionError: It is made of anything else.
    """
    answers = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        line = _STATUS_LINE.match(data)
        assert line is not None, data[:200]
        assert end, data[:200]
        status = int(line[1])
        if status == 100:
            data = rest
            continue
        length = _LENGTH.search(head + b"\r\n")
        assert length is not None, head
        assert len(rest) >= int(length[1]), data[:200]
        answers.append(Answer(status, "", rest[: int(length[1])]))
        data = rest[int(length[1]) :]
    return answers


def exchange(child: Child, sent: Any) -> list[Answer]:
    """Send what *sent* says, and return the answers; none where the client does not wait for them."""
    data = b""
    with child.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in sent.pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has answered, waited, and closed
        if sent.end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if sent.end != "finish":
            return []
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(1 << 16):
            data += more
    return split_answers(data)


@CHECKED_ONLY
@examples(150)
def test_good_requests_are_answered_whatever_follows_them(child: Child, times: int) -> None:
    def check(sent: Any) -> None:
        answers = exchange(child, sent)
        if sent.end == "finish":
            assert len(answers) >= sent.num_good
            for answer in answers[: sent.num_good]:
                assert json.loads(answer.body) == strategies.GOOD_VALUE
            assert {answer.status for answer in answers} <= {200, *REFUSALS}
        child.check()

    fuzz(times, strategies.exchanges(), check)


# --- sizes ----------------------------------------------------------------------------------------

PREDICT = "/v1/models/half_plus_two:predict"

DEPTHS = {
    "lists": (PREDICT, b'{"instances": %b}', b"[", b"]"),
    "lists by name": (PREDICT, b'{"inputs": %b}', b"[", b"]"),
    "objects": (PREDICT, b'{"instances": [%b]}', b'{"x":', b"}"),
    "lists outside": (PREDICT, b"%b", b"[", b"]"),
    "objects outside": (PREDICT, b"%b", b'{"instances":', b"}"),
    "encoded strings": ("/v1/models/strings:predict", b'{"instances": %b}', b'{"b64":', b"}"),
    "names": (PREDICT, b'{"signature_name": %b}', b"[", b"]"),
    "unknown members": (PREDICT, b'{"instances": [[3.0]], "more": %b}', b"[{", b"}]"),
    "features": ("/v1/models/tf1_examples:classify", b'{"examples": [{"x": %b}]}', b"[", b"]"),
    "contexts": ("/v1/models/tf1_examples:regress", b'{"context": %b, "examples": []}', b'{"x":', b"}"),
}
"""Targets, bodies with a place, and what one level is opened and closed with there."""


@CHECKED_ONLY
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("place", DEPTHS)
@pytest.mark.parametrize("levels", [20_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_no_depth_is_too_much(child: Child, place: str, is_closed: bool, levels: int) -> None:
    target, around, opening, closing = DEPTHS[place]
    text = around % (opening * levels + (b"1" + closing * levels if is_closed else b""))
    for body, headers in ((text, {}), (gzip.compress(text, 1), {"Content-Encoding": "gzip"})):
        answer = child.post(strategies.Ask(target, body, headers))
        assert_is_answer(answer)
        assert answer.status == 400
        assert len(answer.body) < 1 << 20
    child.check()


@CHECKED_ONLY
def test_a_million_levels_are_refused(child: Child) -> None:
    body = b'{"instances": ' + b"[" * 1_000_000 + b"3.0" + b"]" * 1_000_000 + b"}"
    assert child.post(strategies.Ask(PREDICT, body, {})).status == 400
    child.check()


VAST: dict[str, tuple[bytes, bytes, bytes]] = {
    "digits": (b'{"instances": [', b"9", b"]}"),
    "negative digits": (b'{"inputs": -', b"9", b"}"),
    "fraction": (b'{"instances": [0.', b"3", b"]}"),
    "exponent": (b'{"instances": [1e', b"9", b"]}"),
    "leading zeros": (b'{"instances": [', b"0", b"]}"),
    "text": (b'{"instances": ["', b"a", b'"]}'),
    "blanks": (b'{"instances": [3.0', b" ", b"]}"),
    "name": (b'{"signature_name": "', b"a", b'", "instances": [3.0]}'),
    "key": (b'{"', b"a", b'": 1, "instances": [3.0]}'),
    "lists": (b'{"instances": [', b"[],", b"[]]}"),
    "objects": (b'{"instances": [', b"{},", b"{}]}"),
    "numbers": (b'{"inputs": {"y": [', b"1,", b"1]}}"),
    "members": (b'{"inputs": {', b'"a":1,', b'"a":1}}'),
    "nothing": (b"", b"\0", b""),
}
"""What bodies begin with, consist of, and end with."""


@CHECKED_ONLY
@pytest.mark.parametrize("kind", VAST)
@pytest.mark.parametrize("size", [1_000_000, pytest.param(100_000_000, marks=pytest.mark.nightly)])
def test_a_vast_body_is_answered(child: Child, kind: str, size: int) -> None:
    begin, piece, end = VAST[kind]
    # Nothing is quicker to send than to read; what costs more for each byte is given fewer of them.
    body = begin + piece * (size // (len(piece) if len(piece) == 1 else 5 * len(piece))) + end
    answer = child.post(strategies.Ask(PREDICT, body, {}))
    assert_is_answer(answer)
    assert len(answer.body) < size + 100_000
    child.check()


@CHECKED_ONLY
def test_a_number_of_100_million_digits_is_answered(child: Child) -> None:
    body = b'{"inputs": 0.' + b"3" * 100_000_000 + b"}"
    answer = child.post(strategies.Ask(PREDICT, body, {}))
    assert answer.status in (200, 400)
    child.check()


@CHECKED_ONLY
def test_a_gzip_bomb_is_answered(child: Child) -> None:
    bomb = gzip.compress(bytes(300 << 20), 1)
    for body in (bomb, bomb[:-4] + (100 << 20).to_bytes(4, "little"), gzip.compress(bomb, 1)):
        answer = child.post(strategies.Ask(PREDICT, body, {"Content-Encoding": "gzip"}))
        assert answer.status == 400
    child.check()


@CHECKED_ONLY
@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(strategies.GOOD, id="plain"),
        pytest.param(
            strategies.GOOD_CHUNKED,
            id="chunked",
        ),
    ],
)
def test_any_number_of_requests_may_come_at_once(child: Child, request_bytes: bytes) -> None:
    answers = exchange(child, strategies.Exchange(3000, [request_bytes * 3000], "finish"))
    assert [answer.status for answer in answers] == [200] * 3000
    child.check()
