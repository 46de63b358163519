"""Single values in JSON requests: which ones each dtype accepts, base64, and the errors that quote them."""

from rnn_serving import lenient_base64
from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import invalid_argument, unimplemented
from rnn_serving.model_server.rapidjson_parser import members

# TensorFlow's C++ names of dtypes, where they differ from NumPy's.
TYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half", "invalid": "INVALID"}
INT32 = (-(2**31), 2**31 - 1)
# The range that each integer dtype accepts; values too large for a small dtype wrap around, as in C++.
INTEGERS = {
    **dict.fromkeys(("int8", "int16", "uint8", "int32"), INT32),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
FLOATS = ("float32", "float64")
PYTHON_TYPES = {
    **{dtype: {int} for dtype in INTEGERS},
    **{dtype: {int, float} for dtype in FLOATS},
    "bool": {bool},
    "string": {str},
}


def check(value, dtype):
    """Return a value for a dtype, with base64 decoded.

    Raises: ServingError if the dtype does not accept it.
    """
    if isinstance(value, dict) and dtype == "string":
        return decode_base64(value)
    if isinstance(value, dict):
        raise _type_error(value, dtype)
    if dtype not in PYTHON_TYPES:
        raise unimplemented(
            f"Conversion of JSON Value: {json_text.quote(value)} to type: {TYPE_NAMES.get(dtype, dtype)}"
        )
    if type(value) not in PYTHON_TYPES[dtype]:
        raise _type_error(value, dtype)
    if dtype in INTEGERS and not INTEGERS[dtype][0] <= value <= INTEGERS[dtype][1]:
        raise _type_error(value, dtype)
    return value


def is_base64(value):
    """Return whether a value is `{"b64": ...}`, the JSON form of bytes."""
    return isinstance(value, dict) and [name for name, _ in members(value)] == ["b64"] and isinstance(value["b64"], str)


def decode_base64(value):
    """Return the bytes in a `{"b64": ...}`.

    Raises: ServingError.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {json_text.quote(value)} not formatted correctly for base64 data")
    try:
        return lenient_base64.decode_base64(value["b64"])
    except ValueError as error:
        raise invalid_argument("Unable to base64 decode") from error


def type_name(value):
    """Return the name of a value's JSON type, as the C++ server writes it in errors."""
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _type_error(value, dtype):
    name = TYPE_NAMES.get(dtype, dtype)
    return invalid_argument(
        f"JSON Value: {json_text.quote(value)} Type: {type_name(value)} is not of expected type: {name}"
    )


def format_error(document, what):
    """Return the error for a document of the wrong form."""
    return invalid_argument(f"JSON Value: {json_text.quote(document)} {what}")


def signature_name(document):
    """Return the signature name in a request, "" without one.

    Raises: ServingError if it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name
