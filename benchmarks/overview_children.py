"""The processes that the overview measures in, so that clients, servers and TensorFlow do not share one.

A child prints one JSON line with its ports when it is ready, answers each JSON line that it reads with
one (seconds of a closed loop), and ends at the end of its input.

usage: python overview_children.py KIND
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from overview_load import closed_loop
from overview_models import GOLDEN, PREDICT, ModelCase, cases, half_plus_two, mobilenet

LIVE_OBJECTS = 1_000_000

Ways = dict[tuple[str, str], Callable[[], object]]


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def answer(ways: Ways, ports: dict[str, int | None]) -> None:
    """Say the *ports*, then measure what is asked for until the input ends."""
    say(ports)
    for line in sys.stdin:
        way, model, length_s, callers = json.loads(line)
        say(asdict(closed_loop(ways[way, model], length_s, callers)))


def prepared_call(case: ModelCase) -> Callable[[], None]:
    """Return ``TF_SessionRun`` on the calling thread with tensors and pointers made beforehand.

    The ``prepared_call`` of ``session_run.py`` for any model with one float input.
    """
    from inserve.protos import messages
    from inserve.tensorflow_c.library import load_library
    from inserve.tensorflow_c.load_saved_model import load_saved_model
    from inserve.tensorflow_c.run_options import calling_thread_options
    from inserve.tensors.dtypes import DataType

    model = load_saved_model(case.version_path)
    signature = messages.MetaGraphDef.FromString(model.meta_graph_def).signature_def["serving_default"]
    feed = signature.inputs[case.input_name].name
    fetches = [info.name for info in signature.outputs.values()]
    runner: Any = model.session.runner([(feed, DataType.DT_FLOAT)], fetches)
    library = load_library()
    ffi, lib = library.ffi, library.lib
    status = ffi.gc(lib.TF_NewStatus(), lib.TF_DeleteStatus)
    options = calling_thread_options(library)
    value = case.value
    shape = ffi.new("int64_t[]", value.shape)
    tensor = lib.TF_AllocateTensor(int(DataType.DT_FLOAT), shape, value.ndim, value.nbytes)
    ffi.memmove(lib.TF_TensorData(tensor), value, value.nbytes)
    inputs, outputs = ffi.new("TF_Tensor *[]", [tensor]), ffi.new("TF_Tensor *[]", len(fetches))
    run, delete, null, number = lib.TF_SessionRun, lib.TF_DeleteTensor, ffi.NULL, len(fetches)

    def call() -> None:
        run(
            runner._pointer,
            options,
            runner._inputs,
            inputs,
            1,
            runner._outputs,
            outputs,
            number,
            null,
            0,
            null,
            status,
        )
        for index in range(number):
            delete(outputs[index])

    return call


def serve_inserve() -> None:
    """Both gRPC transports, REST and the ways in that need no socket, of all models."""
    import inserve
    from inserve.protos import messages

    models = cases()
    paths = {name: case.base_path for name, case in models.items()}
    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(
            inserve.Server(
                paths, grpc="127.0.0.1:0", rest="127.0.0.1:0", grpc_transport="native", cache_dir=cache
            )
        )
        other = stack.enter_context(
            inserve.Server(paths, grpc="127.0.0.1:0", grpc_transport="grpcio", cache_dir=cache)
        )
        # What a generated stub does: messages in, messages out.
        stub = server.channel().unary_unary(
            PREDICT,
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        ways: Ways = {}
        for name, case in models.items():
            inputs, request = {case.input_name: case.value}, case.request()
            ways["prepared", name] = prepared_call(case)
            ways["predict", name] = lambda name=name, inputs=inputs: server.predict(name, inputs)
            ways["stub", name] = lambda request=request: stub(request)
        answer(ways, {"native": server.grpc_port, "grpcio": other.grpc_port, "rest": server.rest_port})


def serve_tensorflow() -> None:
    import tensorflow as tf

    ways: Ways = {}
    for name, case in cases().items():
        signature = tf.saved_model.load(case.version_path).signatures["serving_default"]
        inputs = {case.input_name: tf.constant(case.value)}
        ways["tensorflow", name] = lambda call=signature, inputs=inputs: [
            value.numpy() for value in call(**inputs).values()
        ]
    answer(ways, {})


def serve_batching() -> None:
    """MobileNetV2 without and with batching, each on a server of its own."""
    import inserve

    case = mobilenet()
    inputs = {case.input_name: case.value}
    ways: Ways = {}
    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        for way, options in (("off", None), ("on", inserve.BatchingOptions())):
            server = stack.enter_context(
                inserve.Server({case.name: case.base_path}, batching=options, cache_dir=cache)
            )
            ways[way, case.name] = lambda server=server: server.predict(case.name, inputs)
        answer(ways, {})


def serve_among_objects(number: int) -> None:
    """REST of half-plus-two in a host that holds *number* objects of the kind the collector walks."""
    import inserve

    case = half_plus_two()
    held = [[index] for index in range(number)]
    with inserve.Server({case.name: case.base_path}, rest="127.0.0.1:0") as server:
        answer({}, {"rest": server.rest_port})
    assert len(held) == number


def serve_neighbours() -> None:
    """half-plus-two and a model whose runs take as long as they are told to."""
    import inserve

    paths = {name: GOLDEN / name for name in ("half_plus_two", "slow")}
    with inserve.Server(paths, grpc="127.0.0.1:0", rest="127.0.0.1:0") as server:
        answer({}, {"grpc": server.grpc_port, "rest": server.rest_port, "process": os.getpid()})


def serve_grpc_echo() -> None:
    from grpc_echo import our_server

    with our_server("native") as port:
        answer({}, {"grpc": port})


def serve_asgi_echo() -> None:
    """A bare ASGI application under uvicorn that sends as much as half-plus-two answers."""
    import socket
    import threading

    import uvicorn

    body = b'{"predictions": [2.5]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", log_level="error", access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def until_the_end() -> None:
        answer({}, {"rest": listener.getsockname()[1]})
        server.should_exit = True

    threading.Thread(target=until_the_end, daemon=True).start()
    server.run([listener])


KINDS: dict[str, Callable[[], None]] = {
    "inserve": serve_inserve,
    "tensorflow": serve_tensorflow,
    "batching": serve_batching,
    "few objects": lambda: serve_among_objects(0),
    "many objects": lambda: serve_among_objects(LIVE_OBJECTS),
    "neighbours": serve_neighbours,
    "grpc echo": serve_grpc_echo,
    "asgi echo": serve_asgi_echo,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
