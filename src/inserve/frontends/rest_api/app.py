"""The REST API: which route a request takes, and what becomes of its answer; an ASGI application.

``route`` and ``begin`` are all that a server needs. ``RestServer`` calls them directly; any other
server, and applications that mount this one, go through ASGI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from inserve.errors import Code
from inserve.frontends.rest_api.asgi import (
    BodyTooLongError,
    Receive,
    Scope,
    Send,
    answer_lifespan,
    key_of_scope,
    read_body,
    send_response,
    unless_disconnected,
)
from inserve.frontends.rest_api.binary_routes import (
    NPY_TYPE,
    PROTOBUF_TYPE,
    MessageRoute,
    NpyRoute,
    media_type,
)
from inserve.frontends.rest_api.content_encoding import declared_bytes, gunzip, is_gzip
from inserve.frontends.rest_api.examples_routes import classify_route, regress_route
from inserve.frontends.rest_api.model_routes import ListRoute, MetadataRoute, StatusRoute
from inserve.frontends.rest_api.openapi import OpenApiRoute
from inserve.frontends.rest_api.predict_route import FEWEST_TOGETHER, PredictRoute
from inserve.frontends.rest_api.request_head import METHODS
from inserve.frontends.rest_api.request_target import (
    ModelTarget,
    Target,
    VersionTooLargeError,
    inference_target,
    model_target,
    openapi_target,
    parse_target,
)
from inserve.frontends.rest_api.response import (
    CORS_HEADERS,
    JSON_TYPE,
    Response,
    empty_response,
    error_response,
    html_page,
)
from inserve.frontends.rest_api.route import (
    LONGEST_INLINE_BYTES,
    LONGEST_UNSENT_S,
    Answer,
    FixedRoute,
    ModelDirectory,
    Pool,
    RequestKey,
    Rest,
    Route,
)
from inserve.frontends.rest_api.status_codes import code_and_message
from inserve.handlers.classify import ClassifyHandler
from inserve.handlers.model_metadata import ModelMetadataHandler
from inserve.handlers.model_spec import ModelSpec
from inserve.handlers.model_status import AnswersModelStatus
from inserve.handlers.predict import PredictHandler
from inserve.handlers.predict_together import PredictTogether
from inserve.handlers.regress import RegressHandler
from inserve.metrics.request_record import RequestRecord

__all__ = ["MetricsPage", "OnRequest", "RestApp", "RestHandlers", "RestOptions"]

_MAX_ROUTES = 1024
_LONGEST_KEPT_TARGET = 1024
_OPTIONS_TYPE = b"text/html; charset=ISO-8859-1"

OnRequest: TypeAlias = Callable[[RequestRecord, str, Code, float], None]
"""Called for every request of the REST API: what is known of it, its verb, its code, and its seconds."""

MetricsPage: TypeAlias = Callable[[], bytes]
"""Returns the text of the page for Prometheus."""


@dataclass(frozen=True)
class RestOptions:
    """How REST requests are answered."""

    timeout_s: float | None = 30.0
    """How long a model may run for one request; None without limit."""
    cors: bool = False
    """Send the headers that let pages of any origin use the API."""
    max_body_bytes: int = 2**31 - 1
    """The largest body that is read; longer ones are answered with 413."""
    prometheus_path: str | None = None
    """Path of the page with the metrics; None: there is none."""


@dataclass(frozen=True)
class RestHandlers:
    """What answers, without any transport."""

    predict: PredictHandler
    classify: ClassifyHandler
    regress: RegressHandler
    model_metadata: ModelMetadataHandler
    model_status: AnswersModelStatus
    models: ModelDirectory
    predict_together: PredictTogether | None = None
    """None: requests are answered one by one."""


class RestApp:
    """Answers TensorFlow Serving's REST API; an ASGI 3 application. Any thread and event loop may use it.

    What takes long runs on *pool*. With *metrics_page* and ``options.prometheus_path`` there is a page of
    metrics; *on_request* hears of every request of the API.
    """

    def __init__(
        self,
        handlers: RestHandlers,
        pool: Pool,
        options: RestOptions | None = None,
        metrics_page: MetricsPage | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.options = options or RestOptions()
        self._handlers = handlers
        self._pool = pool
        self._metrics_page = metrics_page
        self._on_request = on_request or _hear_nothing
        self._has_cors = self.options.cors
        self._routes: dict[tuple[RequestKey, str], Route] = {}

    # --- routes -----------------------------------------------------------------------------------

    def route(self, key: RequestKey, root_path: str = "") -> Route:
        """Return what answers requests that agree in *key*; *root_path* is where the API is mounted."""
        cached = self._routes.get((key, root_path))
        if cached is not None:
            return cached
        route = self._find_route(key, root_path)
        if is_gzip(key.content_encoding):
            route = _GzipRoute(route)
        if len(key.target) <= _LONGEST_KEPT_TARGET:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[key, root_path] = route
        return route

    def _find_route(self, key: RequestKey, root_path: str) -> Route:
        if key.method not in METHODS:
            return FixedRoute(html_page(501, Code.UNIMPLEMENTED), is_rest=False)
        target = parse_target(key.target)
        if target is None:
            return FixedRoute(html_page(400, Code.INVALID_ARGUMENT), is_rest=False)
        if self._metrics_page is not None and target.path == self.options.prometheus_path:
            return _MetricsRoute(self._metrics_page, target)
        if target.full[:4].lower() != "/v1/":
            return FixedRoute(html_page(404, Code.NOT_FOUND), is_rest=False)
        if key.method == "OPTIONS":
            is_from_web = b"http://" in key.origin or b"https://" in key.origin
            return FixedRoute(
                empty_response(200, _OPTIONS_TYPE)
                if is_from_web
                else empty_response(400, _OPTIONS_TYPE, Code.FAILED_PRECONDITION)
            )
        try:
            route = self._find_rest_route(key, target, root_path)
        except VersionTooLargeError:
            return FixedRoute(empty_response(400, JSON_TYPE, Code.INVALID_ARGUMENT))
        return route or FixedRoute(
            error_response(Code.INVALID_ARGUMENT, f"Malformed request: {key.method} {target.full}")
        )

    def _find_rest_route(self, key: RequestKey, target: Target, root_path: str) -> Route | None:
        if key.method == "POST":
            return self._find_inference_route(key, target)
        if key.method != "GET":
            return None
        described = openapi_target(target.full)
        if described is not None:
            return OpenApiRoute(self._handlers.models, _spec_of(described), root_path)
        model = model_target(target.full)
        if model is None:
            return None
        if not model.name:
            if target.full.lower() == "/v1/models":
                return ListRoute(self._handlers.model_status, self._handlers.models)
            return FixedRoute(error_response(Code.INVALID_ARGUMENT, "Missing model name in request."))
        if model.wants_metadata:
            return MetadataRoute(self._handlers.model_metadata, _spec_of(model))
        return StatusRoute(self._handlers.model_status, _spec_of(model))

    def _find_inference_route(self, key: RequestKey, target: Target) -> Route | None:
        timeout_s = self.options.timeout_s
        kind = media_type(key.content_type)
        if kind in (NPY_TYPE, PROTOBUF_TYPE):
            wanted = inference_target(target.path)
            if wanted is not None and wanted.verb == "predict":
                spec = _spec_of(wanted.model)
                if kind == PROTOBUF_TYPE and target.full == target.path:
                    return MessageRoute(self._handlers.predict, spec, timeout_s)
                if kind == NPY_TYPE and (name := target.signature_name()) is not None:
                    wants_npy = NPY_TYPE in key.accept.lower()
                    spec = spec._replace(signature_name=name)
                    return NpyRoute(self._handlers.predict, spec, timeout_s, wants_npy)
        wanted = inference_target(target.full)
        if wanted is None:
            return None
        spec = _spec_of(wanted.model)
        if wanted.verb == "predict":
            return PredictRoute(self._handlers.predict, spec, timeout_s, self._handlers.predict_together)
        if wanted.verb == "classify":
            return classify_route(self._handlers.classify, spec, timeout_s)
        if wanted.verb == "regress":
            return regress_route(self._handlers.regress, spec, timeout_s)
        return None

    # --- answers ----------------------------------------------------------------------------------

    def begin(self, route: Route, body: bytes) -> Response | Future[Response]:
        """Answer a request, or have the pool do it; never blocks and never raises.

        Whoever no longer wants the answer cancels the future: then a run that has not started never does.
        """
        started = perf_counter()
        record = RequestRecord(route.model_name)
        try:
            answer = route.answer(body, record)
            if not isinstance(answer, Response):
                return self._pool.submit(self._finish, route, answer, started)
        except Exception as error:
            answer = _failure(route, error)
        if route.is_rest:
            self._on_request(record, route.api, answer.code, perf_counter() - started)
            if self._has_cors:
                return answer._replace(headers=CORS_HEADERS)
        return answer

    def begin_together(
        self, requests: Sequence[tuple[Route, bytes]]
    ) -> list[Response | Future[Response] | None]:
        """Begin those of *requests* that have company, as one run or in stages.

        None for the others, which ``begin`` is to answer, and for what would take longer than
        ``LONGEST_UNSENT_S``. Never blocks and never raises.
        """
        answers: list[Response | Future[Response] | None] = [None] * len(requests)
        numbers_of: dict[Route, list[int]] = {}
        for number, (route, _) in enumerate(requests):
            numbers_of.setdefault(route, []).append(number)
        until = perf_counter() + LONGEST_UNSENT_S
        for route, numbers in numbers_of.items():
            if len(numbers) < FEWEST_TOGETHER or type(route) is not PredictRoute:
                continue
            started = perf_counter()
            if started > until:
                break
            bodies = [requests[number][1] for number in numbers]
            answered: Sequence[tuple[Answer | Exception, RequestRecord]] | None
            try:
                answered = route.answer_together(bodies)
            except Exception as error:
                _failure(route, error)  # a defect is logged; each request is answered by itself
                answered = None
            if answered is None:
                answered = route.answer_in_stages(bodies)
            for number, (answer, record) in zip(numbers, answered, strict=False):
                answers[number] = self._settle(route, answer, record, started)
        return answers

    def _settle(
        self, route: Route, answer: Answer | Exception, record: RequestRecord, started: float
    ) -> Response | Future[Response]:
        """Return the response to a request, or have the pool get it."""
        if not isinstance(answer, (Response, Exception)):
            try:
                return self._pool.submit(self._finish, route, answer, started)
            except Exception as error:
                answer = error
        response = _failure(route, answer) if isinstance(answer, Exception) else answer
        self._on_request(record, route.api, response.code, perf_counter() - started)
        return response._replace(headers=CORS_HEADERS) if self._has_cors else response

    def _finish(self, route: Route, rest: Rest, started: float) -> Response:
        """Do the *rest* of a request; runs on the pool."""
        record = RequestRecord(route.model_name)
        try:
            response = rest(record)
        except Exception as error:
            response = _failure(route, error)
        if route.is_rest:
            self._on_request(record, route.api, response.code, perf_counter() - started)
            if self._has_cors:
                return response._replace(headers=CORS_HEADERS)
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection: an HTTP request, or the lifespan of the server."""
        kind = scope["type"]
        if kind == "http":
            await self._answer_http(scope, receive, send)
        elif kind == "lifespan":
            await answer_lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"cannot answer a scope of type {kind!r}")

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        key, root_path = key_of_scope(scope)
        try:
            body = await read_body(receive, self.options.max_body_bytes)
        except BodyTooLongError:
            await send_response(send, self.too_large())
            return
        if body is None:
            return
        answer = self.begin(self.route(key, root_path), body)
        response = answer if isinstance(answer, Response) else await unless_disconnected(answer, receive)
        if response is not None:
            await send_response(send, response)

    def too_large(self) -> Response:
        """Return what answers a body that is longer than it may be."""
        return error_response(
            Code.RESOURCE_EXHAUSTED,
            f"the body is longer than {self.options.max_body_bytes} bytes, which is the limit of this server",
            status=413,
        )


