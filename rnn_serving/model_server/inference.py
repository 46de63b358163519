"""Classify, Regress and MultiInference: serialized Examples in, labels, scores and values out.

The shape of a signature decides what it can do, not its method name, unless the server was told to check that too:
exports of TensorFlow 2 all say `tensorflow/serving/predict` (classifier.cc, regressor.cc, multi_inference.cc).
"""

import grpc
import numpy as np

from rnn_serving.model_server import monitoring
from rnn_serving.model_server.errors import ServingError, invalid_argument
from rnn_serving.model_server.tensors import dtype_name
from rnn_serving.saved_model import DEFAULT_SIGNATURE, joined

from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


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
    """Return the response of the version that a request means, with the result of `run`."""
    with core.lookup(request.model_spec if request.HasField("model_spec") else None) as servable:
        monitoring.EXAMPLE_COUNT.add(request.model_spec.name, amount=_example_count(request.input))
        result = run(servable, request, timeout_s, core.options.enable_signature_method_name_check)
        response = response_class(result=result)
        _fill_model_spec(response.model_spec, request.model_spec, servable)
        return response


def multi_inference(core, request, timeout_s=None):
    """Return the MultiInferenceResponse to a MultiInferenceRequest: all tasks by the version the first one means.

    Raises: ServingError.
    """
    first = request.tasks[0].model_spec if request.tasks else None
    if first is None or not first.name:
        raise invalid_argument("ModelSpec has no name specified.")
    with core.lookup(first) as servable:
        return run_multi_inference(servable, request, timeout_s, core.options.enable_signature_method_name_check)


def _fill_model_spec(spec, asked, servable):
    spec.name = asked.name
    spec.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    spec.version.value = servable.number


def run_classify(servable, request, timeout_s=None, check_method=False):
    """Return the ClassificationResult of a servable for a ClassificationRequest."""
    signature = _signature(servable, request.model_spec, "No signature was found with the name: {}")
    _check_classify(signature, check_method)
    examples = _examples(request.input)
    return _classification(servable.run(signature, {INPUTS: examples}, None, timeout_s), len(examples))


def run_regress(servable, request, timeout_s=None, check_method=False):
    """Return the RegressionResult of a servable for a RegressionRequest."""
    signature = _signature(servable, request.model_spec, "No signature was found with the name: {}")
    _check_regress(signature, check_method)
    examples = _examples(request.input)
    return _regression(servable.run(signature, {INPUTS: examples}, None, timeout_s), len(examples))


def run_multi_inference(servable, request, timeout_s=None, check_method=False):
    """Return the MultiInferenceResponse of a servable for a MultiInferenceRequest: one model call for all tasks."""
    signatures = {}
    for task in request.tasks:
        name, signature = _task_signature(servable, request, task, check_method)
        if name in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signatures[name] = signature
    if len({signature.inputs[INPUTS].name for signature in signatures.values()}) > 1:
        raise invalid_argument("Input tensor must be the same for all Signatures.")
    examples = _examples(request.input)
    outputs = servable.run(joined(signatures), {INPUTS: examples}, None, timeout_s)
    response = inference_pb2.MultiInferenceResponse()
    for task, name in zip(request.tasks, signatures):
        result = response.results.add()
        _fill_model_spec(result.model_spec, task.model_spec, servable)
        own = {alias: outputs[f"{name}/{alias}"] for alias in signatures[name].outputs}
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classification(own, len(examples)))
        else:
            result.regression_result.CopyFrom(_regression(own, len(examples)))
    return response


def _task_signature(servable, request, task, check_method):
    """Return the name of one task's signature and the signature, checked."""
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != request.tasks[0].model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    signature = _signature(servable, task.model_spec, "Requested signature not found in model graph: {}")
    if task.method_name == CLASSIFY:
        _check_classify(signature, check_method)
    elif task.method_name == REGRESS:
        _check_regress(signature, check_method)
    else:
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return task.model_spec.signature_name or DEFAULT_SIGNATURE, signature


def _signature(servable, spec, missing):
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid_argument(missing.format(name))
    return servable.signatures[name]


def _check_classify(signature, check_method):
    if check_method and signature.method_name != CLASSIFY:
        raise invalid_argument(
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {signature.method_name}"
        )
    _check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    _check_input_key(signature, "classification")
    if not {CLASSES, SCORES} & set(signature.outputs):
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature.definition}"
        )


def _check_regress(signature, check_method):
    if check_method and signature.method_name != REGRESS:
        raise invalid_argument(
            f"Expected regression signature method_name to be {REGRESS}. Was: {signature.method_name}"
        )
    _check_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    _check_input_key(signature, "regression")
    if OUTPUTS not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {signature.definition}")


def _check_one_input(signature):
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def _check_input_key(signature, kind):
    if INPUTS not in signature.inputs:
        raise invalid_argument(f"No {kind} inputs found in SignatureDef: {signature.definition}")


def _example_count(given):
    kind = given.WhichOneof("kind")
    return len(getattr(given, kind).examples) if kind else 0


def _examples(given):
    """Return the serialized Examples of an Input, object (N,), each preceded by the context if there is one."""
    kind = given.WhichOneof("kind")
    context, examples = b"", []
    if kind == "example_list":
        examples = given.example_list.examples
    elif kind == "example_list_with_context":
        # Concatenated messages are merged when they are parsed (protobuf's encoding).
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = [context + example.SerializeToString() for example in examples]
    return array


def _classification(outputs, count):
    """Return the ClassificationResult of {alias: array} for `count` Examples."""
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    if classes is not None:
        _check_classes(classes, "DT_STRING", CLASSES, count)
    if scores is not None:
        _check_classes(scores, "DT_FLOAT", SCORES, count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        widths = f"{classes.shape[1]} vs. {scores.shape[1]}"
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {widths}")
    result = classification_pb2.ClassificationResult()
    width = (scores if classes is None else classes).shape[1]
    for row in range(count):
        classifications = result.classifications.add()
        for column in range(width):
            added = classifications.classes.add()
            if classes is not None:
                added.label = _label(classes[row, column])
            if scores is not None:
                added.score = scores[row, column]
    return result


def _check_classes(array, dtype, alias, count):
    if array.ndim != 2:
        shape = ",".join(map(str, array.shape))
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got [{shape}]")
    if dtype_name(array) != dtype:
        raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {dtype_name(array)}")
    if len(array) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")


def _regression(outputs, count):
    """Return the RegressionResult of {alias: array} for `count` Examples."""
    values = outputs[OUTPUTS]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        shape = ",".join(map(str, values.shape))
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [{shape}]"
        )
    if len(values) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {dtype_name(values)}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel():
        result.regressions.add(value=value)
    return result


def _label(value):
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
