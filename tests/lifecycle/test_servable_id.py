from __future__ import annotations

from inserve.lifecycle.servable_id import ServableId, ServableRequest


def test_an_id_is_written_as_tensorflow_serving_writes_it() -> None:
    assert str(ServableId("m", 3)) == "{name: m version: 3}"


def test_a_request_for_a_version_is_written_with_it() -> None:
    assert str(ServableRequest.specific("m", 0)) == "Specific(m, 0)"


def test_a_request_for_the_latest_is_written_without_version() -> None:
    assert str(ServableRequest.latest("m")) == "Latest(m)"


def test_version_zero_is_not_the_latest() -> None:
    assert ServableRequest.specific("m", 0) != ServableRequest.latest("m")
