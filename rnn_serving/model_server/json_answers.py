"""From tensors, classes and values to the JSON of REST answers (json_tensor.cc)."""

import base64

import numpy as np

from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.json_requests import COLUMNAR, INTEGERS, TYPE_NAMES
from rnn_serving.quiet_tensorflow import tf


def write_predictions(outputs, layout):
    """Return the body of a predict answer, {alias: array} in the layout of its request.

    Raises: ServingError.
    """
    texts = {alias: _texts(alias, array) for alias, array in outputs.items()}
    if layout == COLUMNAR:
        nested = {alias: _nested(texts[alias], array.shape) for alias, array in outputs.items()}
        return f'{{\n    "outputs": {_joined(nested)}\n}}'
    rows = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if len(array) < 1:
            raise invalid_argument(f"Tensor name: {alias} has invalid batch size: {len(array)}")
        if rows not in (None, len(array)):
            raise invalid_argument(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows = len(array)
    columns = {alias: _split(texts[alias], array.shape) for alias, array in outputs.items()}
    items = (_joined({alias: column[row] for alias, column in columns.items()}) for row in range(rows))
    return f'{{\n    "predictions": [{", ".join(items)}\n    ]\n}}'


def _joined(values):
    """Return the one value as it is, several as an object."""
    if len(values) == 1:
        return next(iter(values.values()))
    return "{" + ", ".join(f"{json_text.write_string(alias)}: {text}" for alias, text in values.items()) + "}"


def _texts(alias, array):
    """Return every element of an array as JSON."""
    flat, dtype = np.ravel(array), array.dtype
    if dtype == np.float32:
        return [json_text.write_decimal(value, np.float32, 9) for value in flat]
    if dtype == np.float64:
        return [json_text.write_decimal(value) for value in flat.tolist()]
    if dtype.kind == "O":
        values = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
        if alias.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in values]
        return [json_text.write_string(value.decode(*json_text.ENCODING)) for value in values]
    if dtype.kind == "b":
        return ["true" if value else "false" for value in flat]
    if dtype.name in INTEGERS:
        return list(map(str, flat.tolist()))
    name = tf.as_dtype(dtype).name
    raise invalid_argument(f"Failed to write JSON value for tensor type: {TYPE_NAMES.get(name, name)}")


def _split(texts, shape):
    """Return the JSON of each row of an array."""
    size = len(texts) // shape[0]
    return [_nested(texts[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def _nested(texts, shape):
    if not shape:
        return texts[0]
    for length in reversed(shape[1:]):
        texts = [_list(texts[at : at + length]) for at in range(0, len(texts), length)] if length else []
    if 0 in shape[1:]:
        inner = "[]"
        for length in reversed(shape[1 : shape.index(0, 1)]):
            inner = _list([inner] * length)
        texts = [inner] * shape[0]
    return _list(texts)


def _list(texts):
    return "[" + ", ".join(texts) + "]"


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
