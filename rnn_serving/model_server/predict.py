"""The Predict call (predict_util.cc): the checks and error messages of the C++ server, in its order."""

import contextlib

import grpc

from rnn_serving.model_server import monitoring
from rnn_serving.model_server.errors import ServingError, failed_precondition, invalid_argument
from rnn_serving.model_server.tensors import decode, encode, encode_as_content
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import predict_pb2

METHODS = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")


def predict(core, request, timeout_s=None):
    """Return the PredictResponse to a PredictRequest.

    `timeout_s` is the time until the caller's deadline, None without one. Raises: ServingError.
    """
    with _call(core, request) as (servable, *arguments):
        outputs = servable.run(*arguments, timeout_s)
    return _response(core, request, servable, outputs)


async def predict_async(core, request, timeout_s=None):
    """Do what `predict` does without blocking the event loop."""
    with _call(core, request) as (servable, *arguments):
        outputs = await servable.run_async(*arguments, timeout_s)
    return _response(core, request, servable, outputs)


@contextlib.contextmanager
def _call(core, request):
    """Yield the servable that a PredictRequest names, and the arguments of its `run`.

    Raises: ServingError.
    """
    with core.lookup(request.model_spec if request.HasField("model_spec") else None) as servable:
        if core.options.enable_signature_method_name_check:
            check_method(servable, request)
        with monitoring.model_call("Predict", request.model_spec.name):
            yield servable, *run_arguments(servable, request)


def _response(core, request, servable, outputs):
    """Return the PredictResponse with the outputs {alias: array}."""
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = signature_name(request)
    response.model_spec.version.value = servable.number
    to_proto = encode_as_content if core.options.enable_serialization_as_tensor_content else encode
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(to_proto(array))
    return response


def run_arguments(servable, request):
    """Return the signature that a PredictRequest names, its inputs {alias: array} and the aliases of its outputs.

    Raises: ServingError.
    """
    name = signature_name(request)
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    inputs = decode_inputs(request.inputs, signature)
    return signature, inputs, output_aliases(request.output_filter, signature)


def signature_name(request):
    """Return the name of the signature in a PredictRequest, or the default."""
    return request.model_spec.signature_name or DEFAULT_SIGNATURE


def check_method(servable, request):
    """Raise INTERNAL if a Predict call may not run the signature's method."""
    signature = servable.signatures.get(signature_name(request))
    if signature is not None and signature.method_name not in METHODS:
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(METHODS)}}}. "
            f"Was: {signature.method_name}",
        )


def decode_inputs(sent, signature):
    """Return {alias: array} of all inputs of a signature: those sent, and its defaults for the others.

    Raises: ServingError INVALID_ARGUMENT if an input is missing, unknown or malformed.
    """
    names, required, defaults = set(sent), set(signature.inputs), signature.definition.defaults
    if len(names) > len(required) or (len(names) < len(required) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(names)}!={len(required)} "
            f"len({{{_list(names)}}}) != len({{{_list(required)}}}). "
            f"Sent extra: {{{_list(names - required)}}}. Missing but required: {{{_list(required - names)}}}."
        )
    inputs = {}
    for alias, info in signature.inputs.items():
        if alias not in names and alias not in defaults:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {{{_list(names)}}}, "
                f"or default input alias set: {_list(defaults)}"
            )
        inputs[alias] = decode(alias, sent[alias] if alias in names else defaults[alias])
    if names - required:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_list(names & required)}, "
            f"request input: {_list(names)}"
        )
    return inputs


def _list(names):
    return ",".join(sorted(names))


def output_aliases(output_filter, signature):
    """Return the output aliases that a filter lists, all if it is empty.

    Raises: ServingError INVALID_ARGUMENT for an unknown or a repeated alias.
    """
    aliases = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_list(signature.outputs)}}}."
            )
        if alias in aliases:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        aliases.append(alias)
    return aliases or list(signature.outputs)
