"""Turn output arrays into the results of Classify and Regress (classifier.cc, regressor.cc)."""

import numpy as np

from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.inference_signatures import CLASSES, OUTPUTS, SCORES
from rnn_serving.model_server.tensors import dtype_name

from tensorflow_serving.apis import classification_pb2, regression_pb2


def classification_result(outputs, count):
    """Return the ClassificationResult of the outputs {alias: array} for `count` Examples.

    Raises: ServingError INVALID_ARGUMENT for outputs of another shape or dtype.
    """
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    if classes is not None:
        _check_class_outputs(classes, "DT_STRING", CLASSES, count)
    if scores is not None:
        _check_class_outputs(scores, "DT_FLOAT", SCORES, count)
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


def _check_class_outputs(array, dtype, alias, count):
    if array.ndim != 2:
        shape = ",".join(map(str, array.shape))
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got [{shape}]")
    if dtype_name(array) != dtype:
        raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {dtype_name(array)}")
    if len(array) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")


def regression_result(outputs, count):
    """Return the RegressionResult of the outputs {alias: array} for `count` Examples.

    Raises: ServingError INVALID_ARGUMENT for an output of another shape or dtype.
    """
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
