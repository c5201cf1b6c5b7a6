"""GetModelMetadata: the signatures of a servable.

Behaviour: TensorFlow Serving, ``servables/tensorflow/get_model_metadata_impl.cc``.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from inserve.errors import InternalError, InvalidArgumentError
from inserve.handlers.model_spec import ServableFinder, model_spec_from_message
from inserve.protos import messages

__all__ = ["ModelMetadataHandler"]

_SIGNATURE_DEF = "signature_def"
_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class ModelMetadataHandler:
    """Answers GetModelMetadata for the servables that *finder* finds; called on any thread."""

    def __init__(self, finder: ServableFinder) -> None:
        self._finder = finder

    def get_model_metadata_message(self, request: bytes) -> bytes:
        """Return the serialized GetModelMetadataResponse to a serialized GetModelMetadataRequest.

        The fields are checked before the model is looked up, as TensorFlow Serving does.

        Raises:
            InternalError: *request* is not such a message; the text is empty.
            InvalidArgumentError: No model spec, no field, or a field that is not supported.
            NotFoundError: No such servable is available.
        """
        try:
            message = messages.GetModelMetadataRequest.FromString(request)
        except DecodeError as error:
            raise InternalError from error
        if not message.HasField("model_spec"):
            raise InvalidArgumentError("Missing ModelSpec")
        if not message.metadata_field:
            raise InvalidArgumentError("GetModelMetadataRequest must specify at least one metadata_field")
        for field in message.metadata_field:
            if field != _SIGNATURE_DEF:
                raise InvalidArgumentError(f"Metadata field {field} is not supported")
        with self._finder.find(model_spec_from_message(message.model_spec)) as handle:
            response = messages.GetModelMetadataResponse()
            response.model_spec.name = handle.id.name
            response.model_spec.version.value = handle.id.version
            metadata = response.metadata[_SIGNATURE_DEF]
            metadata.type_url = _TYPE_URL
            metadata.value = handle.servable.signature_def_map
            return bytes(response.SerializeToString())
