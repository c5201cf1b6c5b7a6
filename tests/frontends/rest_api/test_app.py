from __future__ import annotations

import asyncio
import gzip
import io
import json
import weakref
from collections.abc import MutableMapping
from concurrent.futures import Future
from typing import Any, cast

import httpx
import numpy as np
import pytest

from inserve.errors import Code, UnavailableError
from inserve.frontends.rest_api import predict_route
from inserve.frontends.rest_api.app import RestApp, RestHandlers, RestOptions
from inserve.frontends.rest_api.response import Response
from inserve.frontends.rest_api.route import LONGEST_INLINE_BYTES, RequestKey
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.predict_together import RanTogether
from inserve.protos import messages
from inserve.testing import ManualClock

PREDICT = b"/v1/models/m:predict"
BODY = b'{"instances": [1.0, 2.0]}'


def ask(app: RestApp, method: str, target: bytes, body: bytes = b"", **headers: bytes) -> Response:
    """Return an answer that needs no pool."""
    answer = app.begin(app.route(RequestKey(method, target, **headers)), body)
    assert isinstance(answer, Response)
    return answer


def error_of(response: Response) -> str:
    return str(json.loads(response.body)["error"])


# --- routes ---------------------------------------------------------------------------------------


def test_a_short_run_is_answered_where_the_request_came(bench: Any) -> None:
    response = ask(bench.app(), "POST", PREDICT, BODY)
    assert (response.status, json.loads(response.body)) == (200, {"predictions": [2.0, 3.0]})
    assert bench.asked == [(ModelSpec("m"), 30.0, False)]
    assert not bench.pool.held


def test_version_label_and_signature_reach_the_handler(bench: Any) -> None:
    app = bench.app(RestOptions(timeout_s=None))
    body = b'{"signature_name": "two", "inputs": {"a": [1], "b": [2]}}'
    ask(app, "POST", b"/v1/models/m/versions/7:predict", body)
    ask(app, "POST", b"/v1/models/m/labels/a%2Fb:predict", BODY)
    assert bench.asked == [
        (ModelSpec("m", 7, None, "two"), None, False),
        (ModelSpec("m", None, "a/b"), None, False),
    ]


def test_a_long_run_is_done_by_the_pool(bench: Any) -> None:
    bench.is_long = True
    app = bench.app()
    future = app.begin(app.route(RequestKey("POST", PREDICT)), BODY)
    assert not isinstance(future, Response)
    assert not future.done()
    bench.pool.run_all()
    assert future.result().status == 200
    assert [may_block for _, _, may_block in bench.asked] == [False, True]


def test_a_large_body_is_read_by_the_pool(bench: Any) -> None:
    app = bench.app()
    body = b'{"instances": [1.0' + b" " * LONGEST_INLINE_BYTES + b"]}"
    future = app.begin(app.route(RequestKey("POST", PREDICT)), body)
    assert not isinstance(future, Response)
    assert not bench.asked
    bench.pool.run_all()
    assert json.loads(future.result().body) == {"predictions": [2.0]}


def test_a_full_pool_is_answered_with_429(bench: Any) -> None:
    bench.is_long = bench.pool.is_full = True
    response = ask(bench.app(), "POST", PREDICT, BODY)
    assert (response.status, error_of(response)) == (429, "too many calls")
    assert bench.counted == [("m", "predict", Code.RESOURCE_EXHAUSTED)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zz", 'Serving signature name: "zz" not found in signature def'),
        ("no_inputs", "Failed to get input map for signature: no_inputs"),
    ],
)
def test_a_signature_that_cannot_be_called_is_a_bad_request(bench: Any, name: str, text: str) -> None:
    response = ask(bench.app(), "POST", PREDICT, json.dumps({"signature_name": name, "inputs": 1}).encode())
    assert (response.status, error_of(response)) == (400, text)


def test_the_default_signature_is_named_in_errors(bench: Any) -> None:
    bench.signatures_by_name["serving_default"] = bench.signatures_by_name["no_inputs"]
    assert error_of(ask(bench.app(), "POST", PREDICT, BODY)).endswith("signature: DEFAULT")
    del bench.signatures_by_name["serving_default"]
    assert '"serving_default" not found' in error_of(ask(bench.app(), "POST", PREDICT, BODY))


