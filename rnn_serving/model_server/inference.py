"""Classify, Regress and MultiInference (classifier.cc, regressor.cc, multi_inference.cc).

These calls take Examples, feed them to the model serialized, and answer labels, scores and values.
"""

import grpc
import numpy as np

from rnn_serving.model_server import monitoring
from rnn_serving.model_server.errors import ServingError, invalid_argument
from rnn_serving.model_server.inference_results import classification_result, regression_result
from rnn_serving.model_server.inference_signatures import CLASSIFY, INPUTS, REGRESS, check_classify, check_regress
from rnn_serving.saved_model import DEFAULT_SIGNATURE, merge_signatures

from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2


def classify(core, request, timeout_s=None):
    """Return the ClassificationResponse to a ClassificationRequest.

    Raises: ServingError.
    """
    return _respond(classification_pb2.ClassificationResponse, run_classify, core, request, timeout_s)


def regress(core, request, timeout_s=None):
    """Return the RegressionResponse to a RegressionRequest.

    Raises: ServingError.
    """
    return _respond(regression_pb2.RegressionResponse, run_regress, core, request, timeout_s)


def _respond(response_class, run, core, request, timeout_s):
    """Return the response to a request, with the result of `run` on the version it names."""
    with core.lookup(request.model_spec if request.HasField("model_spec") else None) as servable:
        monitoring.EXAMPLE_COUNT.add(request.model_spec.name, amount=_example_count(request.input))
        result = run(servable, request, timeout_s, core.options.enable_signature_method_name_check)
        response = response_class(result=result)
        _fill_model_spec(response.model_spec, request.model_spec, servable)
        return response


def multi_inference(core, request, timeout_s=None):
    """Return the MultiInferenceResponse to a MultiInferenceRequest; the first task names the version for all.

    Raises: ServingError.
    """
    first = request.tasks[0].model_spec if request.tasks else None
    if first is None or not first.name:
        raise invalid_argument("ModelSpec has no name specified.")
    with core.lookup(first) as servable:
        return run_multi_inference(servable, request, timeout_s, core.options.enable_signature_method_name_check)


def _fill_model_spec(spec, requested, servable):
    spec.name = requested.name
    spec.signature_name = requested.signature_name or DEFAULT_SIGNATURE
    spec.version.value = servable.number


def run_classify(servable, request, timeout_s=None, check_method=False):
    """Return the ClassificationResult of a servable for a ClassificationRequest.

    Raises: ServingError.
    """
    signature = _signature(servable, request.model_spec, "No signature was found with the name: {}")
    check_classify(signature, check_method)
    examples = _examples(request.input)
    return classification_result(servable.run(signature, {INPUTS: examples}, None, timeout_s), len(examples))


def run_regress(servable, request, timeout_s=None, check_method=False):
    """Return the RegressionResult of a servable for a RegressionRequest.

    Raises: ServingError.
    """
    signature = _signature(servable, request.model_spec, "No signature was found with the name: {}")
    check_regress(signature, check_method)
    examples = _examples(request.input)
    return regression_result(servable.run(signature, {INPUTS: examples}, None, timeout_s), len(examples))


def run_multi_inference(servable, request, timeout_s=None, check_method=False):
    """Return the MultiInferenceResponse of a servable for a MultiInferenceRequest, from one model call for all tasks.

    Raises: ServingError.
    """
    signatures = {}
    for task in request.tasks:
        name, signature = _task_signature(servable, request, task, check_method)
        if name in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signatures[name] = signature
    examples, merged = _examples(request.input), merge_signatures(signatures)
    outputs = servable.run(merged, dict.fromkeys(merged.inputs, examples), None, timeout_s)
    response = inference_pb2.MultiInferenceResponse()
    for task, name in zip(request.tasks, signatures):
        result = response.results.add()
        _fill_model_spec(result.model_spec, task.model_spec, servable)
        task_outputs = {alias: outputs[f"{name}/{alias}"] for alias in signatures[name].outputs}
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(classification_result(task_outputs, len(examples)))
        else:
            result.regression_result.CopyFrom(regression_result(task_outputs, len(examples)))
    return response


def _task_signature(servable, request, task, check_method):
    """Return (name, signature) of one task, after checking that the task may run it."""
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != request.tasks[0].model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    signature = _signature(servable, task.model_spec, "Requested signature not found in model graph: {}")
    if task.method_name == CLASSIFY:
        check_classify(signature, check_method)
    elif task.method_name == REGRESS:
        check_regress(signature, check_method)
    else:
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return task.model_spec.signature_name or DEFAULT_SIGNATURE, signature


def _signature(servable, spec, missing):
    """Return the signature that a ModelSpec names; `missing` is the error message, with {} for the name."""
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid_argument(missing.format(name))
    return servable.signatures[name]


def _example_count(request_input):
    kind = request_input.WhichOneof("kind")
    return len(getattr(request_input, kind).examples) if kind else 0


def _examples(request_input):
    """Return the serialized Examples of an Input, object (N,), each merged with the context if there is one.

    Raises: ServingError INVALID_ARGUMENT if there are none.
    """
    kind = request_input.WhichOneof("kind")
    context, examples = b"", []
    if kind == "example_list":
        examples = request_input.example_list.examples
    elif kind == "example_list_with_context":
        # Concatenated protobuf messages merge when they are parsed.
        context = request_input.example_list_with_context.context.SerializeToString()
        examples = request_input.example_list_with_context.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = [context + example.SerializeToString() for example in examples]
    return array
