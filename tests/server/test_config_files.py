"""Error texts are those of the recorded server, where it has one."""

from pathlib import Path

import pytest

from inserve.errors import (
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from inserve.protos import messages
from inserve.server.config_files import (
    ConfigSyntaxError,
    model_configs,
    parse_text_proto,
    read_model_configs,
    read_text_proto,
)
from inserve.server.model_config import ModelConfig
from inserve.sources.version_selection import All, Latest, Specific


def configs(text: str) -> list[ModelConfig]:
    return model_configs(parse_text_proto(text, messages.ModelServerConfig, source="test"))


def listed(*models: str) -> str:
    entries = " ".join(f'config {{ {model} model_platform: "tensorflow" }}' for model in models)
    return f"model_config_list {{ {entries} }}"


def test_a_file_lists_models_with_policies_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(
        """
        # ours
        model_config_list {
          config {
            name: "prices"
            base_path: "/srv/models/prices"
            model_platform: "tensorflow"
            model_version_policy { specific { versions: 7 versions: 8 } }
            version_labels { key: "live" value: 7 }
            version_labels { key: "trial" value: 8 }
          }
          config {
            name: "speech"
            base_path: "gs://acme-models/speech"
            model_platform: "tensorflow"
            model_version_policy { latest { num_versions: 2 } }
          }
        }
        """
    )
    assert read_model_configs(file) == [
        ModelConfig("prices", "/srv/models/prices", Specific([7, 8]), {"live": 7, "trial": 8}),
        ModelConfig("speech", "gs://acme-models/speech", Latest(2)),
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Latest(1)),
        ("model_version_policy { }", Latest(1)),
        ("model_version_policy { latest { } }", Latest(1)),
        ("model_version_policy { latest { num_versions: 0 } }", Latest(1)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all { } }", All()),
        ("model_version_policy { specific { versions: 4 versions: -2 } }", Specific([4, -2])),
        ("model_version_policy { specific { } }", Specific([])),
    ],
)
def test_a_version_policy_is_read(policy: str, expected: object) -> None:
    assert configs(listed(f'name: "m" base_path: "/m" {policy}'))[0].version_policy == expected


@pytest.mark.parametrize("text", ["", "# nothing\n", "model_config_list {}\n"])
def test_a_config_may_list_no_models(text: str) -> None:
    assert configs(text) == []


MODEL = 'name: "m" base_path: "/m"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            listed('name: "half_plus_two" base_path: "/m"', 'name: "half_plus_two" base_path: "rel"'),
            "Illegal to list model half_plus_two multiple times in config list",
        ),
        (
            listed('name: "m" base_path: "rel/m"'),
            "Expected model m to have an absolute path or URI; got base_path()=rel/m",
        ),
        (listed('name: "m"'), "Expected model m to have an absolute path or URI; got base_path()="),
        (
            listed('name: "m" base_path: "~/m"'),
            "Expected model m to have an absolute path or URI; got base_path()=~/m",
        ),
        (
            f"model_config_list {{ config {{ {MODEL} }} }}",
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is m",
        ),
        (
            listed(f"{MODEL} model_type: TENSORFLOW"),
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform, model name is m",
        ),
        (
            f"model_config_list {{ config {{ {MODEL} model_type: OTHER }} }}",
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            f'model_config_list {{ config {{ {MODEL} model_platform: "pytorch" }} }}',
            "Model m requests unsupported platform pytorch",
        ),
        (
            listed(f"{MODEL} logging_config {{ sampling_config {{ sampling_rate: 1 }} }}"),
            "No request-logger-creator provided.",
        ),
        (listed('base_path: "/m"'), "a model needs a name, got an empty one"),
    ],
)
def test_a_config_that_is_illegal_is_refused_with_the_servers_text(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        configs(text)
    assert caught.value.message == message


def test_a_custom_config_is_not_supported() -> None:
    with pytest.raises(UnimplementedError) as caught:
        configs('custom_model_config { type_url: "type.googleapis.com/tensorflow.serving.ModelConfigList" }')
    assert caught.value.message == "ModelServer does not yet support custom model config."


def test_the_deprecated_model_type_counts_as_platform_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert configs(f"model_config_list {{ config {{ {MODEL} model_type: TENSORFLOW }} }}") == [
        ModelConfig("m", "/m")
    ]
    assert caplog.messages == [
        "Deprecated ModelServerConfig::model_type field used. Prefer ModelServerConfig::model_platform."
    ]


def test_platforms_other_than_tensorflow_may_be_supported() -> None:
    config = parse_text_proto(
        f'model_config_list {{ config {{ {MODEL} model_platform: "tflite" }} }}',
        messages.ModelServerConfig,
        source="test",
    )
    assert model_configs(config, platforms=("tensorflow", "tflite"))[0].platform == "tflite"


@pytest.mark.parametrize(
    ("content", "line", "column", "reason"),
    [
        (b"model_config_list { config { name: }\n", 1, 36, "Expected string but found: '}'"),
        (b"model_config_list {\n  config {\n    nonsense: 1\n  }\n}\n", 3, 5, "has no field named"),
        (b'model_config_list {\n  config {\n    name: "a" name: "b"\n  }\n}\n', 3, 21, "multiple"),
        (b"\x01\x02\x03", 1, 1, "Expected identifier"),
        (b"# a\nmodel\xff", 2, 6, "not UTF-8"),
    ],
)
def test_a_syntax_error_names_line_and_column(
    content: bytes, line: int, column: int, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "models.config"
    file.write_bytes(content)
    with pytest.raises(ConfigSyntaxError) as caught:
        read_model_configs(file)
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert error.summary == f"Invalid protobuf file: '{file}'"
    assert error.message.startswith(f"{error.summary}: line {line}, column {column}: ")
    assert reason in error.message
    assert "(expected a text-format tensorflow.serving.ModelServerConfig)" in error.message


def test_files_that_are_missing_empty_or_a_directory_have_the_servers_texts(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    expected: list[tuple[Path, type[InserveError], str]] = [
        (tmp_path / "nope", NotFoundError, f"{tmp_path}/nope; No such file or directory"),
        (tmp_path, NotFoundError, f"{tmp_path}; No such device"),
        (tmp_path / "empty", InvalidArgumentError, f"{tmp_path}/empty; Invalid argument"),
    ]
    for path, error, message in expected:
        with pytest.raises(error) as caught:
            read_model_configs(path)
        assert caught.value.message == message


def test_any_message_can_be_read_from_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 32 }")
    assert read_text_proto(file, messages.BatchingParameters).max_batch_size.value == 32


def test_the_platform_of_a_current_model_stays_whatever_is_supported() -> None:
    config = parse_text_proto(
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "other" } }',
        messages.ModelServerConfig,
        source="test",
    )
    with pytest.raises(InvalidArgumentError) as caught:
        model_configs(config, current=[ModelConfig("m", "/m")])
    assert str(caught.value) == (
        "Illegal to change a model's platform. For model m platform was tensorflow "
        "and new platform requested is other"
    )


def test_a_config_without_a_list_does_not_replace_one() -> None:
    with pytest.raises(FailedPreconditionError, match="Cannot transition to requested config"):
        model_configs(messages.ModelServerConfig(), current=[ModelConfig("m", "/m")])
    assert model_configs(messages.ModelServerConfig()) == []
