"""The Predict call (predict_util.cc): checks in the order of the C++ server, with its words."""

from rnn_serving.model_server.errors import failed_precondition, invalid_argument
from rnn_serving.model_server.tensors import decode, encode
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import predict_pb2


def predict(models, request, timeout_s=None):
    """Return the PredictResponse to a PredictRequest.

    `timeout_s` is what is left of the caller's deadline, None if there is none. Raises: ServingError.
    """
    version = models.lookup(request.model_spec if request.HasField("model_spec") else None)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = version.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    check_inputs(request.inputs, signature)
    inputs = {alias: decode(alias, request.inputs[alias]) for alias in signature.inputs}
    outputs = version.run(signature, inputs, output_aliases(request.output_filter, signature), timeout_s)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = name
    response.model_spec.version.value = version.number
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(encode(array))
    return response


def check_inputs(inputs, signature):
    """Raise INVALID_ARGUMENT unless a request's inputs are those of the signature."""
    sent, required = set(inputs), set(signature.inputs)
    if len(sent) != len(required):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(required)}}}). "
            f"Sent extra: {{{_joined(sent - required)}}}. Missing but required: {{{_joined(required - sent)}}}."
        )
    for alias, info in signature.inputs.items():
        if alias not in sent:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {{{_joined(sent)}}}, or default input alias set: "
            )


def _joined(names):
    return ",".join(sorted(names))


def output_aliases(output_filter, signature):
    """Return the aliases to fetch: those of the filter, all if it is empty."""
    seen = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_joined(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or list(signature.outputs)