def test_malformed_json_beats_an_unknown_model(bench: Any) -> None:
    assert ask(bench.app(), "POST", b"/v1/models/nope:predict", b"{").status == 400
    assert ask(bench.app(), "POST", b"/v1/models/nope:predict", BODY).status == 404


def test_examples_reach_classify_and_regress_as_messages(bench: Any) -> None:
    body = b'{"signature_name": "s", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    classified = ask(bench.app(), "POST", b"/v1/models/m:classify", body)
    assert json.loads(classified.body) == {"results": [[["a", 0.0]], [["a", 0.0]]]}
    spec, examples, may_block = bench.asked[0]
    assert (spec, may_block) == (ModelSpec("m", None, None, "s"), False)
    values = [messages.Example.FromString(e).features.feature["x"].float_list.value[0] for e in examples]
    assert values == [1.0, 2.0]
    regressed = ask(bench.app(), "POST", b"/v1/models/m:regress", body)
    assert json.loads(regressed.body) == {"results": [1.5, 1.5]}


@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        ("GET", b"/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("PUT", PREDICT, 400, "Malformed request: PUT /v1/models/m:predict"),
        ("HEAD", b"/v1/models/m", 400, "Malformed request: HEAD /v1/models/m"),
        ("POST", b"/v1/models/m:PREDICT", 400, "Malformed request: POST /v1/models/m:PREDICT"),
        ("POST", PREDICT + b"?a=b", 400, "Malformed request: POST /v1/models/m:predict?a=b"),
        ("GET", b"/v1/models/versions/1", 400, "Missing model name in request."),
        ("GET", b"/v1/models/m?x=1", 404, "Could not find any versions of model m?x=1"),
        ("GET", b"/v1/models/%FF", 404, "Could not find any versions of model \udcff"),
        ("GET", b"/v1/models/%FF/versions/2", 404, "Could not find version 2 of model \udcff"),
    ],
)
def test_what_the_grammar_does_not_know_is_an_error(
    bench: Any, method: str, target: bytes, status: int, text: str
) -> None:
    response = ask(bench.app(), method, target)
    assert response.status == status
    assert json.loads(response.body.decode("utf-8", "surrogateescape"))["error"] == text


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", b"/", 404),
        ("OPTIONS", b"/other", 404),
        ("GET", b"/v1/models/%zz", 400),
        ("get", b"/v1/models/m", 501),
        ("TRACE", b"/other", 501),
    ],
)
def test_what_does_not_reach_the_api_gets_a_page(bench: Any, method: str, target: bytes, status: int) -> None:
    response = ask(bench.app(RestOptions(cors=True)), method, target)
    assert (response.status, response.content_type, response.headers) == (status, b"text/html", ())
    assert not bench.counted


def test_a_version_beyond_64_bits_gets_an_empty_body(bench: Any) -> None:
    response = ask(bench.app(), "GET", b"/v1/models/m/versions/9223372036854775808")
    assert response[:3] == (400, b"application/json", b"")


def test_status_is_printed_as_protobuf_prints_it(bench: Any) -> None:
    expected = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    answer = json.loads(ask(bench.app(), "GET", b"/v1/models/m/labels/any").body)
    assert answer == {"model_version_status": [expected]}
    listed = json.loads(ask(bench.app(), "GET", b"/v1/models").body)
    assert listed == {"models": [{"name": "empty", "versions": []}, {"name": "m", "versions": [expected]}]}


def test_metadata_is_printed_on_the_pool(bench: Any) -> None:
    app = bench.app()
    future = app.begin(app.route(RequestKey("GET", b"/v1/models/m/versions/4/metadata")), b"")
    bench.pool.run_all()
    document = json.loads(future.result().body)
    assert document["model_spec"] == {"name": "m", "version": "4", "signature_name": ""}
    assert document["metadata"]["signature_def"]["signature_def"]["s"]["method_name"] == "<m>"


