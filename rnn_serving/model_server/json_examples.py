"""The Examples of classify and regress requests (json_tensor.cc)."""

import numpy as np

from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.json_values import (
    INTEGERS,
    decode_base64,
    format_error,
    is_base64,
    signature_name,
    type_name,
)
from rnn_serving.model_server.rapidjson_parser import members

from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

_FEATURE_LISTS = {bool: "int64_list", int: "int64_list", float: "float_list", str: "bytes_list", bytes: "bytes_list"}


def classification_request(document):
    """Return the ClassificationRequest in a document; its ModelSpec has only the signature.

    Raises: ServingError.
    """
    name = _utf8(signature_name(document))
    return classification_pb2.ClassificationRequest(model_spec={"signature_name": name}, input=_parse_input(document))


def regression_request(document):
    """Return the RegressionRequest in a document; its ModelSpec has only the signature.

    Raises: ServingError.
    """
    name = _utf8(signature_name(document))
    return regression_pb2.RegressionRequest(model_spec={"signature_name": name}, input=_parse_input(document))


def _parse_input(document):
    """Return the Input in a document: its examples, and their context if it has one.

    Raises: ServingError.
    """
    request_input = input_pb2.Input()
    has_context = "context" in document
    if has_context:
        _fill_example(request_input.example_list_with_context.context, document["context"])
    if "examples" not in document:
        raise format_error(document, "When method is classify, key 'examples' is expected and was not found")
    rows = document["examples"]
    if not isinstance(rows, list):
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not rows:
        raise format_error(document, "'examples' value is an empty array")
    target = request_input.example_list_with_context.examples if has_context else request_input.example_list.examples
    for row in rows:
        _fill_example(target.add(), row)
    return request_input


def _utf8(text):
    """Return a string with U+FFFD for bytes other than UTF-8, which protobuf strings do not hold."""
    return text.encode(*json_text.ENCODING).decode("utf-8", "replace")


def _fill_example(example, value):
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    for name, content in members(value):
        feature = example.features.feature[_utf8(name)]
        feature.Clear()  # of a repeated name, the last one counts here
        for element in content if isinstance(content, list) else [content]:
            _add_to_feature(feature, name, element)


def _add_to_feature(feature, name, element):
    if element is None or isinstance(element, list) or (isinstance(element, dict) and not is_base64(element)):
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(element)}")
    if isinstance(element, dict):
        element = decode_base64(element)
    list_name, current = _FEATURE_LISTS[type(element)], feature.WhichOneof("kind")
    if current not in (None, list_name):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {current.removesuffix('_list')}"
        )
    if isinstance(element, str):
        element = element.encode(*json_text.ENCODING)
    if list_name == "int64_list":
        element = int(element)
        if element > INTEGERS["int64"][1]:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    if list_name == "float_list":
        with np.errstate(over="ignore"):
            element = np.float32(element)
    getattr(feature, list_name).value.append(element)
