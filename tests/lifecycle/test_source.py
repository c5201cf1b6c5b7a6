from __future__ import annotations

import pytest

from inserve.errors import NotFoundError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.source import ServableData


def test_an_aspired_version_has_a_payload_or_an_error() -> None:
    assert ServableData(ServableId("m", 1), payload="path").payload == "path"
    assert isinstance(ServableData[str](ServableId("m", 1), error=NotFoundError("gone")).error, NotFoundError)


def test_an_aspired_version_with_neither_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\{name: m version: 1\}: expected either a payload or an error"):
        ServableData[str](ServableId("m", 1))


def test_an_aspired_version_with_both_is_refused() -> None:
    with pytest.raises(ValueError, match="expected either a payload or an error"):
        ServableData(ServableId("m", 1), "path", NotFoundError("gone"))
