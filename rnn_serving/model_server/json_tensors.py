"""Turn nested lists in JSON requests into arrays (json_tensor.cc)."""

from itertools import chain

import numpy as np

from rnn_serving.array_batches import object_array
from rnn_serving.model_server import json_text, json_values
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.json_values import FLOATS, INT32, INTEGERS, PYTHON_TYPES
from rnn_serving.model_server.tensors import max_rank
from rnn_serving.quiet_tensorflow import tf


def array_of(value, dtype):
    """Return a value, or nested lists of values, as an array of the signature's dtype.

    Raises: ServingError.
    """
    array = array_of_plain_values(value, dtype) if isinstance(value, list) else None
    if array is None:
        flat, shape = flatten(value, dtype)
        array = to_array(flat, dtype).reshape(shape)
    return array


def array_of_plain_values(rows, dtype):
    """Return nested lists of equal length and plain values as an array, None for anything else.

    This is the fast path: a few passes over whole lists instead of a check of every value.
    """
    flat, shape = rows, (len(rows),)
    while flat and type(flat[0]) is list:
        length = len(flat[0])
        if not all(type(row) is list and len(row) == length for row in flat):
            return None
        flat, shape = list(chain.from_iterable(flat)), (*shape, length)
        _check_rank(shape, dtype, outer=0)
    if not set(map(type, flat)) <= PYTHON_TYPES.get(dtype, set()) or not flat:
        return None
    if dtype in INTEGERS and not (INTEGERS[dtype][0] <= min(flat) and max(flat) <= INTEGERS[dtype][1]):
        return None
    return to_array(flat, dtype).reshape(shape)


def to_array(flat, dtype):
    """Return a flat list of checked values as an array."""
    if dtype == "string":
        encoded = [value if isinstance(value, bytes) else value.encode(*json_text.ENCODING) for value in flat]
        return object_array(encoded)
    if dtype in FLOATS:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(dtype)
    if dtype in INTEGERS and INTEGERS[dtype] == INT32:
        return np.array(flat, np.int32).astype(dtype)
    # A dtype without JSON values gets here only with an empty list.
    return np.array(flat, object if dtype == "invalid" else tf.as_dtype(dtype).as_numpy_dtype)


def flatten(value, dtype):
    """Return (flat list, shape) of nested lists, after the checks of the C++ server.

    Raises: ServingError.
    """
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    _check_rank(shape, dtype)
    flat = []
    _fill(value, 0, tuple(shape), dtype, flat)
    return flat, tuple(shape)


def _check_rank(shape, dtype, outer=1):
    """Raise INVALID_ARGUMENT for a rank above NumPy's limit; a list of rows adds `outer` dimensions."""
    limit = max_rank(dtype == "string") - outer
    if len(shape) > limit:
        raise invalid_argument(f"Encountered lists nested {len(shape)} deep, expected at most {limit}")


def _fill(value, level, shape, dtype, flat):
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {json_text.quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(json_values.check(value, dtype))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for inner in value:
        _fill(inner, level + 1, shape, dtype, flat)
