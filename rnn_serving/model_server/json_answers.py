"""Write the bodies of REST answers: predictions, classes and values as JSON (json_tensor.cc)."""

import base64
import math

import numpy as np

from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.json_predict_inputs import COLUMNAR
from rnn_serving.model_server.json_values import INTEGERS, TYPE_NAMES
from rnn_serving.model_server.tensors import tf_dtype


def write_predictions(outputs, layout):
    """Return the body of a predict answer: the outputs {alias: array}, in the layout of the request.

    Raises: ServingError.
    """
    if layout == COLUMNAR:
        return f'{{\n    "outputs": {_write_columns(outputs)}\n}}'
    return f'{{\n    "predictions": {_write_rows(outputs)}\n}}'


def _write_columns(outputs):
    """Return one output as a value, several as an object; each element is on a line of its own."""
    depth = 1 if len(outputs) == 1 else 2
    return _value_or_object(
        {alias: _nested(_element_texts(alias, array, depth), array.shape, depth) for alias, array in outputs.items()}, 1
    )


def _write_rows(outputs):
    """Return the list of rows; each is the value of one output, or the object of several."""
    count = _row_count(outputs)
    depth = 2 if len(outputs) == 1 else 3
    columns = {alias: _row_texts(alias, array, depth) for alias, array in outputs.items()}
    rows = [_value_or_object({alias: texts[row] for alias, texts in columns.items()}, 2) for row in range(count)]
    if not rows:
        return "[]"
    if len(outputs) > 1:
        return _list(rows, 1)
    return f"[{', '.join(rows)}\n    ]"


def _row_count(outputs):
    """Return the number of rows, the same in every output.

    Raises: ServingError.
    """
    count = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if count not in (None, len(array)):
            raise invalid_argument(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {count}")
        count = len(array)
    return count


def _value_or_object(values, depth):
    """Return a single value as it is, several as an object."""
    if len(values) == 1:
        return next(iter(values.values()))
    inner = _line(depth + 1)
    members = (f"{inner}{json_text.write_string(alias)}: {text}" for alias, text in values.items())
    return f"{{{','.join(members)}{_line(depth)}}}"


def _element_texts(alias, array, depth):
    """Return the JSON of every element of an array at a depth, as a flat list."""
    flat, dtype = np.ravel(array), array.dtype
    if dtype in (np.float32, np.float64):
        return json_text.write_decimals(flat)
    if dtype.kind == "O":
        values = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
        if alias.endswith("_bytes"):
            before, after = f'{{{_line(depth + array.ndim + 1)}"b64": "', f'"{_line(depth + array.ndim)}}}'
            return [before + base64.b64encode(value).decode() + after for value in values]
        return [json_text.write_string(value.decode(*json_text.ENCODING)) for value in values]
    if dtype.kind == "b":
        return ["true" if value else "false" for value in flat]
    if dtype.name in INTEGERS:
        return list(map(str, flat.tolist()))
    name = tf_dtype(array).name
    raise invalid_argument(f"Failed to write JSON value for tensor type: {TYPE_NAMES.get(name, name)}")


def _row_texts(alias, array, depth):
    """Return the JSON of each row of an array, on one line apart from the objects of bytes."""
    shape, size = array.shape[1:], math.prod(array.shape[1:])
    texts = _element_texts(alias, array, depth - 1)
    return [_nested(texts[at * size : (at + 1) * size], shape, None) for at in range(len(array))]


def _nested(texts, shape, depth):
    """Return the JSON of a value, on one line if `depth` is None."""
    for axis in reversed(range(len(shape))):
        length, count = shape[axis], math.prod(shape[:axis])
        at_depth = None if depth is None else depth + axis
        texts = [_list(texts[at * length : (at + 1) * length], at_depth) for at in range(count)]
    return texts[0]


def _list(texts, depth=None):
    """Return a list, on one line if `depth` is None, else with an element on each."""
    if depth is None or not texts:
        return "[" + ", ".join(texts) + "]"
    inner = _line(depth + 1)
    return f"[{inner}{(',' + inner).join(texts)}{_line(depth)}]"


def _line(depth):
    """Return the beginning of a line at a depth."""
    return "\n" + "    " * depth


def write_classifications(result):
    """Return the body of a classify answer, a ClassificationResult."""
    rows = (
        _list([_list([json_text.write_string(each.label), _score(each.score)]) for each in row.classes])
        for row in result.classifications
    )
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'


def write_regressions(result):
    """Return the body of a regress answer, a RegressionResult."""
    return f'{{\n    "results": {_list([_score(each.value) for each in result.regressions])}\n}}'


def _score(value):
    return json_text.write_decimal(np.float32(value), np.float32, 9)
