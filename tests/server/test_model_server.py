from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import grpc
import numpy as np
import pytest

import inserve
from inserve.protos import messages

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
HALF_PLUS_TWO = MODELS / "half_plus_two"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def server() -> Iterator[inserve.Server]:
    models = {name: MODELS / name for name in ("half_plus_two", "multi", "slow")}
    with inserve.Server(models=models, grpc="127.0.0.1:0") as server:
        yield server


def request(value: float) -> bytes:
    message = messages.PredictRequest()
    message.model_spec.name = "half_plus_two"
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_shape.dim.add(size=1)
    message.inputs["x"].float_val.append(value)
    return message.SerializeToString()


def ask(channel: Any, value: float = 1.0, timeout: float | None = 30) -> Any:
    """What the channel's call returns: the response, or its awaitable on an asyncio channel."""
    return channel.unary_unary(PREDICT)(request(value), timeout=timeout)


def values(response: bytes) -> list[float]:
    return list(messages.PredictResponse.FromString(response).outputs["y"].float_val)


def test_predict_takes_lists_and_gives_arrays(server: inserve.Server) -> None:
    outputs = server.predict("half_plus_two", {"x": [1.0, 2.0]})
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [3.5, 4.0]


def test_predict_gives_only_the_outputs_asked_for(server: inserve.Server) -> None:
    outputs = server.predict(
        "multi", {"a": [1.0, 2.0], "b": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}, output_filter=["s"]
    )
    assert list(outputs) == ["s"]


def test_an_unknown_model_is_not_found(server: inserve.Server) -> None:
    with pytest.raises(inserve.NotFoundError, match=r"Servable not found for request: Latest\(no\)"):
        server.predict("no", {})


def test_an_unknown_version_is_not_found(server: inserve.Server) -> None:
    with pytest.raises(inserve.NotFoundError, match=r"Specific\(half_plus_two, 9\)"):
        server.predict("half_plus_two", {"x": [1.0]}, version=9)


def test_a_run_is_given_up_at_its_timeout(server: inserve.Server) -> None:
    with pytest.raises(inserve.DeadlineExceededError):
        server.predict("slow", {"x": [1.0]}, timeout=0.05)


def test_submit_gives_a_future(server: inserve.Server) -> None:
    future = server.submit("half_plus_two", {"x": [1.0]})
    assert future.result(timeout=30)["y"].tolist() == [3.5]


def test_the_future_of_a_bad_request_holds_its_error(server: inserve.Server) -> None:
    future = server.submit("half_plus_two", {"z": [1.0]})
    with pytest.raises(inserve.InvalidArgumentError):
        future.result(timeout=30)


async def test_predict_async_answers(server: inserve.Server) -> None:
    answers = await asyncio.gather(
        *(server.predict_async("half_plus_two", {"x": [float(n)]}) for n in range(50))
    )
    assert [answer["y"].tolist() for answer in answers] == [[n / 2 + 3] for n in range(50)]


async def test_a_long_run_leaves_the_event_loop_free(server: inserve.Server) -> None:
    slow = asyncio.ensure_future(server.predict_async("slow", {"x": [1.0]}))
    await asyncio.sleep(0)
    quick = await server.predict_async("half_plus_two", {"x": [1.0]})
    assert quick["y"].tolist() == [3.5]
    assert not slow.done()
    await slow


async def test_predict_async_is_given_up_at_its_timeout(server: inserve.Server) -> None:
    with pytest.raises(inserve.DeadlineExceededError):
        await server.predict_async("slow", {"x": [1.0]}, timeout=0.05)


async def test_the_asyncio_channel_answers(server: inserve.Server) -> None:
    async with server.aio_channel() as channel:
        assert values(await ask(channel)) == [3.5]


def test_services_go_onto_a_grpc_server_of_the_host(server: inserve.Server) -> None:
    host = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_to(host)
    port = host.add_insecure_port("127.0.0.1:0")
    host.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert values(ask(channel)) == [3.5]
    finally:
        host.stop(None).wait()


def test_port_0_becomes_a_free_port(server: inserve.Server) -> None:
    assert server.grpc_port is not None
    assert server.grpc_port > 0
    assert server.grpc_addresses == (f"127.0.0.1:{server.grpc_port}",)


def test_several_servers_run_beside_one_another(server: inserve.Server) -> None:
    with inserve.Server(models={"half_plus_two": HALF_PLUS_TWO}, grpc="127.0.0.1:0") as other:
        assert other.grpc_port != server.grpc_port
        assert other.predict("half_plus_two", {"x": [1.0]}, version=2)["y"].tolist() == [3.5]


def test_a_server_may_be_started_and_stopped_on_any_thread() -> None:
    other = inserve.Server(models={"half_plus_two": HALF_PLUS_TWO}, grpc="127.0.0.1:0")
    starter = threading.Thread(target=other.start)
    starter.start()
    starter.join()
    assert other.predict("half_plus_two", {"x": [1.0]})["y"].tolist() == [3.5]
    stopper = threading.Thread(target=other.stop)
    stopper.start()
    stopper.join()
    assert repr(other).startswith("<Server stopped")


async def test_async_with_starts_and_stops() -> None:
    async with inserve.Server(models={"half_plus_two": HALF_PLUS_TWO}) as other:
        assert (await other.predict_async("half_plus_two", {"x": [1.0]}))["y"].tolist() == [3.5]


