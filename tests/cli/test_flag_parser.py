"""Expected values: the recorded help text of the C++ server, and its rules for command lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inserve.cli.flag_parser import parse_flags, usage
from inserve.cli.flags import Flags, flag_table

HELP = (Path(__file__).parent.parent / "golden" / "text" / "help.stdout.txt").read_text()
_LINE = re.compile(r"(\t--(\w+)=\S* *)\t(\w+)\t(.+)")
_DEPENDS_ON_THE_MACHINE = {"rest_api_num_threads", "grpc_max_threads", "num_tflite_pools"}


def lines_without_descriptions(text: str) -> list[tuple[str, str]]:
    lines = []
    for line in text.splitlines()[2:]:
        match = _LINE.fullmatch(line)
        assert match is not None, line
        spelled = match[2] if match[2] in _DEPENDS_ON_THE_MACHINE else match[1]
        lines.append((spelled, match[3]))
    return lines


def test_usage_lists_the_recorded_flags_with_defaults_and_types_in_the_recorded_form() -> None:
    text = usage("${SERVER}", [info for info in flag_table() if not info.is_extra])
    assert text.splitlines()[:2] == HELP.splitlines()[:2]
    assert lines_without_descriptions(text) == lines_without_descriptions(HELP)
    assert text.endswith("\n")


def test_flags_that_are_not_tensorflow_serving_s_come_after_all_others() -> None:
    order = [info.is_extra for info in flag_table()]
    assert order == sorted(order)


def test_without_arguments_every_flag_has_its_default() -> None:
    parsed = parse_flags([])
    assert parsed.flags == Flags()
    assert (parsed.given, parsed.left_over, parsed.errors) == (frozenset(), (), ())


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--port=85", "port", 85),
        ("--port=-1", "port", -1),
        ("--port=2147483647", "port", 2147483647),
        ("--load_retry_interval_micros=9223372036854775807", "load_retry_interval_micros", 2**63 - 1),
        ("--per_process_gpu_memory_fraction=.5", "per_process_gpu_memory_fraction", 0.5),
        ("--per_process_gpu_memory_fraction=1e-1", "per_process_gpu_memory_fraction", 0.1),
        ("--model_name=a=b", "model_name", "a=b"),
        ("--model_name=", "model_name", ""),
        ("--enable_batching", "enable_batching", True),
        ("--enable_batching=true", "enable_batching", True),
        ("--enable_batching=TRUE", "enable_batching", True),
        ("--enable_batching=1", "enable_batching", True),
        ("--enable_profiler=False", "enable_profiler", False),
        ("--enable_profiler=0", "enable_profiler", False),
    ],
)
def test_a_flag_takes_its_value_after_an_equals_sign(argument: str, name: str, value: object) -> None:
    parsed = parse_flags([argument])
    assert getattr(parsed.flags, name) == value
    assert parsed.given == {name}
    assert (parsed.left_over, parsed.errors) == ((), ())


@pytest.mark.parametrize(
    "argument",
    [
        "--port=abc",
        "--port=1x",
        "--port=1.0",
        "--port=0x10",
        "--port=1_0",
        "--port=",
        "--port=2147483648",
        "--port=-2147483649",
        "--load_retry_interval_micros=9223372036854775808",
        "--per_process_gpu_memory_fraction=x",
        "--per_process_gpu_memory_fraction=1e39",
        "--per_process_gpu_memory_fraction=",
        "--enable_batching=yes",
        "--enable_batching=",
        "--initial_wait=never",
    ],
)
def test_a_value_that_cannot_be_read_is_an_error(argument: str) -> None:
    name, _, value = argument.removeprefix("--").partition("=")
    parsed = parse_flags([argument])
    assert parsed.errors == (f"Couldn't interpret value {value} for flag {name}.",)
    assert parsed.flags == Flags()


@pytest.mark.parametrize(
    ("arguments", "left_over"),
    [
        (["--port", "8500"], ("--port", "8500")),
        (["-port=8500"], ("-port=8500",)),
        (["--noenable_batching"], ("--noenable_batching",)),
        (["--enable_batching", "false"], ("false",)),
        (["--model_name"], ("--model_name",)),
        (["--nonsense=1", "word"], ("--nonsense=1", "word")),
        (["--", "--port=1"], ("--", "--port=1")),
        (["--help"], ("--help",)),
    ],
)
def test_what_is_no_flag_is_left_over(arguments: list[str], left_over: tuple[str, ...]) -> None:
    parsed = parse_flags(arguments)
    assert parsed.left_over == left_over
    assert parsed.errors == ()
    assert parsed.flags.port == 8500


def test_the_last_of_two_counts() -> None:
    assert parse_flags(["--port=1", "--port=2"]).flags.port == 2


def test_errors_do_not_hide_later_flags() -> None:
    parsed = parse_flags(["--port=x", "--rest_api_port=y", "--model_name=m"])
    assert len(parsed.errors) == 2
    assert parsed.flags.model_name == "m"


def test_custom_ops_given_twice_are_collected() -> None:
    assert parse_flags(["--custom_ops=a.so,b.so", "--custom_ops=c"]).flags.custom_ops == "a.so,b.so,c"
