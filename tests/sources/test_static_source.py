from collections.abc import Sequence

from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.source import ServableData
from inserve.sources.static_source import StaticSource


def test_the_fixed_list_is_sent_when_the_callback_is_set() -> None:
    sent: list[tuple[str, list[ServableData[str]]]] = []

    def take(name: str, versions: Sequence[ServableData[str]]) -> None:
        sent.append((name, list(versions)))

    source = StaticSource("m", {3: "/c", 1: "/a"})
    source.set_aspired_versions_callback(take)
    assert sent == [("m", [ServableData(ServableId("m", 1), "/a"), ServableData(ServableId("m", 3), "/c")])]
    assert repr(source) == "<StaticSource [m: 2 versions]>"
