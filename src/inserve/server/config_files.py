"""Text protos of TensorFlow Serving's config files -> messages, and messages -> model configs.

Rules and texts: TensorFlow Serving, ``model_servers/server_core.cc`` and ``util/``. All files: protobuf text
format without unknown fields; an empty file is an error, a file with only a comment is an empty message.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from inserve.errors import (
    Code,
    FailedPreconditionError,
    InserveError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnimplementedError,
    UnknownError,
)
from inserve.protos import messages
from inserve.protos.pool import descriptor_pool
from inserve.server.model_config import ModelConfig, check_transition
from inserve.sources.base_path import is_uri
from inserve.sources.version_selection import All, Latest, Specific, VersionPolicy

__all__ = [
    "ConfigSyntaxError",
    "model_configs",
    "parse_text_proto",
    "read_model_configs",
    "read_text_proto",
]

_logger = logging.getLogger("inserve.server")
_LARGEST_FILE_BYTES = 64 << 20
_POSITION_PREFIX = re.compile(r"[0-9]+:[0-9]+ : ")
_MODEL_TYPE_UNSPECIFIED, _MODEL_TYPE_TENSORFLOW = 0, 1
_DEFAULT_PLATFORMS = ("tensorflow",)

_MessageT = TypeVar("_MessageT", bound=Message)


class ConfigSyntaxError(InvalidArgumentError):
    """A config file that is not a text proto of the expected message.

    *line* and *column* count from 1 and are 0 where the parser gives none. *summary* is what TensorFlow
    Serving prints for such a file; the message goes on with the place and the reason. *parser_line* is
    what its parser logs.
    """

    code = Code.INVALID_ARGUMENT

    def __init__(self, source: str, message_name: str, line: int, column: int, reason: str) -> None:
        self.summary = f"Invalid protobuf file: '{source}'"
        self.line = line
        self.column = column
        self.parser_line = f"Error parsing text-format {message_name}: {line}:{column}: {reason}"
        place = f"line {line}, column {column}: " if line else ""
        super().__init__(f"{self.summary}: {place}{reason} (expected a text-format {message_name})")


def read_text_proto(path: str | os.PathLike[str], message_type: type[_MessageT]) -> _MessageT:
    """Return the message that the text file *path* holds.

    Raises:
        ConfigSyntaxError: it does not parse.
        NotFoundError: there is no such file, or it is a directory.
        InvalidArgumentError: it is empty, or above 64 MiB.
        PermissionDeniedError, UnknownError: it cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, error) from error
    if not data:
        raise InvalidArgumentError(f"{name}; Invalid argument")
    if len(data) > _LARGEST_FILE_BYTES:
        raise InvalidArgumentError(f"{name} has more than {_LARGEST_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        full_name = message_type.DESCRIPTOR.full_name
        raise ConfigSyntaxError(name, full_name, line, column, "the text is not UTF-8") from None
    return parse_text_proto(text, message_type, source=name)


def parse_text_proto(text: str, message_type: type[_MessageT], *, source: str) -> _MessageT:
    """Return the message that *text* spells; *source* names it in errors.

    Raises:
        ConfigSyntaxError: it does not parse.
    """
    message = message_type()
    try:
        text_format.Parse(text, message, descriptor_pool=descriptor_pool())
    except text_format.ParseError as error:
        reason = _POSITION_PREFIX.sub("", str(error), count=1).strip()
        raise ConfigSyntaxError(
            source, message.DESCRIPTOR.full_name, error.GetLine() or 0, error.GetColumn() or 0, reason
        ) from None
    return message


def read_model_configs(
    path: str | os.PathLike[str],
    *,
    platforms: Collection[str] = _DEFAULT_PLATFORMS,
    current: Iterable[ModelConfig] = (),
) -> list[ModelConfig]:
    """Return the models that the ``ModelServerConfig`` text file *path* lists.

    Raises what ``read_text_proto`` and ``model_configs`` raise.
    """
    config = read_text_proto(path, messages.ModelServerConfig)
    return model_configs(config, platforms=platforms, current=current)


def model_configs(
    config: messages.ModelServerConfig,
    *,
    platforms: Collection[str] = _DEFAULT_PLATFORMS,
    current: Iterable[ModelConfig] = (),
) -> list[ModelConfig]:
    """Return the models of *config*, in its order; none when neither member of its ``oneof`` is set.

    *platforms* are the supported ones. *current* are the models that these will replace.

    Raises:
        InvalidArgumentError: a name comes twice or is empty, a base path is relative, platform and type are
            both or neither set or unsupported, the platform of a current model would change, or request
            logging is asked for.
        FailedPreconditionError: there are current models, and neither member is set.
        UnimplementedError: *config* is a custom one.
    """
    current = list(current)
    if config.WhichOneof("config") == "custom_model_config":
        raise UnimplementedError("ModelServer does not yet support custom model config.")
    if current and config.WhichOneof("config") is None:
        raise FailedPreconditionError(
            "Cannot transition to requested config. It is only legal to transition from one "
            "ModelConfigList to another."
        )
    models = list(config.model_config_list.config)
    names: set[str] = set()
    for model in models:
        if model.name in names:
            raise InvalidArgumentError(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models:
        if not os.path.isabs(model.base_path) and not is_uri(model.base_path):
            raise InvalidArgumentError(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
    configs = [_model_config(model) for model in models]
    check_transition(current, configs)
    for model_config in configs:
        if model_config.platform not in platforms:
            raise InvalidArgumentError(
                f"Model {model_config.name} requests unsupported platform {model_config.platform}"
            )
    if any(model.HasField("logging_config") for model in models):
        raise InvalidArgumentError("No request-logger-creator provided.")
    return configs


def _model_config(model: messages.ModelConfig) -> ModelConfig:
    platform = _platform(model)
    try:
        return ModelConfig(
            model.name,
            model.base_path,
            _version_policy(model),
            dict(model.version_labels),
            platform=platform,
        )
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(str(error)) from error


def _platform(model: messages.ModelConfig) -> str:
    fields = "ModelServerConfig::model_type (deprecated)", "ModelServerConfig::model_platform"
    if model.model_type != _MODEL_TYPE_UNSPECIFIED:
        if model.model_platform:
            raise InvalidArgumentError(
                f"Illegal setting both {fields[0]} and {fields[1]}, model name is {model.name}"
            )
        if model.model_type != _MODEL_TYPE_TENSORFLOW:
            raise InvalidArgumentError(
                f"ModelServerConfig::model_type choice {model.model_type:d} not supported."
            )
        _logger.warning(
            "Deprecated ModelServerConfig::model_type field used. Prefer ModelServerConfig::model_platform."
        )
        return "tensorflow"
    if not model.model_platform:
        raise InvalidArgumentError(
            f"Illegal setting neither {fields[0]} nor {fields[1]}, model name is {model.name}"
        )
    return model.model_platform


def _version_policy(model: messages.ModelConfig) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(policy.specific.versions))
    return Latest(max(1, policy.latest.num_versions))


def _unreadable(name: str, error: OSError) -> InserveError:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{name}; No such file or directory")
    if isinstance(error, IsADirectoryError):
        return NotFoundError(f"{name}; No such device")
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"{name}; Permission denied")
    return UnknownError(f"{name}; {error.strerror or type(error).__name__}")