# --- headers --------------------------------------------------------------------------------------


def test_cors_headers_come_with_every_answer_of_the_api(bench: Any) -> None:
    app = bench.app(RestOptions(cors=True))
    expected = {
        b"Access-Control-Allow-Origin": b"*",
        b"Access-Control-Allow-Methods": b"POST, GET",
        b"Access-Control-Allow-Headers": b"Content-Type",
    }
    for method, target, body in (("POST", PREDICT, BODY), ("POST", PREDICT, b"{"), ("GET", b"/v1/foo", b"")):
        assert dict(ask(app, method, target, body).headers) == expected
    assert ask(bench.app(), "POST", PREDICT, BODY).headers == ()


@pytest.mark.parametrize(
    ("origin", "status"), [(b"http://h", 200), (b"xhttps://h", 200), (b"null", 400), (b"", 400)]
)
def test_options_looks_at_the_origin_alone(bench: Any, origin: bytes, status: int) -> None:
    response = ask(bench.app(), "OPTIONS", b"/v1/anything", origin=origin)
    assert response[:3] == (status, b"text/html; charset=ISO-8859-1", b"")


def test_gzip_bodies_are_decompressed(bench: Any) -> None:
    response = ask(bench.app(), "POST", PREDICT, gzip.compress(BODY), content_encoding=b"gzip")
    assert response.status == 200
    assert ask(bench.app(), "POST", PREDICT, BODY, content_encoding=b"gzip").status == 400


def test_a_large_gzip_body_is_decompressed_by_the_pool(bench: Any) -> None:
    app = bench.app()
    body = gzip.compress(b'{"instances": [1.0' + b" " * LONGEST_INLINE_BYTES + b"]}")
    future = app.begin(app.route(RequestKey("POST", PREDICT, content_encoding=b"gzip")), body)
    bench.pool.run_all()
    assert json.loads(future.result().body) == {"predictions": [2.0]}


# --- metrics --------------------------------------------------------------------------------------


def test_the_page_of_metrics_is_at_its_path_only(bench: Any) -> None:
    app = bench.app(RestOptions(prometheus_path="/v1/metrics"), metrics_page=lambda: b"# page")
    answer = app.begin(app.route(RequestKey("PUT", b"/v1/metrics")), b"")
    bench.pool.run_all()
    assert isinstance(answer, Future)
    assert answer.result() == Response(200, b"text/plain", b"# page")
    wrong = ask(app, "GET", b"/v1/metrics?x=1")
    assert wrong[:3] == (400, b"text/plain", b"Unexpected path: /v1/metrics?x=1. Should be /v1/metrics")
    assert ask(app, "GET", b"/V1/metrics").content_type == b"application/json"
    assert ask(bench.app(), "GET", b"/v1/metrics").status == 400


def test_every_request_of_the_api_is_counted_once(bench: Any) -> None:
    app = bench.app()
    ask(app, "POST", PREDICT, BODY)
    ask(app, "POST", b"/v1/models/nope:predict", BODY)
    ask(app, "GET", b"/v1/models/m")
    ask(app, "GET", b"/v1/foo")
    ask(app, "GET", b"/elsewhere")
    bench.is_long = True
    app.begin(app.route(RequestKey("POST", PREDICT)), BODY)
    bench.pool.run_all()
    assert bench.counted == [
        ("m", "predict", Code.OK),
        ("nope", "predict", Code.NOT_FOUND),
        ("m", "", Code.OK),
        ("", "", Code.INVALID_ARGUMENT),
        ("m", "predict", Code.OK),
    ]


def test_a_defect_of_a_handler_is_an_internal_error(bench: Any) -> None:
    bench.error = KeyError("secret")
    response = ask(bench.app(), "POST", PREDICT, BODY)
    assert (response.status, error_of(response)) == (500, "internal error")


# --- other bodies ---------------------------------------------------------------------------------


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_an_npy_body_fills_the_one_input(bench: Any) -> None:
    response = ask(bench.app(), "POST", PREDICT, npy(np.array([1.0, 2.0])), content_type=b"application/x-npy")
    assert json.loads(response.body) == {"outputs": [2.0, 3.0]}


