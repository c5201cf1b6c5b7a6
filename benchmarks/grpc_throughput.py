"""gRPC Predict over TCP, 32 calls in flight on one connection, driven by h2load.

References of the same run, each server in a process of its own: an echo on the same transport, and
a grpcio server over ``tf.saved_model.load``. Needs ``h2load`` (Debian: nghttp2-client).
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import HALF_PLUS_TWO, report

PREDICT = "/tensorflow.serving.PredictionService/Predict"
IN_FLIGHT = 32
ROUNDS = 5
SECONDS = 2.0


def serve_echo() -> None:
    import threading

    from pygrpc_native import EVENT_CALL, NativeGrpcFront

    front = NativeGrpcFront("127.0.0.1:0", [(PREDICT, False)])
    front.start()

    def answer() -> None:
        while (events := front.recv_batch(64)) is not None:
            for kind, call_id, _, payload, _ in events:
                if kind == EVENT_CALL:
                    front.respond(call_id, payload)

    threading.Thread(target=answer, daemon=True).start()
    ready(front.bound_port)


def serve_inserve(name: str) -> None:
    import inserve

    server = inserve.Server(
        models={"half_plus_two": HALF_PLUS_TWO.parent},
        grpc="127.0.0.1:0",
        grpc_transport="grpcio" if name == "grpcio" else "native",
        batching=inserve.BatchingOptions() if name == "batched" else None,
    )
    server.start()
    ready(server.grpc_port)


def serve_tensorflow() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    signature = tf.saved_model.load(str(HALF_PLUS_TWO)).signatures["serving_default"]

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802 - the service's own name
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for name, value in signature(**inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(port)


def ready(port: int | None) -> None:
    print(port, flush=True)
    sys.stdin.read()
    os._exit(0)


def request_frame() -> bytes:
    """One gRPC message: a PredictRequest with x = [1.0]."""
    spec = b"\x0a\x0dhalf_plus_two"
    tensor = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x01" + b"\x2a\x04" + struct.pack("<f", 1.0)
    entry = b"\x0a\x01x" + b"\x12" + bytes([len(tensor)]) + tensor
    message = b"\x0a" + bytes([len(spec)]) + spec + b"\x12" + bytes([len(entry)]) + entry
    return b"\0" + struct.pack(">I", len(message)) + message


def calls_per_second(port: int, calls: int, frame: Path) -> float:
    """Return the rate h2load reports for *calls* calls; every one must be answered with OK."""
    out = subprocess.run(
        [
            "h2load",
            f"-n{calls}",
            "-c1",
            f"-m{IN_FLIGHT}",
            "-t1",
            "-d",
            str(frame),
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            f"http://127.0.0.1:{port}{PREDICT}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    succeeded = re.search(r"(\d+) succeeded", out)
    rate = re.search(r"([\d.]+) req/s", out)
    if succeeded is None or rate is None or int(succeeded[1]) != calls:
        raise RuntimeError(f"h2load did not succeed:\n{out}")
    return float(rate[1])


def main() -> None:
    if shutil.which("h2load") is None:
        sys.exit("this script needs h2load (Debian: apt-get install nghttp2-client)")
    names = ["echo", "native", "batched", "grpcio", "tensorflow"]
    servers = {}
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "request")
        frame.write_bytes(request_frame())
        try:
            ports, calls = {}, {}
            for name in names:
                servers[name] = subprocess.Popen(
                    [sys.executable, __file__, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                )
                assert servers[name].stdout is not None
                ports[name] = int(servers[name].stdout.readline())
                calls_per_second(ports[name], 1000, frame)
                rate = calls_per_second(ports[name], 3000, frame)
                calls[name] = max(1000, int(rate * SECONDS))
            rates: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(ROUNDS):
                for name in names:
                    rates[name].append(calls_per_second(ports[name], calls[name], frame))
                    time.sleep(0.1)
        finally:
            for process in servers.values():
                process.kill()
                process.wait()
    for name in names:
        print(f"{name:<12} {statistics.median(rates[name]):10,.0f} calls/s")

    def median_ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))

    report("Predict on the native transport / echo on it", median_ratio("native", "echo"), 0.5, at_most=False)
    report(
        "Predict on it with batching, calls received together / echo",
        median_ratio("batched", "echo"),
        0.5,
        at_most=False,
    )
    report("Predict / grpcio + tf.saved_model.load", median_ratio("native", "tensorflow"), 8, at_most=False)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        main()
    elif sys.argv[1] == "echo":
        serve_echo()
    elif sys.argv[1] == "tensorflow":
        serve_tensorflow()
    else:
        serve_inserve(sys.argv[1])