class _GzipRoute:
    """Decompresses the body for another route; on the pool where it is large."""

    def __init__(self, route: Route) -> None:
        self.is_rest = route.is_rest
        self.model_name = route.model_name
        self.api = route.api
        self._route = route

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        if max(len(body), declared_bytes(body)) <= LONGEST_INLINE_BYTES:
            return self._route.answer(gunzip(body), record)
        return lambda record: self._answer_on_pool(body, record)

    def _answer_on_pool(self, body: bytes, record: RequestRecord | None) -> Response:
        answer = self._route.answer(gunzip(body), record)
        return answer if isinstance(answer, Response) else answer(record)


class _MetricsRoute:
    """The page for Prometheus, which must be asked for without a query."""

    is_rest = False
    model_name = ""
    api = ""

    def __init__(self, page: MetricsPage, target: Target) -> None:
        self._page = page
        self._target = target

    def answer(self, body: bytes, record: RequestRecord | None) -> Answer:
        del body, record
        path, full = self._target
        if full != path:
            text = f"Unexpected path: {full}. Should be {path}"
            return Response(400, b"text/plain", text.encode(), Code.INVALID_ARGUMENT)
        return lambda _: Response(200, b"text/plain", self._page())


def _hear_nothing(record: RequestRecord, api: str, code: Code, seconds: float) -> None:
    del record, api, code, seconds


def _spec_of(model: ModelTarget) -> ModelSpec:
    return ModelSpec(model.name, model.version, model.label)


def _failure(route: Route, error: Exception) -> Response:
    what = f"{route.api or 'GET'} of model {route.model_name}"
    return error_response(*code_and_message(error, what))