def test_an_npy_answer_is_given_to_who_accepts_it(bench: Any) -> None:
    response = ask(
        bench.app(),
        "POST",
        PREDICT + b"?signature_name=serving_default",
        npy(np.array([1.0, 2.0], np.float32)),
        content_type=b"Application/X-NPY; v=1",
        accept=b"application/x-npy, */*",
    )
    assert response.content_type == b"application/x-npy"
    answer = np.load(io.BytesIO(response.body), allow_pickle=False)
    assert answer.dtype == np.float32
    assert answer.tolist() == [2.0, 3.0]


def test_errors_of_npy_bodies_are_json(bench: Any) -> None:
    app = bench.app()
    for target, body, text in (
        (PREDICT, b"junk", "not an .npy file"),
        (PREDICT + b"?signature_name=two", npy(np.zeros(1)), "has 2 inputs (a, b)"),
        (PREDICT + b"?signature_name=zz", npy(np.zeros(1)), '"zz" not found'),
        (PREDICT + b"?other=1", npy(np.zeros(1)), "Malformed request"),
    ):
        response = ask(app, "POST", target, body, content_type=b"application/x-npy")
        assert (response.status, response.content_type) == (400, b"application/json")
        assert text in error_of(response)


def test_a_message_body_takes_its_model_from_the_target(bench: Any) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = "other"
    request.model_spec.signature_name = "s"
    response = ask(
        bench.app(),
        "POST",
        b"/v1/models/m/versions/5:predict",
        request.SerializeToString(),
        content_type=b"application/x-protobuf",
    )
    assert response.content_type == b"application/x-protobuf"
    spec = messages.PredictResponse.FromString(response.body).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 5, "s")


def test_a_message_body_cannot_swallow_the_model_of_the_target(bench: Any) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = "other"
    body = request.SerializeToString() + b"\x1a\x05"  # an output_filter of five bytes that do not come
    response = ask(bench.app(), "POST", PREDICT, body, content_type=b"application/x-protobuf")
    assert (response.status, bench.asked) == (400, [])
    assert "PredictRequest" in error_of(response)


# --- ASGI -----------------------------------------------------------------------------------------


def client(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, **options), base_url="http://test")


async def test_the_application_answers_over_asgi(bench: Any) -> None:
    async with client(bench.app(RestOptions(cors=True))) as http:
        answer = await http.post("/v1/models/m:predict", content=BODY)
        assert answer.json() == {"predictions": [2.0, 3.0]}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (await http.get("/elsewhere")).status_code == 404
        assert (await http.post("/v1/models/m:predict?a=b", content=BODY)).status_code == 400


async def test_a_mounted_application_takes_its_prefix_off(bench: Any) -> None:
    async with client(bench.app(), root_path="/tf") as http:
        assert (await http.post("/tf/v1/models/m:predict", content=BODY)).status_code == 200
        assert (await http.get("/tf/other")).status_code == 404


@pytest.mark.parametrize(
    "scope",
    [
        {"path": "/tf/v1/models/m:predict", "raw_path": b"/tf/v1/models/m:predict", "root_path": "/tf"},
        {"path": "/v1/models/m:predict", "raw_path": b"/tf/v1/models/m:predict", "root_path": "/tf"},
        {"path": "/v1/models/m:predict", "raw_path": b"/v1/models/m:predict", "root_path": "/tf"},
        {"path": "/a b/v1/models/m:predict", "raw_path": b"/a%20b/v1/models/m:predict", "root_path": "/a b"},
        {"path": "/v1/v1/models/m:predict", "raw_path": b"/v1/v1/models/m:predict", "root_path": "/v1"},
        {"path": "/v1/models/m:predict", "root_path": ""},
        {"path": "/v1/models/m:predict"},
    ],
)
async def test_every_way_to_say_where_it_is_mounted_is_understood(bench: Any, scope: dict[str, Any]) -> None:
    sent = await exchange(bench.app(), scope)
    assert sent[0]["status"] == 200


