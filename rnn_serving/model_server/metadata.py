"""GetModelMetadata (get_model_metadata_impl.cc): which signatures a model has."""

from rnn_serving.model_server.errors import invalid_argument

from tensorflow_serving.apis import get_model_metadata_pb2

SIGNATURE_FIELD = "signature_def"


def get_model_metadata(core, request):
    """Return the GetModelMetadataResponse to a GetModelMetadataRequest.

    Raises: ServingError; the fields asked for are checked before the model.
    """
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_FIELD:
            raise invalid_argument(f"Metadata field {name} is not supported")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with core.lookup(request.model_spec if request.HasField("model_spec") else None) as servable:
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature.definition)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.number
    response.metadata[SIGNATURE_FIELD].Pack(signatures)
    return response
