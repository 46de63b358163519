"""From the JSON of REST requests to tensors and Examples (json_tensor.cc)."""

import base64
import binascii
from itertools import chain

import numpy as np

from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import ServingError, invalid_argument, unimplemented
from rnn_serving.model_server.tensors import max_rank
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

ROW, COLUMNAR = "instances", "inputs"

# TensorFlow's C++ names of types, where they are not NumPy's.
TYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}
_INT32 = (-(2**31), 2**31 - 1)
# The integers that each type takes; the small ones wrap around, as they do in C++.
INTEGERS = {
    **dict.fromkeys(("int8", "int16", "uint8", "int32"), _INT32),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_FLOATS = ("float32", "float64")
_KINDS = {
    **{dtype: {int} for dtype in INTEGERS},
    **{dtype: {int, float} for dtype in _FLOATS},
    "bool": {bool},
    "string": {str},
}


def signature_name(document):
    """Return the signature a request names, "" if it names none.

    Raises: ServingError if that is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name


def inputs(document, signature, name):
    """Return the format of a predict request, ROW or COLUMNAR, and {alias: array} of its inputs.

    Raises: ServingError.
    """
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if ROW in document and COLUMNAR in document:
        raise _format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if ROW in document:
        return ROW, _from_rows(document, signature)
    if COLUMNAR in document:
        return COLUMNAR, _from_columns(document[COLUMNAR], signature)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _from_rows(document, signature):
    rows = document[ROW]
    if not isinstance(rows, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise _format_error(document, "No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(signature.inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns = {alias: _Column(info.dtype) for alias, info in signature.inputs.items()}
    if _is_named(rows[0]):
        for index, row in enumerate(rows):
            _add_named_row(columns, row, index)
    else:
        (alias, info), *_ = signature.inputs.items()
        array = _quick_array(rows, info.dtype)
        if array is not None:
            return {alias: array}
        for index, row in enumerate(rows):
            if _is_named(row):
                raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
            _add(columns[alias], row, f"Failed to process element: {index} of 'instances' list.")
    return {alias: column.array() for alias, column in columns.items()}


def _add_named_row(columns, row, index):
    if not _is_named(row):
        raise invalid_argument(f"Expecting object but got list at item {index} of input list")
    for alias, value in row.items():
        where = f"Failed to process element: {index} key: {alias} of 'instances' list."
        if alias not in columns:
            error = invalid_argument(f"JSON object: does not have named input: {alias}")
            raise invalid_argument(f"{where} Error: {error}")
        _add(columns[alias], value, where)
    if set(row) != set(columns):
        raise invalid_argument(
            f"Failed to process element: {index} of 'instances' list. JSON object: {json_text.write(row)} "
            f"keys must be equal to: {','.join(sorted(columns))}"
        )


def _add(column, value, where):
    try:
        column.add(value)
    except ServingError as error:
        raise invalid_argument(f"{where} Error: {error}") from error


def _from_columns(value, signature):
    if not isinstance(value, dict) or _is_base64(value):
        if len(signature.inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((alias, info),) = signature.inputs.items()
        return {alias: _array(value, info.dtype)}
    for alias in signature.inputs:
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: _array(value[alias], info.dtype) for alias, info in signature.inputs.items()}


class _Column:
    """One input of a request in rows: every row has the same shape."""

    def __init__(self, dtype):
        self.dtype, self.shape, self.flat, self.rows = dtype, None, [], 0

    def add(self, value):
        """Append a row's value.

        Raises: ServingError.
        """
        flat, shape = _flat(value, self.dtype)
        if self.shape is None:
            self.shape, self.size = shape, len(flat)
        elif len(flat) != self.size:
            raise invalid_argument(f"Expecting tensor size: {self.size} but got: {len(flat)}")
        elif shape != self.shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.shape)} but got: {_shape_text(shape)}")
        self.flat += flat
        self.rows += 1

    def array(self):
        return _to_array(self.flat, self.dtype).reshape(self.rows, *self.shape)


def _array(value, dtype):
    """Return a value, or nested lists of them, as an array of the signature's type."""
    array = _quick_array(value, dtype) if isinstance(value, list) else None
    if array is None:
        flat, shape = _flat(value, dtype)
        array = _to_array(flat, dtype).reshape(shape)
    return array


def _quick_array(rows, dtype):
    """Return nested lists of equal lengths and plain values as an array, None where a closer look is needed."""
    flat, shape = rows, (len(rows),)
    while flat and type(flat[0]) is list:
        length = len(flat[0])
        if not all(type(row) is list and len(row) == length for row in flat):
            return None
        flat, shape = list(chain.from_iterable(flat)), (*shape, length)
        _check_rank(shape, dtype, outer=0)
    if not set(map(type, flat)) <= _KINDS.get(dtype, set()) or not flat:
        return None
    if dtype in INTEGERS and not (INTEGERS[dtype][0] <= min(flat) and max(flat) <= INTEGERS[dtype][1]):
        return None
    return _to_array(flat, dtype).reshape(shape)


def _to_array(flat, dtype):
    if dtype == "string":
        encoded = [value if isinstance(value, bytes) else value.encode(*json_text.ENCODING) for value in flat]
        return np.array([*encoded, None], object)[:-1]
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(dtype)
    if dtype in INTEGERS and INTEGERS[dtype] == _INT32:
        return np.array(flat, np.int32).astype(dtype)
    # A type that JSON has no values for gets here only without any.
    return np.array(flat, tf.as_dtype(dtype).as_numpy_dtype)


def _flat(value, dtype):
    """Return the values in nested lists as a flat list, and their shape, judged as C++ does it.

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
    """Raise INVALID_ARGUMENT for more dimensions than NumPy has; `outer` come from the list of rows."""
    limit = max_rank(dtype == "string") - outer
    if len(shape) > limit:
        raise invalid_argument(f"Encountered lists nested {len(shape)} deep, expected at most {limit}")


def _fill(value, level, shape, dtype, flat):
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {json_text.write(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_checked(value, dtype))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for inner in value:
        _fill(inner, level + 1, shape, dtype, flat)


def _checked(value, dtype):
    """Return one value if the type takes it.

    Raises: ServingError.
    """
    if isinstance(value, dict) and dtype == "string":
        return _from_base64(value)
    if isinstance(value, dict):
        raise _type_error(value, dtype)
    if dtype not in _KINDS:
        raise unimplemented(
            f"Conversion of JSON Value: {json_text.write(value)} to type: {TYPE_NAMES.get(dtype, dtype)}"
        )
    if type(value) not in _KINDS[dtype]:
        raise _type_error(value, dtype)
    if dtype in INTEGERS and not INTEGERS[dtype][0] <= value <= INTEGERS[dtype][1]:
        raise _type_error(value, dtype)
    return value


def _is_base64(value):
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _is_named(row):
    """Return whether a row is an object of named values; {"b64": ...} is a value."""
    return isinstance(row, dict) and not _is_base64(row)


def _from_base64(value):
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {json_text.write(value)} not formatted correctly for base64 data")
    text = value["b64"].encode(*json_text.ENCODING)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise invalid_argument("Unable to base64 decode") from error


def _json_type(value):
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _type_error(value, dtype):
    name = TYPE_NAMES.get(dtype, dtype)
    return invalid_argument(
        f"JSON Value: {json_text.write(value)} Type: {_json_type(value)} is not of expected type: {name}"
    )


def _format_error(document, what):
    return invalid_argument(f"JSON Value: {json_text.write(document)} {what}")


def _shape_text(shape):
    return f"[{','.join(map(str, shape))}]"


def examples(document):
    """Return the `Input` of a classify or regress request: its examples, and their context if there is one.

    Raises: ServingError.
    """
    made = input_pb2.Input()
    has_context = "context" in document
    if has_context:
        _fill_example(made.example_list_with_context.context, document["context"])
    if "examples" not in document:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    rows = document["examples"]
    if not isinstance(rows, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not rows:
        raise _format_error(document, "'examples' value is an empty array")
    target = made.example_list_with_context.examples if has_context else made.example_list.examples
    for row in rows:
        _fill_example(target.add(), row)
    return made


def _utf8(text):
    """Return a string as protobuf takes it, which unlike JSON's is UTF-8."""
    return text.encode(*json_text.ENCODING).decode("utf-8", "replace")


def _fill_example(example, value):
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_json_type(value)}")
    for name, content in value.items():
        feature = example.features.feature[_utf8(name)]
        for element in content if isinstance(content, list) else [content]:
            _add_to_feature(feature, name, element)