async def exchange(
    app: RestApp, scope: dict[str, Any], *bodies: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> list[MutableMapping[str, Any]]:
    """Return what *app* sends for a POST with *bodies*, after which the client goes."""
    pieces = list(bodies or (BODY,))
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    whole = {"type": "http", "method": "POST", "query_string": b"", "headers": headers, **scope}
    await app(whole, receive, send)
    return sent


PATH = {"path": "/v1/models/m:predict"}


async def test_a_body_may_come_in_pieces(bench: Any) -> None:
    sent = await exchange(bench.app(), PATH, BODY[:5], b"", BODY[5:])
    assert json.loads(sent[1]["body"]) == {"predictions": [2.0, 3.0]}


async def test_a_body_over_the_limit_is_answered_with_413(bench: Any) -> None:
    app = bench.app(RestOptions(max_body_bytes=len(BODY)))
    assert (await exchange(app, PATH))[0]["status"] == 200
    sent = await exchange(app, PATH, BODY, b"x", b"y")
    assert sent[0]["status"] == 413
    assert "longer than 25 bytes" in json.loads(sent[1]["body"])["error"]


async def test_a_client_that_goes_while_its_run_waits_is_not_run_for(bench: Any) -> None:
    bench.is_long = True
    assert await exchange(bench.app(), PATH) == []
    assert bench.pool.run_all() == 0


async def test_a_client_that_goes_before_its_body_ends_is_not_answered(bench: Any) -> None:
    app = bench.app()
    sent: list[Any] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "headers": [], **PATH}, receive, send)
    assert (sent, bench.asked) == ([], [])


async def test_a_run_on_the_pool_is_awaited(bench: Any) -> None:
    bench.is_long = True
    async with client(bench.app()) as http:
        task = asyncio.ensure_future(http.post("/v1/models/m:predict", content=BODY))
        while not bench.pool.held:
            await asyncio.sleep(0)
        bench.pool.run_all()
        assert (await task).json() == {"predictions": [2.0, 3.0]}


async def test_a_pool_that_stops_is_answered_with_503(bench: Any) -> None:
    bench.is_long = True
    async with client(bench.app()) as http:
        task = asyncio.ensure_future(http.post("/v1/models/m:predict", content=BODY))
        while not bench.pool.held:
            await asyncio.sleep(0)
        bench.pool.cancel_all()
        assert (await task).status_code == 503


async def test_the_lifespan_is_answered(bench: Any) -> None:
    messages_in = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> MutableMapping[str, Any]:
        return messages_in.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await bench.app()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_remembered_routes_have_a_bound(bench: Any) -> None:
    app = bench.app()
    first = weakref.ref(app.route(RequestKey("GET", b"/v1/models/0")))
    for number in range(1, 3000):
        app.route(RequestKey("GET", b"/v1/models/%d" % number))
    assert first() is None


def test_an_unavailable_model_is_answered_with_503(bench: Any) -> None:
    bench.error = UnavailableError("the server is not started")
    assert ask(bench.app(), "POST", PREDICT, BODY).status == 503


# --- requests that have come together -------------------------------------------------------------


