"""Rules and defaults: the spec of ``SessionBundleConfig``; unset fields have protobuf's defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from inserve.errors import InserveError, InvalidArgumentError, UnimplementedError
from inserve.protos import messages
from inserve.server.platform_config import PlatformSettings, read_platform_config

ADAPTER = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"


def platform(legacy_config: str, *, key: str = "tensorflow") -> str:
    return (
        f'platform_configs {{ key: "{key}" value {{ source_adapter_config {{ [{ADAPTER}] {{'
        f" legacy_config {{ {legacy_config} }} }} }} }} }}"
    )


def read(text: str, tmp_path: Path, strict: bool = True) -> PlatformSettings | None:
    path = tmp_path / "platforms"
    path.write_text(text)
    return read_platform_config(path, strict)


def test_an_empty_config_has_neither_warm_up_nor_batching(tmp_path: Path) -> None:
    assert read(platform(""), tmp_path) == PlatformSettings(
        session_config=b"",
        tags=("serve",),
        batching=None,
        enable_per_model_batching_parameters=False,
        enable_model_warmup=False,
        num_request_iterations_for_warmup=1,
        prefer_tflite_model=False,
        num_tflite_pools=1,
        num_tflite_interpreters_per_pool=1,
    )


def test_every_field_that_has_an_option_is_read(tmp_path: Path) -> None:
    settings = read(
        platform(
            'saved_model_tags: "a" saved_model_tags: "b" enable_model_warmup: true'
            " model_warmup_options { num_request_iterations { value: 2 } }"
            " batching_parameters { max_batch_size { value: 16 } } enable_per_model_batching_params: true"
            " prefer_tflite_model: true num_tflite_pools: 3 num_tflite_interpreters_per_pool: 4"
            " session_config { allow_soft_placement: true }"
        ),
        tmp_path,
    )
    assert settings is not None
    assert settings.tags == ("a", "b")
    assert settings.enable_model_warmup
    assert settings.num_request_iterations_for_warmup == 2
    assert settings.batching is not None
    assert settings.batching.max_batch_size == 16
    assert settings.batching.strict
    assert settings.enable_per_model_batching_parameters
    assert (settings.prefer_tflite_model, settings.num_tflite_pools) == (True, 3)
    assert settings.num_tflite_interpreters_per_pool == 4
    assert messages.ConfigProto.FromString(settings.session_config).allow_soft_placement
    assert settings.without_effect == ()


def test_the_old_number_of_interpreters_is_taken_as_pools(tmp_path: Path) -> None:
    settings = read(platform("num_tflite_interpreters: 5"), tmp_path)
    assert settings is not None
    assert settings.num_tflite_pools == 5


def test_a_plain_session_is_not_batched(tmp_path: Path) -> None:
    text = "batching_parameters { } wrap_session_with_no_threading_params: true"
    settings = read(platform(text), tmp_path)
    assert settings is not None
    assert settings.batching is None


def test_fields_without_effect_are_named(tmp_path: Path) -> None:
    settings = read(platform("enable_session_metadata: true"), tmp_path)
    assert settings is not None
    assert settings.without_effect == ("enable_session_metadata",)


def test_a_file_may_have_no_platform(tmp_path: Path) -> None:
    assert read("# none\n", tmp_path) is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x\n", InvalidArgumentError, "Invalid protobuf file"),
        (platform("", key="pytorch"), UnimplementedError, "platform 'pytorch', expected only 'tensorflow'"),
        ('platform_configs { key: "tensorflow" }', UnimplementedError, "an empty config"),
        (
            'platform_configs { key: "tensorflow" value { source_adapter_config {'
            " [type.googleapis.com/tensorflow.serving.HashmapSourceAdapterConfig] { } } } }",
            UnimplementedError,
            "HashmapSourceAdapterConfig, expected tensorflow.serving.SavedModelBundle",
        ),
        (
            'platform_configs { key: "tensorflow" value { source_adapter_config {'
            f' type_url: "{ADAPTER}" value: "\\x08" }} }} }}',
            InvalidArgumentError,
            "is no tensorflow.serving.SavedModelBundleSourceAdapterConfig",
        ),
        (platform('session_target: "grpc://x"'), UnimplementedError, "session_target is 'grpc://x'"),
        (
            platform("enable_saved_model_config: true"),
            UnimplementedError,
            "Saved model config functionality is not implemented.",
        ),
    ],
)
def test_what_cannot_be_done_is_an_error(
    text: str, error: type[InserveError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        read(text, tmp_path)
    assert message in str(caught.value)
