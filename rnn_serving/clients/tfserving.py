"""What a model server says about itself before it is graded, over gRPC: its program, version and signatures."""

from dataclasses import dataclass
from urllib.parse import unquote

import grpc

from rnn_serving.clients import waiting
from rnn_serving.clients.load import RequestError
from rnn_serving.clients.signature import check_signature
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf  # noqa: F401, before the import below, which would be noisy

from tensorflow_serving.apis import get_model_metadata_pb2

# Our own server says who it is; TensorFlow Serving says nothing.
SERVED_BY, CPP_SERVER = "x-served-by", "tensorflow_model_server"
# The data set that the model was trained on, percent-encoded: our own server reads it from the export, TensorFlow
# Serving does not. Clients import nothing from the server, so its name is here again.
TRAINED_ON = "x-trained-on"
# What Ray says, as an INTERNAL error, of a replica that died before it answered.
LOST_REPLICA = ("The actor died", "The actor is dead", "is unavailable: ")


@dataclass(frozen=True)
class ServedBy:
    """The server's program, the version of its model, the shape of one image, and what the model was trained on."""

    program: str
    version: int
    image_shape: tuple
    dataset: str | None = None


def describe_server(stub, address, query):
    """Return the `ServedBy` of the server behind a PredictionServiceStub.

    Raises: UserError if it is not there after `query.wait_s` seconds, or saying how its model differs from what the
    requests need.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = query.model_name
    limits = (query.timeout_s, address, query.wait_s)
    try:
        response, call = waiting.call(stub.GetModelMetadata, request, *limits, "grpc", query.tls)
    except grpc.RpcError as error:
        hint = connection_hint(model_not_found=error.code() == grpc.StatusCode.NOT_FOUND)
        raise UserError(f"{address}: {error.code().name}: {error.details()}; {hint}") from error
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    version = response.model_spec.version.value
    return served_by(dict(call.trailing_metadata()), address, version, signatures, query)


def served_by(headers, address, version, signatures, query):
    """Return the `ServedBy` of a server that offers a SignatureDefMap; UserError unless it fits the requests.

    `headers` are those of its answer, in gRPC the trailing metadata.
    """
    program, dataset = headers.get(SERVED_BY, CPP_SERVER), headers.get(TRAINED_ON)
    try:
        image_shape = check_signature(signatures.signature_def, query)
        return ServedBy(program, version, image_shape, dataset and unquote(dataset))
    except UserError as error:
        raise UserError(f"{address}: model {query.model_name} version {version} {error}") from error


def connection_hint(model_not_found):
    """Return a hint for a failed metadata request."""
    if model_not_found:
        return "expected the name that the server was started with (--model_name)"
    return "expected a server there, start one with scripts/serve_tfserving.sh"


def call(method, request, timeout_s):
    """Return the answer of a method of the service; raise RequestError with what it said instead."""
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as error:
        message = f"{error.code().name}: {error.details()}; expected an answer"
        raise RequestError(message, may_be_repeated=_may_succeed_later(error)) from error


def _may_succeed_later(error):
    """Return whether an error says that a server, or the one behind it, is not there now, or refuses for now."""
    if error.code() == grpc.StatusCode.INTERNAL:
        return any(name in error.details() for name in LOST_REPLICA)
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