class Together:
    """Adds 1 to the rows of requests that have come together; notes how many rows each has."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self.asked: list[list[int]] = []
        self.is_broken = False
        self.limit = 16

    def most_rows(self, spec: ModelSpec) -> int:
        return self.limit if spec.name == "m" else 0

    def run_bound(self, spec: ModelSpec, bind: Any, timeout_s: float | None) -> RanTogether | None:
        assert timeout_s == 30.0
        bound = bind(self._bench.signatures_by_name["serving_default"]) if spec.name == "m" else None
        if bound is None:
            return None
        if self.is_broken:
            raise ZeroDivisionError
        [array], rows = bound[0].values(), bound[1]
        if sum(rows) > self.limit:
            return None
        self.asked.append(rows)
        parts = [[part + np.float32(1)] for part in np.split(array, np.cumsum(rows)[:-1])]
        return RanTogether(("y",), parts, 3, "serving_default", 0.5)


def requests_of(app: RestApp, *asked: tuple[bytes, bytes]) -> list[Any]:
    """Return what becomes of requests for Predict of a model with a body."""
    requests = [
        (app.route(RequestKey("POST", b"/v1/models/%b:predict" % model)), body) for model, body in asked
    ]
    return app.begin_together(requests)


def app_of(bench: Any, together: Together, **options: Any) -> RestApp:
    handlers = RestHandlers(bench, bench, bench, bench, bench, bench, cast(Any, together))
    return RestApp(handlers, bench.pool, RestOptions(**options), on_request=bench._count)


def test_predict_requests_for_one_model_are_answered_together(bench: Any) -> None:
    together = Together(bench)
    answers = requests_of(
        app_of(bench, together),
        (b"m", b'{"instances": [1.0]}'),
        (b"other", b'{"instances": [1.0]}'),
        (b"m", b'{"instances": [2.0, 3.0]}'),
    )
    assert answers[1] is None
    assert [answers[0].body, answers[2].body] == [b'{"predictions": [2.0]}', b'{"predictions": [3.0,4.0]}']
    assert together.asked == [[1, 2]]
    assert bench.counted == [("m", "predict", Code.OK)] * 2


def test_more_of_them_than_fit_in_a_run_are_several_runs(bench: Any) -> None:
    together = Together(bench)
    together.limit = 2
    answers = requests_of(app_of(bench, together), *[(b"m", b'{"instances": [1.0]}')] * 5)
    assert [answer.body for answer in answers] == [b'{"predictions": [2.0]}'] * 5
    assert together.asked == [[1, 1], [1, 1], [1]]


def test_those_after_a_run_that_cannot_be_are_left_to_be_answered_alone(bench: Any) -> None:
    together = Together(bench)
    together.limit = 2
    one, three = b'{"instances": [1.0]}', b'{"instances": [1.0, 2.0, 3.0]}'
    answers = requests_of(app_of(bench, together), *[(b"m", body) for body in (one, one, three, one, one)])
    assert [answer is None for answer in answers] == [False, False, True, True, True]
    assert together.asked == [[1, 1]]


def test_nothing_is_read_where_no_rows_may_be_one_run(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(predict_route, "bind_rows_together", never)
    together = Together(bench)
    together.limit = 1
    answers = requests_of(app_of(bench, together), *[(b"m", b'{"instances": [1.0]}')] * 2)
    assert [answer.status for answer in answers] == [200, 200]


def test_where_one_of_them_is_bad_each_has_its_own_answer(bench: Any) -> None:
    app = app_of(bench, Together(bench))
    answers = requests_of(app, (b"m", b'{"instances": [1.0]}'), (b"m", b'{"instances": ["a"]}'))
    assert [answer.status for answer in answers] == [200, 400]
    assert bench.counted == [("m", "predict", Code.OK), ("m", "predict", Code.INVALID_ARGUMENT)]


def test_a_defect_is_logged_and_leaves_each_to_be_answered_by_itself(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    together = Together(bench)
    together.is_broken = True
    answers = requests_of(app_of(bench, together), *[(b"m", b'{"instances": [1.0]}')] * 2)
    assert [answer.body for answer in answers] == [b'{"predictions": [2.0]}'] * 2
    assert caplog.messages == ["Unexpected ZeroDivisionError in predict of model m"]


def test_long_bodies_are_not_read_together(bench: Any) -> None:
    app = app_of(bench, Together(bench))
    long = b'{"instances": [1.0]' + b" " * 40_000 + b"}"
    assert requests_of(app, (b"m", b'{"instances": [1.0]}'), (b"m", long)) == [None] * 2


@pytest.mark.parametrize("is_broken", [False, True])
def test_answers_given_together_have_the_cors_headers(bench: Any, is_broken: bool) -> None:
    together = Together(bench)
    together.is_broken = is_broken
    answers = requests_of(app_of(bench, together, cors=True), *[(b"m", b'{"instances": [1.0]}')] * 2)
    assert all(dict(answer.headers)[b"Access-Control-Allow-Origin"] == b"*" for answer in answers)


# --- requests in stages ---------------------------------------------------------------------------


def test_requests_that_are_no_run_together_are_read_then_run_then_written(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noting(name: str) -> None:
        function = getattr(predict_route, name)

        def noted(*args: Any) -> Any:
            events.append(name)
            return function(*args)

        monkeypatch.setattr(predict_route, name, noted)

    noting("parse_predict_body")
    noting("response_of_outputs")
    answers = requests_of(bench.app(), (b"m", b'{"instances": [1.0]}'), (b"m", b'{"inputs": [2.0]}'))
    assert [answer.body for answer in answers] == [b'{"predictions": [2.0]}', b'{"outputs": [3.0]}']
    assert events == ["parse_predict_body"] * 2 + ["response_of_outputs"] * 2
    assert len(bench.asked) == 2
    assert bench.counted == [("m", "predict", Code.OK)] * 2


def test_each_stage_may_fail_for_one_of_them(bench: Any) -> None:
    good, bodies = (
        b'{"instances": [1.0]}',
        [b"{", b'{"instances": ["a"]}', b'{"signature_name": "no", "inputs": 1}'],
    )
    answers = requests_of(bench.app(), *[(b"m", body) for body in (good, *bodies, good)])
    assert [answer.status for answer in answers] == [200, 400, 400, 400, 200]
    assert [answer.body for answer in answers[1:4]] == [
        ask(bench.app(), "POST", PREDICT, body).body for body in bodies
    ]


def test_a_run_that_would_hold_up_the_others_goes_to_the_pool(bench: Any) -> None:
    bench.is_long = True
    answers = requests_of(bench.app(), *[(b"m", b'{"instances": [1.0]}')] * 2)
    assert all(isinstance(answer, Future) for answer in answers)
    bench.pool.run_all()
    assert [answer.result().body for answer in answers] == [b'{"predictions": [2.0]}'] * 2
    assert bench.asked == [(ModelSpec("m"), 30.0, may_block) for may_block in (False, False, True, True)]


def test_a_full_pool_refuses_what_came_together(bench: Any) -> None:
    bench.is_long = bench.pool.is_full = True
    answers = requests_of(bench.app(), *[(b"m", b'{"instances": [1.0]}')] * 2)
    assert [answer.status for answer in answers] == [429] * 2


def test_only_as_many_are_answered_as_take_no_longer_than_answers_may_wait(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    monkeypatch.setattr(predict_route, "perf_counter", clock.now)
    run = bench.predict_bound

    def slow_run(*args: Any) -> Any:
        clock.advance(bench.run_s)
        return run(*args)

    bench.predict_bound = slow_run
    app, good = bench.app(), (b"m", b'{"instances": [1.0]}')

    def num_answered() -> int:
        return sum(answer is not None for answer in requests_of(app, *[good] * 16))

    bench.run_s = 0.9e-3
    counts = [num_answered() for _ in range(12)]
    assert (counts[0], counts[-1]) == (3, 2)
    bench.run_s = 1.5e-3
    assert 0 in [num_answered() for _ in range(40)]
    bench.run_s = 0.1e-3
    assert max(num_answered() for _ in range(60)) == 16


def test_one_model_after_another_is_asked_as_long_as_answers_may_wait(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    monkeypatch.setattr("inserve.frontends.rest_api.app.perf_counter", clock.now)
    run = bench.predict_bound

    def slow_run(*args: Any) -> Any:
        clock.advance(1.2e-3)
        return run(*args)

    bench.predict_bound = slow_run
    asked = [(model, b'{"instances": [1.0]}') for model in (b"m", b"other", b"m", b"other")]
    answers = requests_of(bench.app(), *asked)
    assert [answer is None for answer in answers] == [False, True, False, True]


def test_a_single_request_is_not_answered_in_stages(bench: Any) -> None:
    assert requests_of(bench.app(), (b"m", b'{"instances": [1.0]}'), (b"other", BODY)) == [None] * 2
