"""Texts and their order are those of the recorded server (``text/exit_cases.jsonl``) and of its spec."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from inserve.batching.options import BatchingOptions
from inserve.cli.flags import Flags
from inserve.cli.server_plan import ServerPlan, channel_arguments, flags_without_effect, plan_server
from inserve.errors import InserveError, InvalidArgumentError, NotFoundError
from inserve.protos import messages
from inserve.server.options import ServerOptions

MODEL = Flags(model_name="m", model_base_path="/models/m")


def plan(**values: Any) -> ServerPlan:
    return plan_server(dataclasses.replace(MODEL, **values), values.keys())


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad"
    path.write_text("x\n")
    return str(path)


def test_the_defaults_are_those_of_the_c_plus_plus_server() -> None:
    options = plan().options
    assert plan().models == {"m": "/models/m"}
    assert plan().model_names == ("m",)
    expected = ServerOptions(
        grpc=("0.0.0.0:8500",),
        check_shapes=False,
        gpu_memory_growth=False,
        enable_reflection=True,
        enable_profiler=True,
        check_complete=False,
        allow_remote_reload=True,
        initial_wait="settled",
        num_load_threads=0,
        num_unload_threads=0,
        max_num_load_retries=5,
        load_retry_interval=60.0,
        reload_failed_after=None,
        num_tflite_pools=Flags.num_tflite_pools,
        allow_version_labels_for_unavailable_models=False,
    )
    assert options == expected


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ({"port": 0, "grpc_socket_path": "s"}, "grpc", ("unix:s",)),
        ({"grpc_socket_path": "/s"}, "grpc", ("0.0.0.0:8500", "unix:/s")),
        ({"host": "::1"}, "grpc", ("[::1]:8500",)),
        ({"rest_api_port": 81}, "rest", ("[::]:81",)),
        ({"rest_api_port": 81, "host": "127.0.0.1"}, "rest", ("127.0.0.1:81",)),
        ({"rest_api_port": 0}, "rest", ()),
        ({"rest_api_timeout_in_ms": 1500}, "rest_timeout", 1.5),
        ({"rest_api_timeout_in_ms": 0}, "rest_timeout", None),
        ({"rest_api_timeout_in_ms": -1}, "rest_timeout", None),
        ({"rest_api_enable_cors_support": True}, "rest_cors", True),
        ({"grpc_max_threads": 3}, "max_workers", 3),
        ({"grpc_transport": "grpcio"}, "grpc_transport", "grpcio"),
        ({"use_alts_credentials": True}, "use_alts_credentials", True),
        ({"enable_grpc_healthcheck_service": True}, "enable_grpc_healthcheck_service", True),
        ({"enable_profiler": False}, "enable_profiler", False),
        ({"enable_reflection": False}, "enable_reflection", False),
        ({"enable_session_service": True}, "enable_session_service", True),
        ({"saved_model_tags": "a,, b"}, "tags", ("a", "", " b")),
        ({"saved_model_tags": ""}, "tags", ("serve",)),
        ({"num_load_threads": 4}, "num_load_threads", 4),
        ({"num_unload_threads": 4}, "num_unload_threads", 4),
        ({"max_num_load_retries": 0}, "max_num_load_retries", 0),
        ({"load_retry_interval_micros": 300000}, "load_retry_interval", 0.3),
        ({"load_retry_interval_micros": -1}, "load_retry_interval", 0.0),
        ({"file_system_poll_wait_seconds": 0}, "poll_interval", 0),
        ({"file_system_poll_wait_seconds": -1}, "poll_interval", None),
        ({"model_config_file_poll_wait_seconds": 5}, "config_poll_interval", None),
        ({"enable_model_warmup": False}, "enable_model_warmup", False),
        ({"num_request_iterations_for_warmup": 3}, "num_request_iterations_for_warmup", 3),
        ({"num_request_iterations_for_warmup": -3}, "num_request_iterations_for_warmup", 1),
        ({"prefer_tflite_model": True}, "prefer_tflite_model", True),
        ({"num_tflite_pools": 7}, "num_tflite_pools", 7),
        ({"num_tflite_interpreters_per_pool": 7}, "num_tflite_interpreters_per_pool", 7),
        ({"enable_signature_method_name_check": True}, "enable_signature_method_name_check", True),
        ({"enable_serialization_as_tensor_content": True}, "serialize_as_tensor_content", True),
        ({"check_input_shapes": True}, "check_shapes", True),
        ({"check_complete": True}, "check_complete", True),
        ({"generate_warmup": False}, "generate_warmup", False),
        ({"memory_budget_bytes": 5}, "memory_budget", 5),
        ({"memory_budget_bytes": 0}, "memory_budget", None),
        ({"initial_wait": "available"}, "initial_wait", "available"),
        ({"allow_remote_reload": False}, "allow_remote_reload", False),
        ({"reload_failed_after_seconds": 2.0}, "reload_failed_after", 2.0),
        ({"custom_ops": "a.so,,tensorflow_text"}, "custom_ops", ("a.so", "tensorflow_text")),
        (
            {"grpc_channel_arguments": "grpc.max_connection_age_ms=2000"},
            "grpc_channel_arguments",
            (("grpc.max_connection_age_ms", 2000),),
        ),
    ],
)
def test_a_flag_sets_its_option(flags: dict[str, Any], field: str, value: object) -> None:
    assert getattr(plan(**flags).options, field) == value


def test_runtime_flags_end_up_in_the_session_config() -> None:
    config = messages.ConfigProto.FromString(
        plan(
            tensorflow_intra_op_parallelism=3, per_process_gpu_memory_fraction=0.5, gpu_memory_growth=True
        ).options.session_config
    )
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (3, 0)
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert config.gpu_options.allow_growth


def test_a_config_file_replaces_the_single_model(tmp_path: Path) -> None:
    path = tmp_path / "models"
    path.write_text('model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } }')
    planned = plan(model_config_file=str(path), model_config_file_poll_wait_seconds=5)
    assert (planned.models, planned.model_names) == (str(path), ("a",))
    assert planned.options.config_poll_interval == 5


def test_an_empty_config_names_no_models(tmp_path: Path) -> None:
    path = tmp_path / "models"
    path.write_text("# nothing\n")
    assert plan(model_config_file=str(path)).model_names is None


def test_batching_without_a_file_has_the_server_s_own_thread_name() -> None:
    batching = plan(enable_batching=True).options.batching
    assert isinstance(batching, BatchingOptions)
    assert batching.thread_pool_name == "model_server_batch_threads"
    assert batching.strict


def test_a_batching_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batching"
    path.write_text("max_batch_size { value: 64 } batch_timeout_micros { value: 2000 }\n")
    options = plan(
        enable_batching=True, batching_parameters_file=str(path), enable_per_model_batching_parameters=True
    ).options
    assert isinstance(options.batching, BatchingOptions)
    assert (options.batching.max_batch_size, options.batching.batch_timeout_micros) == (64, 2000)
    assert options.batching.thread_pool_name == "batch_threads"
    assert options.batching.strict
    assert options.enable_per_model_batching_parameters


def test_batching_is_as_lenient_as_asked_for() -> None:
    batching = plan(enable_batching=True, strict_batching=False).options.batching
    assert isinstance(batching, BatchingOptions)
    assert not batching.strict


def test_batch_sizes_can_be_measured_which_leaves_nothing_to_a_file() -> None:
    batching = plan(auto_batching=True, strict_batching=False).options.batching
    assert isinstance(batching, BatchingOptions)
    assert batching.measure_sizes
    with pytest.raises(InvalidArgumentError, match="either auto_batching or strict_batching"):
        plan(auto_batching=True)


def test_processes_and_tuning_are_taken_over() -> None:
    options = plan(workers=3, tune=False, tuning_cache_dir="/cache").options
    assert (options.workers, options.tune, options.cache_dir) == (3, False, "/cache")
    assert plan().options.cache_dir is None


def test_prometheus_needs_rest(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "monitoring"
    path.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert plan(monitoring_config_file=str(path), rest_api_port=81).options.prometheus_path == "/metrics"
    assert plan(monitoring_config_file=str(path)).options.prometheus_path is None
    assert plan(monitoring_config_file=bad).options.prometheus_path is None


def test_a_platform_config_replaces_the_flags(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "platforms"
    path.write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config {'
        " [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {"
        ' legacy_config { saved_model_tags: "tpu"'
        " batching_parameters { max_batch_size { value: 16 } } } } } } }"
    )
    options = plan(
        platform_config_file=str(path),
        saved_model_tags="serve",
        batching_parameters_file=bad,
        tensorflow_session_config_file=bad,
        tensorflow_session_parallelism=1,
        tensorflow_intra_op_parallelism=1,
        tensorflow_inter_op_parallelism=1,
    ).options
    assert options.tags == ("tpu",)
    assert isinstance(options.batching, BatchingOptions)
    assert options.batching.max_batch_size == 16
    assert not options.enable_model_warmup


def test_a_platform_config_without_the_platform_supports_no_model(tmp_path: Path) -> None:
    path = tmp_path / "platforms"
    path.write_text("# none\n")
    with pytest.raises(InvalidArgumentError, match="Model m requests unsupported platform tensorflow"):
        plan(platform_config_file=str(path))


CHECKS: list[tuple[dict[str, Any], str]] = [
    (
        {"port": 0},
        "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
    ),
    (
        {"use_alts_credentials": True, "ssl_config_file": "BAD"},
        "Either use_alts_credentials must be false or ssl_config_file must be empty.",
    ),
    (
        {"model_base_path": ""},
        "Both server_options.model_base_path and server_options.model_config_file are empty!",
    ),
    ({"model_config_file": "BAD"}, "Invalid protobuf file: 'BAD'"),
    (
        {"batching_parameters_file": "BAD"},
        "server_options.batching_parameters_file is set without setting "
        "server_options.enable_batching to true.",
    ),
    ({"tensorflow_session_config_file": "BAD"}, "Invalid protobuf file: 'BAD'"),
    (
        {
            "tensorflow_session_parallelism": 1,
            "tensorflow_intra_op_parallelism": 1,
            "tensorflow_inter_op_parallelism": 1,
        },
        "Either configure server_options.tensorflow_session_parallelism or "
        "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
        "separately. You cannot configure all.",
    ),
    ({"model_base_path": "rel"}, "Expected model m to have an absolute path or URI; got base_path()=rel"),
    ({"thread_pool_factory_config_file": "BAD"}, "Invalid protobuf file: 'BAD'"),
    ({"ssl_config_file": "BAD"}, "Invalid protobuf file: 'BAD'"),
    ({"monitoring_config_file": "BAD", "rest_api_port": 1}, "Invalid protobuf file: 'BAD'"),
]
"""In the order in which the start checks are made."""


@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_a_failed_start_check_has_the_recorded_text(number: int, bad: str) -> None:
    values, text = CHECKS[number]
    with pytest.raises(InvalidArgumentError) as error:
        plan(**{name: bad if value == "BAD" else value for name, value in values.items()})
    assert str(error.value) == text.replace("BAD", bad)


CAN_FAIL_TOGETHER = [check for check in CHECKS if "model_base_path" not in check[0]]


@pytest.mark.parametrize("number", range(len(CAN_FAIL_TOGETHER) - 1))
def test_the_first_failed_start_check_is_the_one_reported(number: int, bad: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x\n")
    (first, text), (second, _) = CAN_FAIL_TOGETHER[number : number + 2]
    values = {
        **{name: str(other) if value == "BAD" else value for name, value in second.items()},
        **{name: bad if value == "BAD" else value for name, value in first.items()},
    }
    with pytest.raises(InvalidArgumentError) as error:
        plan(**values)
    assert str(error.value) == text.replace("BAD", bad)


def test_a_platform_config_file_is_read_after_the_others(bad: str) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        plan(platform_config_file=bad + ".missing")
    with pytest.raises(InvalidArgumentError) as error:
        plan(platform_config_file=bad)
    assert str(error.value) == f"Invalid protobuf file: '{bad}'"


def test_the_log_says_where_a_file_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "models"
    path.write_text("model_config_list { config { name: }\n")
    with caplog.at_level(logging.ERROR, "inserve"), pytest.raises(InvalidArgumentError):
        plan(model_config_file=str(path))
    assert caplog.messages[0].startswith(
        "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:36: "
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc_max_threads", 0),
        ("num_load_threads", -1),
        ("num_tflite_pools", 0),
        ("drain_seconds", -1.0),
        ("max_num_load_retries", -1),
    ],
)
def test_a_number_below_its_range_is_an_error(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name} is {value}, expected at least"):
        plan(**{name: value})


def test_rest_threads_are_checked_with_rest_only() -> None:
    plan(rest_api_num_threads=0)
    with pytest.raises(InvalidArgumentError, match="rest_api_num_threads is 0"):
        plan(rest_api_num_threads=0, rest_api_port=81)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_grpc_port_that_cannot_exist_is_one_that_cannot_be_bound(port: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Failed to BuildAndStart gRPC server$"):
        plan(port=port)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", ()),
        ("a=1", (("a", 1),)),
        ("a=-1,b=x", (("a", -1), ("b", "x"))),
        ("a=", (("a", ""),)),
        ("a=1.5", (("a", "1.5"),)),
        ("a=2147483647,b=2147483648", (("a", 2147483647), ("b", "2147483648"))),
        ("a=b=c", (("a", "b=c"),)),
    ],
)
def test_channel_arguments_that_read_as_int32_are_numbers(text: str, arguments: object) -> None:
    assert channel_arguments(text) == arguments


@pytest.mark.parametrize("text", ["a", "a=1,", "=1", ",a=1"])
def test_a_channel_argument_without_key_or_value_is_an_error(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected key=value"):
        channel_arguments(text)


def test_flags_without_effect_are_named_if_they_were_set_to_something_else(bad: str) -> None:
    flags = Flags(skip_initialize_tpu=True, flush_filesystem_caches=True, port=1)
    said = list(flags_without_effect(flags, {"skip_initialize_tpu", "flush_filesystem_caches", "port"}))
    assert [line.split()[0] for line in said] == ["--skip_initialize_tpu"]


def test_flags_that_a_platform_config_replaces_are_named() -> None:
    flags = Flags(platform_config_file="p", enable_batching=True)
    said = list(flags_without_effect(flags, {"platform_config_file", "enable_batching"}))
    assert said == ["--enable_batching has no effect beside --platform_config_file"]


def test_a_thread_pool_factory_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "pools"
    path.write_text('thread_pool_factory_config { type_url: "type.googleapis.com/my.Factory" }')
    with pytest.raises(InserveError, match=r"my\.Factory"):
        plan(thread_pool_factory_config_file=str(path))
