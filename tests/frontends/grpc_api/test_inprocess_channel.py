from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from inserve.errors import NotFoundError
from inserve.frontends.grpc_api.inprocess_channel import InprocessChannel
from inserve.frontends.grpc_api.inprocess_target import InprocessTarget
from inserve.frontends.grpc_api.method import CallContext
from inserve.frontends.grpc_api.transport import TransportOptions
from inserve.handlers.placement import WouldBlock

LIMIT_S = 30.0
ECHO = "/test.Service/Echo"
LONG = "/test.Service/Long"
FAIL = "/test.Service/Fail"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Methods:
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.contexts: list[CallContext] = []
        self.threads: list[str] = []

    def echo(self, request: bytes, context: CallContext) -> bytes:
        self.threads.append(threading.current_thread().name)
        self.contexts.append(context)
        return request

    def fail(self, request: bytes, context: CallContext) -> bytes:
        raise NotFoundError("no such model")

    def long(self, request: bytes, context: CallContext) -> bytes:
        if not context.may_block:
            raise WouldBlock
        self.threads.append(threading.current_thread().name)
        self.contexts.append(context)
        self.entered.set()
        assert self.release.wait(LIMIT_S)
        return request

    def predict(self, request: bytes, context: CallContext) -> bytes:
        """Return each input as an output of the same name."""
        message = predict_pb2.PredictRequest.FromString(request)
        if message.model_spec.name != "half_plus_two":
            raise NotFoundError(f"Servable not found for request: Latest({message.model_spec.name})")
        answer = predict_pb2.PredictResponse(model_spec=message.model_spec)
        for name, tensor in message.inputs.items():
            answer.outputs[name].CopyFrom(tensor)
        return bytes(answer.SerializeToString())


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
def target(methods: Methods) -> Iterator[InprocessTarget]:
    table = {ECHO: methods.echo, LONG: methods.long, FAIL: methods.fail, PREDICT: methods.predict}
    made = InprocessTarget(table, TransportOptions(max_workers=2, max_queued=1))
    yield made
    methods.release.set()
    made.stop()


@pytest.fixture
def channel(target: InprocessTarget) -> Iterator[InprocessChannel]:
    with InprocessChannel(target) as made:
        yield made


def status(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.code(), error.details()


def test_a_generated_stub_works_unchanged(channel: InprocessChannel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].float_val.extend([1.0, 2.0])
    response = stub.Predict(request, timeout=10.0)
    assert response.model_spec.name == "half_plus_two"
    assert list(response.outputs["x"].float_val) == [1.0, 2.0]
    assert stub.Predict.future(request).result() == response
    request.model_spec.name = "other"
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request)
    assert status(raised.value) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(other)",
    )