_FEATURE_LISTS = {bool: "int64_list", int: "int64_list", float: "float_list", str: "bytes_list", bytes: "bytes_list"}


def _add_to_feature(feature, name, element):
    if element is None or isinstance(element, list) or (isinstance(element, dict) and not _is_base64(element)):
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {_json_type(element)}")
    if isinstance(element, dict):
        element = _from_base64(element)
    wanted, found = _FEATURE_LISTS[type(element)], feature.WhichOneof("kind")
    if found not in (None, wanted):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {found.removesuffix('_list')}"
        )
    if isinstance(element, str):
        element = element.encode(*json_text.ENCODING)
    if wanted == "int64_list":
        element = int(element)
        if element > INTEGERS["int64"][1]:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    if wanted == "float_list":
        with np.errstate(over="ignore"):
            element = np.float32(element)
    getattr(feature, wanted).value.append(element)


def classification_request(document):
    """Return the ClassificationRequest of a document, without a model."""
    name = _utf8(signature_name(document))
    return classification_pb2.ClassificationRequest(model_spec={"signature_name": name}, input=examples(document))


def regression_request(document):
    """Return the RegressionRequest of a document, without a model."""
    name = _utf8(signature_name(document))
    return regression_pb2.RegressionRequest(model_spec={"signature_name": name}, input=examples(document))
