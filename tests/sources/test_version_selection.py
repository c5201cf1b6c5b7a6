from pathlib import Path

import pytest

from inserve.sources.version_selection import (
    All,
    Latest,
    Specific,
    VersionPolicy,
    is_saved_model,
    parse_version,
    select_versions,
    version_children,
    version_directories,
)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("0", 0),
        ("-0", 0),
        ("00017", 17),
        ("+7", 7),
        ("-3", -3),
        (" 5", 5),
        ("5\t\n", 5),
        ("20170111173521", 20170111173521),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0" * 100 + "4", 4),
    ],
)
def test_a_name_that_is_a_signed_64_bit_decimal_number_is_a_version(name: str, version: int) -> None:
    assert parse_version(name) == version


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "1.0", "0x10", "1_000", "tmp-1", "1.tmp", "- 3", "+-3", "1 2", "5\0", "9" * 300),
        *("9223372036854775808", "-9223372036854775809", "\u0661", "\xa05"),
    ],
)
def test_any_other_name_is_ignored(name: str) -> None:
    assert parse_version(name) is None


def test_names_are_cut_at_the_first_slash_and_come_once_ordered_by_name() -> None:
    children = version_children(["2/saved_model.pb", "10/", "2/variables/x", "logs/1", "001"])
    assert [(child.name, child.version) for child in children] == [("001", 1), ("10", 10), ("2", 2)]


def select(
    names: list[str], policy: VersionPolicy, excluded: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    selection = select_versions("m", "/m", version_children(names), policy, excluded)
    return [child.name for child in selection.children], list(selection.warnings)


NO_VERSIONS = (
    "No versions of servable m found under base path /m. "
    "Did you forget to name your leaf directory as a number (eg. '/1/')?"
)


def duplicate(winner: str, loser: str) -> str:
    return (
        f"Duplicate version directories detected. Version 1 will be loaded from {winner}, "
        f"{loser} will be ignored."
    )


def missing(version: int) -> str:
    return (
        f"Version {version} of servable m, which was requested to be served as a 'specific' version in the "
        "servable's version policy, was not found in the file system"
    )


@pytest.mark.parametrize(
    ("names", "policy", "selected", "warnings"),
    [
        (["1", "2", "10", "x"], Latest(), ["10"], []),
        (["1", "2", "10"], Latest(2), ["10", "2"], []),
        (["1", "2"], Latest(5), ["2", "1"], []),
        (["-3", "-7"], Latest(), ["-3"], []),
        (["x"], Latest(), [], [NO_VERSIONS]),
        (["001", "1"], Latest(), ["1"], [duplicate("1", "001")]),
        (["1", "2", "10", "x"], All(), ["1", "10", "2"], []),
        ([], All(), [], [NO_VERSIONS]),
        (["001", "1", "2"], All(), ["001", "2"], [duplicate("001", "1")]),
        (["1", "2", "3"], Specific([3, 1]), ["3", "1"], []),
        (["1", "2"], Specific([2, 2]), ["2"], []),
        (["001", "1"], Specific([1]), ["1"], []),
        (["01", "001"], Specific([1]), ["01"], [duplicate("01", "001")]),
        (["3", "001", "2"], Specific([3, 1]), ["001", "3"], []),
        (["1"], Specific([9, 1]), ["1"], [missing(9)]),
        (["1"], Specific([9, 8]), [], [missing(9), missing(8), NO_VERSIONS]),
        (["1"], Specific([]), [], ["No specific versions requested for servable m.", NO_VERSIONS]),
    ],
)
def test_a_policy_selects_in_its_order_and_warns_of_what_is_odd(
    names: list[str], policy: VersionPolicy, selected: list[str], warnings: list[str]
) -> None:
    assert select(names, policy) == (selected, warnings)


@pytest.mark.parametrize(
    ("policy", "selected"),
    [(Latest(), ["2"]), (Latest(2), ["2", "1"]), (All(), ["1", "2"]), (Specific([3, 1]), ["1"])],
)
def test_an_excluded_child_is_not_counted_and_not_reported_missing(
    policy: VersionPolicy, selected: list[str]
) -> None:
    assert select(["1", "2", "3"], policy, frozenset({"3"})) == (selected, [])


def test_nothing_is_said_of_a_base_path_whose_only_version_is_excluded() -> None:
    assert select(["1"], Latest(), frozenset({"1"})) == ([], [])


@pytest.mark.parametrize("number", [0, -1])
def test_latest_takes_at_least_one_version(number: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {number}"):
        Latest(number)


def test_specific_names_a_value_that_is_no_version() -> None:
    with pytest.raises(ValueError, match="signed 64-bit version numbers, got 9223372036854775808"):
        Specific([2**63])
    with pytest.raises(TypeError, match="version numbers, got '1'"):
        Specific(["1"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a list of version numbers, got 1"):
        Specific(1)  # type: ignore[arg-type]


def test_specific_keeps_its_versions_as_a_tuple() -> None:
    assert Specific([2, 1]) == Specific((2, 1))
    assert hash(Specific([2, 1])) == hash(Specific((2, 1)))


def test_version_directories_are_found_by_number_and_a_file_is_none(tmp_path: Path) -> None:
    for name in ("1", "002", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "3").write_text("")
    assert version_directories(tmp_path) == {1: tmp_path / "1", 2: tmp_path / "002"}


def test_a_directory_that_holds_the_model_file_itself_is_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert is_saved_model(tmp_path)
    assert not is_saved_model(tmp_path.parent)
    assert not is_saved_model(tmp_path / "no such")
