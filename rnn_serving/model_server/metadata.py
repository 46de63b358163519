"""GetModelMetadata (get_model_metadata_impl.cc): the signatures of a model, and what it was trained on."""

import string
from urllib.parse import quote

from rnn_serving import exports
from rnn_serving.model_server.errors import invalid_argument

from tensorflow_serving.apis import get_model_metadata_pb2

SIGNATURE_FIELD = "signature_def"
# A header of our own: clients that grade a data set say so if the model was trained on another one.
TRAINED_ON, LONGEST_NAME = "x-trained-on", 200
_HEADER_CHARACTERS = string.punctuation.replace("%", "") + " "


def get_model_metadata(core, request):
    """Return (GetModelMetadataResponse, headers of our own) for a GetModelMetadataRequest.

    Raises: ServingError; after the ModelSpec itself, the requested fields are checked before the model.
    """
    if request.HasField("model_spec"):
        _check_fields(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with core.lookup(request.model_spec if request.HasField("model_spec") else None) as servable:
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature.definition)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.number
        headers = trained_on_header(servable.directory)
    response.metadata[SIGNATURE_FIELD].Pack(signatures)
    return response, headers


def _check_fields(request):
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_FIELD:
            raise invalid_argument(f"Metadata field {name} is not supported")


def trained_on_header(directory):
    """Return the header with the name of the data set that a version records, percent-encoded; () without one."""
    name = exports.provenance(directory).get("dataset", {}).get("name")
    if not name or not isinstance(name, str):
        return ()
    return ((TRAINED_ON, quote(name[:LONGEST_NAME], safe=_HEADER_CHARACTERS, errors="replace")),)
