from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inserve.errors import InvalidArgumentError, NotFoundError
from inserve.handlers.health import HealthHandler
from inserve.protos import messages

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def request(service: str = "") -> bytes:
    return messages.HealthCheckRequest(service=service).SerializeToString()


def status(response: bytes) -> int:
    return messages.HealthCheckResponse.FromString(response).status


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_the_status_is_serving_between_open_and_close(service: str) -> None:
    health = HealthHandler()
    found = [status(health.check_message(request(service)))]
    for change in (health.open, health.close):
        change()
        found.append(status(health.check_message(request(service))))
    assert found == [NOT_SERVING, SERVING, NOT_SERVING]


@pytest.mark.parametrize("service", ["tensorflow.serving.PredictionService", "nope"])
def test_a_name_of_no_service_is_unknown(service: str) -> None:
    health = HealthHandler()
    with pytest.raises(NotFoundError, match="service name unknown"):
        health.check_message(request(service))
    over = threading.Event()
    watch = health.watch_messages(request(service), over)
    assert status(next(watch)) == SERVICE_UNKNOWN
    over.set()
    assert list(watch) == []


def test_garbage_is_refused() -> None:
    health = HealthHandler()
    with pytest.raises(InvalidArgumentError, match="could not parse request"):
        health.check_message(b"\xff\xff")
    with pytest.raises(InvalidArgumentError, match="could not parse request"):
        next(health.watch_messages(b"\xff\xff", threading.Event()))


def test_a_watch_tells_each_change_and_ends_with_the_server() -> None:
    health = HealthHandler()
    watch = health.watch_messages(request(), threading.Event())
    assert status(next(watch)) == NOT_SERVING
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(next, watch)
        health.open()
        assert status(answer.result(30.0)) == SERVING
        rest = pool.submit(list, watch)
        health.close()
        assert [status(one) for one in rest.result(30.0)] == [NOT_SERVING]


def test_a_watch_ends_when_its_caller_has_left() -> None:
    health = HealthHandler()
    over = threading.Event()
    watch = health.watch_messages(request(), over)
    next(watch)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, watch)
        over.set()
        health.wake()
        assert rest.result(30.0) == []