def test_a_server_that_is_not_running_says_so() -> None:
    other = inserve.Server(models={"half_plus_two": HALF_PLUS_TWO})
    with pytest.raises(inserve.UnavailableError, match="not started"):
        other.predict("half_plus_two", {"x": [1.0]})
    channel = other.channel()
    other.start()
    other.stop()
    other.stop()
    with pytest.raises(inserve.UnavailableError, match="stopped"):
        other.predict("half_plus_two", {"x": [1.0]})
    with pytest.raises(grpc.RpcError) as error:
        ask(channel)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(RuntimeError, match="starts once"):
        other.start()


def test_a_folder_without_versions_fails_the_start_and_nothing_stays(tmp_path: Path) -> None:
    before = threading.active_count()
    other = inserve.Server(models={"m": tmp_path}, grpc="127.0.0.1:0")
    with pytest.raises(inserve.NotFoundError, match="No versions of servable m found under base path"):
        other.start()
    assert threading.active_count() == before


def test_a_model_that_cannot_be_loaded_fails_the_start_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"garbage")
    other = inserve.Server(models={"m": tmp_path}, check_complete=False)
    with pytest.raises(inserve.UnknownError, match=r"1 servable\(s\) did not become available: .*version: 1"):
        other.start()


def test_a_taken_port_fails_the_start(server: inserve.Server) -> None:
    other = inserve.Server(models={"m": HALF_PLUS_TWO}, grpc=f"127.0.0.1:{server.grpc_port}")
    with pytest.raises(inserve.UnavailableError, match=str(server.grpc_port)):
        other.start()


def test_a_model_listed_twice_is_refused() -> None:
    config = inserve.ModelConfig("m", HALF_PLUS_TWO)
    with pytest.raises(ValueError, match="listed twice"):
        inserve.Server(models=[config, config])


def test_an_option_out_of_range_is_refused_when_the_server_is_made() -> None:
    with pytest.raises(ValueError, match="max_workers is 0, expected at least 1"):
        inserve.Server(max_workers=0)


def test_sixty_four_threads_get_their_own_answers(server: inserve.Server) -> None:
    answers: dict[int, list[list[float]]] = {}

    def ask(number: int) -> None:
        answers[number] = [
            server.predict("half_plus_two", {"x": [float(number)] * (number + 1)})["y"].tolist()
            for _ in range(100)
        ]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [[n / 2 + 3] * (n + 1)] * 100 for n in range(64)}


def config_text(**base_paths: Path) -> str:
    models = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in base_paths.items()
    )
    return f"model_config_list {{ {models} }}"


def test_a_config_file_that_changes_is_applied_while_the_server_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.config"
    file.write_text(config_text(half=HALF_PLUS_TWO))
    with inserve.Server(models=file, config_poll_interval=0.02) as other:
        file.write_text("model_config_list { nonsense }")
        assert wait_until(lambda: "Invalid protobuf file" in caplog.text)
        assert other.predict("half", {"x": [1.0]})["y"].tolist() == [3.5]
        (tmp_path / "new").write_text(config_text(multi=MODELS / "multi"))
        (tmp_path / "new").replace(file)
        assert wait_until(lambda: "multi" in other.models)
        other.models.wait_until_available(timeout=30.0)
        assert [config.name for config in other.models.list()] == ["multi"]
    assert caplog.text.count("Invalid protobuf file") == 1


def wait_until(is_so: Callable[[], bool]) -> bool:
    limit = time.monotonic() + 30.0
    while not is_so() and time.monotonic() < limit:
        time.sleep(0.005)
    return is_so()


def test_only_a_config_file_can_be_polled() -> None:
    with pytest.raises(TypeError, match="expected models to be the path of a config file"):
        inserve.Server(models={"m": HALF_PLUS_TWO}, config_poll_interval=1.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("config_poll_interval", 0.0), ("initial_wait", "long"), ("num_unload_threads", -1)],
)
def test_a_lifecycle_option_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} is .*expected"):
        inserve.Server(**{option: value})


def test_a_server_that_settles_waits_for_a_model_that_is_missing(tmp_path: Path) -> None:
    other = inserve.Server(models={"m": tmp_path / "m"}, poll_interval=0.02, initial_wait="settled")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(other.start)
        assert wait_until(lambda: "m" in other.models and bool(other.models.status("m").error))
        assert not starting.done()
        shutil.copytree(HALF_PLUS_TWO, tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / "m")
        starting.result(timeout=60.0)
    other.stop()


def test_models_cannot_be_changed_before_the_start_nor_after_the_stop() -> None:
    other = inserve.Server()
    with pytest.raises(inserve.FailedPreconditionError, match="the server is not started"):
        other.models.add("m", HALF_PLUS_TWO)
    other.start()
    other.stop()
    with pytest.raises(inserve.FailedPreconditionError, match="the server is stopped"):
        other.models.add("m", HALF_PLUS_TWO)


def test_a_model_in_a_remote_store_is_served_from_the_cache_folder(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{HALF_PLUS_TWO}/1", "/test_model_server/half_plus_two/1", recursive=True)
    remote = inserve.RemoteSourceOptions(cache_dir=str(tmp_path))
    try:
        with inserve.Server(models={"m": "memory://test_model_server/half_plus_two"}, remote=remote) as other:
            assert other.predict("m", {"x": [1.0]})["y"].tolist() == [2.5]
            assert [path.name for path in tmp_path.rglob("saved_model.pb")] == ["saved_model.pb"]
    finally:
        memory.rm("/test_model_server", recursive=True)