def test_an_error_is_also_the_call_and_its_future(channel: InprocessChannel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(FAIL)(b"")
    error: Any = raised.value
    for kind in (grpc.Call, grpc.Future):
        assert isinstance(error, kind)
    assert status(error) == (grpc.StatusCode.NOT_FOUND, "no such model")
    assert (error.initial_metadata(), error.trailing_metadata()) == ((), ())
    assert error.debug_error_string() == "NOT_FOUND:no such model"
    assert error.exception() is error
    assert not error.is_active()
    assert "no such model" in str(error)


def test_with_call_returns_the_ended_call(channel: InprocessChannel) -> None:
    response, ended = channel.unary_unary(ECHO).with_call(b"x", timeout=100.0)
    assert response == b"x"
    assert ended.code() is grpc.StatusCode.OK
    remaining_s = ended.time_remaining()
    assert remaining_s is not None
    assert 0.0 < remaining_s <= 100.0


def test_short_methods_run_on_the_calling_thread(channel: InprocessChannel, methods: Methods) -> None:
    channel.unary_unary(ECHO)(b"x", timeout=100.0)
    assert channel.unary_unary(ECHO).future(b"x").done()
    assert set(methods.threads) == {threading.current_thread().name}


def test_long_methods_run_in_the_pool_only_where_the_caller_may_leave_first(
    channel: InprocessChannel, methods: Methods
) -> None:
    methods.release.set()
    long = channel.unary_unary(LONG)
    assert (long(b"a"), long(b"b", timeout=LIMIT_S), long.future(b"c").result(LIMIT_S)) == (b"a", b"b", b"c")
    assert methods.threads[0] == threading.current_thread().name
    assert all(name.startswith("inserve-grpc-inprocess-") for name in methods.threads[1:])


def test_a_failing_serializer_is_internal_as_with_grpcio(channel: InprocessChannel) -> None:
    broken = channel.unary_unary(ECHO, request_serializer=lambda _: b"%d" % (1 // 0))
    for call in (broken, broken.future):
        with pytest.raises(grpc.RpcError) as raised:
            call(b"x")
        assert status(raised.value) == (grpc.StatusCode.INTERNAL, "Exception serializing request!")


def test_a_failing_deserializer_is_internal_as_with_grpcio(
    channel: InprocessChannel, methods: Methods
) -> None:
    methods.release.set()
    for path in (ECHO, LONG):
        broken = channel.unary_unary(path, response_deserializer=lambda _: 1 // 0)
        for call in (broken, lambda request, broken=broken: broken.future(request).result(LIMIT_S)):
            with pytest.raises(grpc.RpcError) as raised:
                call(b"x")
            assert status(raised.value) == (grpc.StatusCode.INTERNAL, "Exception deserializing response!")


def test_a_timeout_of_zero_has_passed(channel: InprocessChannel, methods: Methods) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(ECHO)(b"x", timeout=0)
    assert status(raised.value) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert methods.contexts == []


def test_a_future_ends_at_its_deadline_with_nobody_waiting(
    channel: InprocessChannel, methods: Methods
) -> None:
    future = channel.unary_unary(LONG).future(b"x", timeout=0.05)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    assert told.wait(LIMIT_S)
    assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(future.exception(), grpc.RpcError)
    assert methods.contexts[0].cancelled


def test_a_running_future_can_be_watched_and_cancelled(channel: InprocessChannel, methods: Methods) -> None:
    future = channel.unary_unary(LONG).future(b"x", metadata=(("key", "value"),))
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert methods.entered.wait(LIMIT_S)
    assert (future.running(), future.done(), future.is_active(), told) == (True, False, True, [])
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.0)
    assert future.cancel()
    assert not future.cancel()
    assert (future.cancelled(), future.done(), told) == (True, True, [future])
    assert status(future) == (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
    for ask in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            ask()
    assert methods.contexts[0].cancelled
    assert methods.contexts[0].metadata == (("key", "value"),)


def test_a_callback_on_an_ended_future_runs_at_once(channel: InprocessChannel) -> None:
    for future in (channel.unary_unary(ECHO).future(b"x"), channel.unary_unary(FAIL).future(b"x")):
        told: list[Any] = []
        future.add_done_callback(told.append)
        assert told == [future]


def test_a_full_pool_is_resource_exhausted(channel: InprocessChannel, methods: Methods) -> None:
    running = [channel.unary_unary(LONG).future(b"x") for _ in range(3)]
    refused = channel.unary_unary(LONG).future(b"x")
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    methods.release.set()
    assert [future.result(LIMIT_S) for future in running] == [b"x"] * 3


def test_invalid_metadata_is_a_value_error_as_with_grpcio(channel: InprocessChannel) -> None:
    for metadata in ((("Upper", "v"),), (("key", "line\nbreak"),), (("no value",),)):
        with pytest.raises(ValueError, match="metadata was invalid"):
            channel.unary_unary(ECHO)(b"x", metadata=metadata)


def test_a_closed_channel_ends_its_calls_and_takes_no_more(target: InprocessTarget, methods: Methods) -> None:
    channel = InprocessChannel(target)
    future = channel.unary_unary(LONG).future(b"x")
    assert methods.entered.wait(LIMIT_S)
    channel.close()
    assert status(future) == (grpc.StatusCode.CANCELLED, "Channel closed!")
    for call in (channel.unary_unary(ECHO), channel.unary_unary(ECHO).future, channel.unary_stream(ECHO)):
        with pytest.raises(ValueError, match="Cannot invoke RPC on closed channel!"):
            call(b"x")
    assert InprocessChannel(target).unary_unary(ECHO)(b"x") == b"x"


def test_a_stopped_target_is_unavailable(
    channel: InprocessChannel, target: InprocessTarget, methods: Methods
) -> None:
    future = channel.unary_unary(LONG).future(b"x")
    assert methods.entered.wait(LIMIT_S)
    stopping = threading.Thread(target=target.stop)
    stopping.start()
    assert status(future) == (grpc.StatusCode.UNAVAILABLE, "server is shutting down")
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(ECHO)(b"x")
    assert status(raised.value) == (grpc.StatusCode.UNAVAILABLE, "server is shutting down")
    methods.release.set()
    stopping.join(LIMIT_S)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("inserve-grpc-inprocess")]


def test_stop_waits_for_long_calls_within_the_grace_period(
    channel: InprocessChannel, target: InprocessTarget, methods: Methods
) -> None:
    future = channel.unary_unary(LONG).future(b"x")
    assert methods.entered.wait(LIMIT_S)
    stopping = threading.Thread(target=target.stop, args=(LIMIT_S,))
    stopping.start()
    methods.release.set()
    assert future.result(LIMIT_S) == b"x"
    stopping.join(LIMIT_S)
    assert not stopping.is_alive()


def test_streaming_calls_are_unimplemented(channel: InprocessChannel) -> None:
    streams: list[Any] = [
        channel.unary_stream("/s/M")(b"x"),
        channel.stream_stream("/s/M")(iter([b"x"])),
    ]
    for stream in streams:
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)
        assert status(raised.value) == (grpc.StatusCode.UNIMPLEMENTED, "")
    with pytest.raises(grpc.RpcError):
        channel.stream_unary("/s/M")(iter([b"x"]))
    assert channel.stream_unary("/s/M").future(iter([b"x"])).code() is grpc.StatusCode.UNIMPLEMENTED


class _Tagging(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Prefixes requests and keeps the codes of outcomes."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        outcome = continuation(client_call_details, b"tagged " + request)
        self.codes.append(outcome.code())
        return outcome


def test_client_interceptors_work(channel: InprocessChannel) -> None:
    tagging = _Tagging()
    intercepted: Any = grpc.intercept_channel(channel, tagging)
    assert intercepted.unary_unary(ECHO)(b"x") == b"tagged x"
    assert intercepted.unary_unary(ECHO).future(b"x").result() == b"tagged x"
    with pytest.raises(grpc.RpcError) as raised:
        intercepted.unary_unary(FAIL)(b"x")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert tagging.codes == [grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND]


def test_the_channel_is_ready_at_once(channel: InprocessChannel) -> None:
    grpc.channel_ready_future(channel).result(timeout=LIMIT_S)
    states: list[grpc.ChannelConnectivity] = []
    channel.subscribe(states.append, try_to_connect=True)
    channel.unsubscribe(states.append)
    assert states == [grpc.ChannelConnectivity.READY]


def test_options_without_meaning_here_are_accepted(channel: InprocessChannel) -> None:
    echo = channel.unary_unary(ECHO, None, None, _registered_method=True)
    response = echo(
        b"x",
        timeout=None,
        metadata=None,
        credentials=grpc.access_token_call_credentials("token"),
        wait_for_ready=True,
        compression=grpc.Compression.Gzip,
    )
    assert response == b"x"
