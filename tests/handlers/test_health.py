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
        health.changed()
        assert rest.result(30.0) == []


class Models:
    """Models and whether each has a version available; ``set`` tells the handler."""

    def __init__(self, **states: bool) -> None:
        self.states = dict(states)
        self.asked: list[str] = []
        self.health = HealthHandler(self.state)
        self.health.open()

    def state(self, name: str) -> bool | None:
        self.asked.append(name)
        return self.states.get(name)

    def set(self, name: str, state: bool | None) -> None:
        if state is None:
            del self.states[name]
        else:
            self.states[name] = state
        self.health.changed()


def test_a_model_is_serving_while_a_version_of_it_is_available() -> None:
    models = Models(loaded=True, loading=False)
    assert status(models.health.check_message(request("loaded"))) == SERVING
    assert status(models.health.check_message(request("loading"))) == NOT_SERVING
    with pytest.raises(NotFoundError, match="service name unknown"):
        models.health.check_message(request("other"))


def test_no_model_is_serving_before_open_and_after_close() -> None:
    health = HealthHandler({"m": True}.get)
    found = [status(health.check_message(request("m")))]
    for change in (health.open, health.close):
        change()
        found.append(status(health.check_message(request("m"))))
    assert found == [NOT_SERVING, SERVING, NOT_SERVING]


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_a_service_wins_over_a_model_of_its_name(service: str) -> None:
    models = Models(**{service: False})
    assert status(models.health.check_message(request(service))) == SERVING
    assert models.asked == []


def test_a_watch_of_a_model_tells_each_change() -> None:
    models = Models()
    watch = models.health.watch_messages(request("m"), threading.Event())
    assert status(next(watch)) == SERVICE_UNKNOWN
    told = []
    with ThreadPoolExecutor(1) as pool:
        for state in (False, True, False, None):
            answer = pool.submit(next, watch)
            models.set("m", state)
            told.append(status(answer.result(30.0)))
        rest = pool.submit(list, watch)
        models.health.close()
        assert rest.result(30.0) == []
    assert told == [NOT_SERVING, SERVING, NOT_SERVING, SERVICE_UNKNOWN]


def test_a_watch_says_nothing_while_the_status_stays() -> None:
    models = Models(m=True)
    watch = models.health.watch_messages(request("m"), threading.Event())
    assert status(next(watch)) == SERVING
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(next, watch)
        models.set("other", True)
        models.set("m", True)
        models.set("m", False)
        assert status(answer.result(30.0)) == NOT_SERVING


def test_the_state_of_a_model_is_asked_for_under_no_lock() -> None:
    health: HealthHandler

    def state(name: str) -> bool:
        with ThreadPoolExecutor(1) as pool:  # another thread, which a lock held here would keep waiting
            pool.submit(health.changed).result(30.0)
        return True

    health = HealthHandler(state)
    health.open()
    assert status(health.check_message(request("m"))) == SERVING
    assert status(next(health.watch_messages(request("m"), threading.Event()))) == SERVING


def test_a_change_between_the_question_and_the_wait_is_not_missed() -> None:
    health: HealthHandler
    answers = iter([True, False])

    def state(name: str) -> bool:
        answer = next(answers)
        health.changed()  # while the watch is still busy with its answer
        return answer

    health = HealthHandler(state)
    health.open()
    watch = health.watch_messages(request("m"), threading.Event())
    assert [status(next(watch)) for _ in range(2)] == [SERVING, NOT_SERVING]
